"""The command `gan`: every command of the pipeline under one name."""

import importlib
import sys

COMMANDS = {
    "params": ("pipeline.params.__main__", "show and change params.yaml"),
    "check": ("pipeline.check", "check params.yaml, and with --files all outputs"),
    "models": ("pipeline.models.__main__", "layers, shapes and parameters of a recipe's networks"),
    "warm-start": ("pipeline.gan.warm_start", "keep the networks of a run for recipes to start from"),
    "search": ("pipeline.search.__main__", "tune a recipe with Optuna"),
    "metrics": ("pipeline.evaluate.cli", "compare two sets of images: FID and more"),
    "doctor": ("pipeline.evaluate.doctor", "check this installation, or explain a number"),
    "tracking": ("pipeline.tracking.__main__", "send to MLflow what it has not received"),
}


def main(arguments: list[str] | None = None) -> None:
    """Hand the arguments after the first to the command that the first one names.

    Each command has one parser, which `python -m pipeline.<command>` uses too.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        lines = [f"  {command:<12} {text}" for command, (_, text) in COMMANDS.items()]
        print("\n".join(["usage: gan COMMAND ...", "", *lines, "", "gan COMMAND --help says more"]))
        return
    if name not in COMMANDS:
        from pipeline.core.errors import printable, suggest

        print(f"error: {printable(name)}: no such command; {suggest(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(COMMANDS[name][0])
    module.main(arguments[1:], prog=f"gan {name}")


if __name__ == "__main__":
    main()
