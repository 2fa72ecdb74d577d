"""What do checkpoints, checks and tracking cost? Training with all of them beside the bare loop, in one run.

    python -m benchmarks.safety_cost [--rounds 5] [--steps 500]

The digits must be prepared (`make run`). The same steps of the recipe dcgan, in turns, so that a drift of the machine
meets all alike:

    bare          the training loop alone: no checkpoint, no check of values, no tracking
    checkpoints   as the train stage does it, with checkpoints and checks as in params.yaml, without tracking
    tracking      the same, and MLflow in a local sqlite file
    dead server   the same, and nobody listens at MLflow's address
    slow server   the same, and MLflow's server takes 5 s for every answer

Grids and distances are left out of all: they are results, not safety. It prints the median seconds of each, and the
median over rounds of the ratio to the bare loop.
"""

import argparse
import contextlib
import http.server
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline import layout
from pipeline.data import load_description, load_images
from pipeline.devices import choose_device, make_deterministic
from pipeline.errors import exit_cleanly
from pipeline.experiment import Experiment
from pipeline.losses import LOSSES
from pipeline.observer import Observer
from pipeline.params import load
from pipeline.trainer import train_experiment
from pipeline.training import TrainState, create_state, train

MODEL = "dcgan"
VARIANTS = ("bare", "checkpoints", "tracking", "dead server", "slow server")


class Blind(Observer):
    """Logs losses, and measures nothing."""

    def draw(self, state: TrainState) -> tuple[float, str]:
        return 1.0, ""

    def score(self, state: TrainState) -> float:
        return 1.0


def seconds(variant: str, steps: int, slow: str, folder: Path) -> float:
    """The wall time of training, `variant` being one of `VARIANTS`, with files in a fresh `folder`."""
    values = load().override({"train.steps": steps, "runtime.tracking": variant not in ("bare", "checkpoints")})
    experiment = Experiment(values, MODEL, 0, load_description(layout.PREPARED))
    device = choose_device(values.runtime.device)
    images = load_images(layout.PREPARED.resolve(), "train", device)
    servers = {"tracking": f"sqlite:///{folder / 'mlflow.db'}", "dead server": _closed_port(), "slow server": slow}
    os.environ["MLFLOW_TRACKING_URI"] = servers.get(variant, "")
    os.environ["DVC_ROOT"] = str(folder)  # where checkpoints and the spool go
    started = time.perf_counter()
    if variant == "bare":
        shape = experiment.image_shape
        state = create_state(experiment.recipe, values.train, shape, experiment.n_classes, 0, device)
        for _ in train(state, images, LOSSES[experiment.recipe.loss], experiment.recipe, values.train):
            pass
        return time.perf_counter() - started
    tracker = experiment.open_tracker()
    observer = Blind(experiment, None, None, tracker, folder / "grids")  # type: ignore[arg-type]
    observer.extractor = _Named()  # type: ignore[assignment]
    train_experiment(experiment, images, observer)
    took = time.perf_counter() - started
    tracker.close("KILLED")  # at most 15 s, once a run
    return took


class _Named:
    metric = "distance"


@contextlib.contextmanager
def slow_server(delay: float = 5.0) -> Iterator[str]:
    """The address of a server that answers everything with an empty object, after `delay` seconds."""

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay)
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def _closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safety_cost", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args(arguments)
    make_deterministic()
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with slow_server() as slow:
        for number in range(options.rounds + 1):  # the first one warms up
            for variant in VARIANTS[number % 5 :] + VARIANTS[: number % 5]:
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                    took = seconds(variant, options.steps, slow, Path(folder))
                if number:
                    found[variant].append(took)
    print(f"\n{MODEL}, {options.steps} steps, {options.rounds} rounds\n")
    for variant, times in found.items():
        ratio = statistics.median(own / bare for own, bare in zip(times, found["bare"], strict=True))
        print(f"{variant:<14}{statistics.median(times):8.2f} s  {ratio:6.3f}")


if __name__ == "__main__":
    exit_cleanly(main)()
