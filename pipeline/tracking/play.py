"""Play with trained generators in a browser, on this machine alone: `gan play sagan-0 dcgan-0`.

Samples by seed, a walk between the latents of two seeds, and one class or all for generators that know classes; several
generators are side by side on the same latents. The page is made by gradio, an extra:

    python -m pip install 'gradio>=6,<7'
"""

import argparse
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image

from pipeline.core import paths
from pipeline.core.errors import PipelineError, exit_cleanly, log_line
from pipeline.data.prepared import load_description
from pipeline.tracking.addresses import HOST
from pipeline.tracking.playground import Player, between, figures, load_players, samples, shared_latents, walks
from pipeline.tracking.serve import CHECKPOINTS, trained_run
from pipeline.tracking.ui import port_number, require_free

GRADIO = "gradio>=6,<7"  # as in pyproject.toml
MOST_PLAYERS = 8
LARGEST_SEED = 2**31 - 1
EACH_CLASS = "each in a row of its own"
# The browser then asks nobody but this server, whatever gradio's page holds.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.tracking.play") -> None:
    first, rest = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog=prog, description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="run", help="a folder of runs/, such as sagan-0")
    parser.add_argument("--port", type=port_number, default=7860, help="the port to listen on (7860)")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="final", help="which generators to show (final)")
    options = parser.parse_args(arguments)
    names, checkpoint = list(dict.fromkeys(options.runs)), CHECKPOINTS[options.checkpoint]
    if len(names) > MOST_PLAYERS:
        raise PipelineError(f"{len(names)} generators are too many side by side: name at most {MOST_PLAYERS}")
    folders = [trained_run(name, checkpoint) for name in names]
    require_free(options.port)
    _require_gradio()
    description = load_description(paths.PREPARED)
    players = load_players(folders, checkpoint, description["class_counts"])
    log_line(f"http://{HOST}:{options.port}, Ctrl-C ends it")
    serve(page(players, description["classes"]), options.port)


def _require_gradio() -> None:
    """Import gradio with its usage reports switched off.

    Raises:
        PipelineError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise PipelineError(f"{error.name} is not installed: run `python -m pip install '{GRADIO}'`") from None


def page(players: Sequence[Player], classes: Sequence[str]) -> Any:
    """The page, a `gradio.Blocks`: a seed and a class above two tabs, each with a picture of every generator."""
    import gradio as gr

    def seed_field(label: str, value: int) -> Any:
        return gr.Number(value, label=label, precision=0)

    choices = [(EACH_CLASS, -1), *((f"{number}: {name}"[:60], number) for number, name in enumerate(classes))]
    with gr.Blocks(title="gan play " + " ".join(player.name for player in players), analytics_enabled=False) as made:
        gr.Markdown(shared_latents(players))
        with gr.Row(equal_height=True):
            seed = seed_field("Seed of the latents", 0)
            label = gr.Dropdown(choices, value=-1, label="Class", visible=any(player.conditional for player in players))
            another = gr.Button("Another seed", scale=0)
        with gr.Tab("Samples"):
            of_seed = gr.HTML()
        with gr.Tab("Latent walk"):
            with gr.Row():
                last = seed_field("Walk to the latents of seed", 1)
                place = gr.Slider(0, 1, 0.5, step=0.01, label="How far on the way")
            on_the_way = gr.HTML()
            gr.Markdown("The whole walk of the first latents, one a row:")
            whole = gr.HTML()

        def follow(shown: Any, draw: Callable[..., list[Image]], *fields: Any) -> None:
            """Draw anew when a field changes; of changes while something is drawn, the last counts."""
            gr.on(
                [made.load, *(field.change for field in fields)],
                lambda *values: figures(players, draw(players, *_meant(values))),
                list(fields), shown, trigger_mode="always_last", show_progress="hidden", api_visibility="private",
            )  # fmt: skip

        follow(of_seed, samples, seed, label)
        follow(on_the_way, between, seed, last, place, label)
        follow(whole, walks, seed, last, label)
        another.click(lambda: random.randint(0, LARGEST_SEED), None, seed, api_visibility="private")
    return made


def _meant(values: Sequence[float | None]) -> list[float | None]:
    """The values of fields, the last of which is a class: an empty one counts as 0, and class -1 becomes None, all."""
    import gradio as gr

    *numbers, label = (value or 0 for value in values)
    if not all(0 <= number <= LARGEST_SEED for number in numbers):
        raise gr.Error(f"A seed is a number from 0 to {LARGEST_SEED}.", print_exception=False)
    return [*numbers, None if label == -1 else label]


def serve(made: Any, port: int) -> None:
    """Serve a page on this machine until Ctrl-C. It answers to no other name, so no other site can reach it."""
    import fastapi
    import gradio as gr
    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app.add_middleware(_Policy)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gr.mount_gradio_app(
        app, made, "/", server_name=HOST, server_port=port, footer_links=[], run_history=False, ssr_mode=False,
        theme=theme, max_file_size=1, enable_monitoring=False,
    )  # fmt: skip
    uvicorn.run(app, host=HOST, port=port, log_level="warning")


class _Policy:
    """Adds `POLICY` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, sent)


if __name__ == "__main__":
    main()
