"""Serve a generator on this machine by MLflow's model server: `gan serve sagan-0`.

    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\
        -d '{"inputs": [{"seed": 0, "count": 4, "label": 3}]}'

The answer has PNG files in base64, `predictions[request][sample]`: the samples that the stage generate draws for that
seed. seed (0), count (1) and label (null) may be left out; only a conditional generator takes a label.
"""

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from pipeline.core import paths
from pipeline.core.checksums import verify_checksums
from pipeline.core.errors import PipelineError, exit_cleanly, log_line, printable, suggest
from pipeline.core.files import read_json, write_json
from pipeline.data.prepared import load_description
from pipeline.tracking.addresses import HOST
from pipeline.tracking.mlflow_model import kept_weights
from pipeline.tracking.ui import port_number, require_free

CHECKPOINTS = {"final": "generator", "best": "best"}  # as options, and the names of their files
CODE = Path(__file__).with_name("served.py")  # of the model: MLflow keeps a copy


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.tracking.serve") -> None:
    first, rest = (__doc__ or "").split(": `gan", 1)
    parser = argparse.ArgumentParser(
        prog=prog, description=first, epilog="`gan" + rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a folder of runs/, such as sagan-0")
    parser.add_argument("--port", type=port_number, default=5001, help="the port to listen on (5001)")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="final", help="which generator to serve (final)")
    options = parser.parse_args(arguments)
    folder = trained_run(options.run, CHECKPOINTS[options.checkpoint])
    require_free(options.port)
    model = write_model(folder, CHECKPOINTS[options.checkpoint])
    log_line(f"http://{HOST}:{options.port}/invocations answers soon, Ctrl-C ends it; {prog} --help says what to ask")
    server = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model), "--env-manager", "local"]
    variables = {**os.environ, "PYTHONPATH": str(CODE.parents[2])}
    os.execve(sys.executable, [*server, "--host", HOST, "--port", str(options.port), "--workers", "1"], variables)


def write_model(folder: Path, checkpoint: str) -> Path:
    """A model of MLflow that draws samples of the generator in `folder`; returns its own folder, in .work/.

    Raises:
        PipelineError: its files are damaged, or it was trained on other data's classes.
    """
    from pipeline.tracking.playground import load_players

    recipe, counts = read_json(folder / "generator.json")["recipe"], load_description(paths.PREPARED)["class_counts"]
    load_players([folder], checkpoint, counts)  # what the server could not load is told before it starts
    import mlflow.pyfunc

    model = paths.work_folder(folder.name, "serve")
    if model.exists():
        shutil.rmtree(model)
    model.mkdir(parents=True)
    chosen = {
        "folder": str(folder.absolute()),
        "checkpoint": checkpoint,
        "weights": kept_weights(recipe),
        "class_counts": counts,
    }
    write_json(model / "chosen.json", chosen)
    mlflow.pyfunc.save_model(
        model / "model", python_model=str(CODE), artifacts={"chosen": str(model / "chosen.json")},
        pip_requirements=[],
    )  # fmt: skip
    return model / "model"


def trained_run(name: str, checkpoint: str) -> Path:
    """The folder of runs/ with this name, which holds a trained generator.

    Raises:
        PipelineError: there is none, or a file of it is missing or damaged.
    """
    there = sorted(path.parent.name for path in paths.RUNS.glob("*/generator.json"))
    if name not in there or not re.fullmatch(r"[a-z0-9_]+-\d+", name):
        known = suggest(name, there) if there else "there are none: run `make run`"
        raise PipelineError(f"{printable(name)}: no such trained generator; {known}")
    verify_checksums(paths.RUNS / name, "generator.json", f"{checkpoint}.safetensors")
    return paths.RUNS / name


if __name__ == "__main__":
    main()
