"""The trainings of a comparison one after the other on all cores, and side by side on their share of them.

    python -m benchmarks.parallel_runs [--jobs 2] [--steps 300] [--rounds 2] [--models dcgan,resnet]

In a temporary clone of this repository, on digits. Timed are processes from start to end, as `make run` starts them,
prepared data and reference apart. The ways take turns, round after round; a figure is the median of the rounds. Then
each leg is trained alone with as many threads as it had beside others: its files must be the same.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import params

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, *command: str, threads: int | None = None) -> None:
    """`python -m command...` in the clone, with so many threads, None = as many as PyTorch chooses."""
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    variables |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")


def forget(folder: Path) -> None:
    """Remove what was trained."""
    for name in (".work", "runs"):
        shutil.rmtree(folder / name, ignore_errors=True)


def sums(folder: Path, legs: list[str]) -> dict[str, str]:
    """The checksums of what each leg made."""
    return {leg: (folder / "runs" / leg / "SHA256SUMS").read_text() for leg in legs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("jobs", 2), ("steps", 300), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--models", default="dcgan,resnet")
    options = parser.parse_args()
    models = options.models.split(",")
    legs, cores = [f"{model}-0" for model in models], os.cpu_count() or 1
    changes = {
        "train.steps": options.steps, "train.score_every": options.steps, "train.grid_every": options.steps,
        "compare.models": models, "runtime.tracking": False, "runtime.log_model": False, "runtime.device": "cpu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "clone"
        subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
        params.save(changes, folder / "params.yaml")
        run(folder, "dvc", "repro", "reference")

        def one_by_one(threads: int | None) -> None:
            for model in models:
                run(folder, "pipeline.stages.train", "--model", model, "--seed", "0", threads=threads)

        ways: dict[str, Callable[[], None]] = {
            f"one after the other, {cores} threads": lambda: one_by_one(None),
            f"{options.jobs} side by side": lambda: run(folder, "pipeline.jobs", f"--jobs={options.jobs}"),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, train in ways.items():
                forget(folder)
                started = time.perf_counter()
                train()
                seconds[way].append(time.perf_counter() - started)
        beside = sums(folder, legs)
        forget(folder)
        one_by_one(max(1, cores // options.jobs))
        same = sums(folder, legs) == beside
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    print(f"{', '.join(legs)}: {options.steps} steps each\n\n| trainings | seconds |\n|---|---|")
    for way, median in medians.items():
        print(f"| {way} | {median:.0f} |")
    first, second = medians.values()
    print(f"\nside by side takes {second / first:.2f} of the time; files of each leg alone at as many threads: "
          f"{'the same' if same else 'NOT the same'}")  # fmt: skip


if __name__ == "__main__":
    main()
