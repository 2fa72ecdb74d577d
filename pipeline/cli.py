"""The command `gan`: every command of the pipeline under one name. `python -m pipeline.cli` is the same.

`gan metrics A B` and `python -m pipeline.metrics A B` are one parser and one function.
"""

import importlib
import sys

from pipeline.core.errors import PipelineError, exit_cleanly, printable, suggest

# Each name with the module that has its main(arguments, prog), and what `gan --help` says of it.
COMMANDS: dict[str, tuple[str, str]] = {
    "metrics": ("pipeline.evaluate.cli", "compare any two sets of images: FID and more"),
    "doctor": ("pipeline.evaluate.doctor", "check this installation, or explain a number"),
    "params": ("pipeline.params.__main__", "show and change params.yaml"),
    "check": ("pipeline.check", "say what is wrong with params.yaml, or with any output"),
    "models": ("pipeline.models.__main__", "layers, shapes and parameters of a recipe's networks"),
    "jobs": ("pipeline.jobs.__main__", "train the comparison's experiments side by side, ahead of dvc repro"),
    "search": ("pipeline.search.__main__", "tune a recipe"),
    "warm-start": ("pipeline.gan.warm_start", "keep the networks of a run, so that recipes can start from them"),
    "tracking": ("pipeline.tracking.__main__", "send to MLflow what it has not received"),
    "report": ("pipeline.report.__main__", "show the newest report in a browser"),
    "serve": ("pipeline.tracking.serve", "serve a trained generator on this machine"),
    "play": ("pipeline.tracking.play", "play with trained generators in a browser: samples, latent walks, classes"),
    "ui": ("pipeline.tracking.ui", "show MLflow's pages in a browser"),
}


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Give the arguments after the first one to the command that it names."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage())
        return
    if name not in COMMANDS:
        raise PipelineError(f"{printable(name)}: no such command; {suggest(name, COMMANDS)}")
    command = importlib.import_module(COMMANDS[name][0])
    command.main(arguments[1:], prog=f"gan {name}")


def _usage() -> str:
    lines = [f"  {name:<11} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: gan COMMAND ...", "", *lines, "", "gan COMMAND --help says more."])


if __name__ == "__main__":
    main()
