"""What do checkpoints, checks and tracking cost? Training with all of them beside the bare loop, in one run.

    python -m benchmarks.safety_cost [--rounds 6] [--steps 500]

The digits must be prepared (`make run`). The same steps of the recipe dcgan, on the CPU:

    bare          the training loop alone: no checkpoint, no check of values, no tracking
    checkpoints   as the train stage does it, with checkpoints and checks as in params.yaml, without tracking
    tracking      the same, and MLflow in a local sqlite file
    dead server   the same, and nobody listens at MLflow's address
    slow server   the same, and MLflow's server takes 5 s for every answer

Each of them is a fresh process that runs at the same time as a bare one: what disturbs the machine meets both. Each has
one core and one thread, so that all that tracking does in the background is taken from training, the import of MLflow
too; the next round swaps the cores. Grids and distances are not drawn, since they are results, not safety, but MLflow
is sent a picture wherever a grid is due. It prints the seconds of each, and their ratio to those of the bare loop
beside it: the geometric mean of the rounds, its standard error, and the smallest and largest.
"""

import argparse
import contextlib
import http.server
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pipeline.core import paths
from pipeline.core.devices import choose_device, make_deterministic
from pipeline.core.errors import PipelineError, exit_cleanly
from pipeline.core.files import sha256
from pipeline.core.progress import progress as progress_bar
from pipeline.data.prepared import load_description, load_images
from pipeline.experiment import Experiment
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import TrainState, create_state, train
from pipeline.params import load
from pipeline.tracking.mlflow_client import open_client
from pipeline.training.monitor import TrainingMonitor
from pipeline.training.trainer import train_experiment

MODEL = "dcgan"
DELAY = 5.0  # seconds until the slow server answers
VARIANTS = ("bare", "checkpoints", "tracking", "dead server", "slow server")  # bare beside bare: the noise


class Blind(TrainingMonitor):
    """Logs losses and a ready-made picture, and measures nothing."""

    def draw(self, state: TrainState) -> tuple[float, str]:
        self.tracker.image("samples", self.grids, state.step)
        return 1.0, sha256(self.grids)

    def score(self, state: TrainState) -> float:
        return 1.0


class _Named:
    metric = "distance"


def seconds(variant: str, steps: int, folder: Path) -> float:
    """The wall time of training, `variant` being one of `VARIANTS`, with files in a fresh `folder`.

    Another process beside this one is to start together with it: it says "ready", and waits for a line.
    """
    changes = {"train.steps": steps, "runtime.device": "cpu", "runtime.tracking": variant not in VARIANTS[:2]}
    values = load().override(changes)
    experiment = Experiment(values, MODEL, 0, load_description(paths.PREPARED))
    device = choose_device("cpu")
    images = load_images(paths.PREPARED.resolve(), "train", device)
    picture = next(Path(f"runs/{MODEL}-0/grids").resolve().glob("*.png"))
    os.environ["DVC_ROOT"] = str(folder)  # where checkpoints and the outbox go
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    if variant == "bare":
        shape = experiment.image_shape
        state = create_state(experiment.recipe, values.train, shape, experiment.n_classes, 0, device)
        for _ in train(state, images, LOSSES[experiment.recipe.loss], experiment.recipe, values.train):
            pass
        return time.perf_counter() - started
    tracker = experiment.open_tracker()
    monitor = Blind(experiment, _Named(), None, tracker, picture)  # type: ignore[arg-type]
    train_experiment(experiment, images, monitor)
    took = time.perf_counter() - started
    tracker.close("KILLED")  # at most 5 s, once a run
    return took


def pair(variant: str, steps: int, uri: str, cores: tuple[int, int]) -> tuple[float, float]:
    """The seconds of the bare loop and of `variant`, run at the same time, each on its core.

    Raises:
        PipelineError: one of them failed.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        children = []
        for core, what in zip(cores, ("bare", variant), strict=True):
            command = [sys.executable, "-m", "benchmarks.safety_cost", "--child", what, "--steps", str(steps)]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri}
            place = Path(folder) / f"{core}"
            place.mkdir()
            children.append(
                subprocess.Popen(
                    ["taskset", "-c", str(core), *command, "--folder", str(place)],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
        for child in children:
            if child.stdout is None or child.stdout.readline() != "ready\n":
                raise PipelineError("training could not be begun: prepare and train the digits (`make run`) first")
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        answers = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise PipelineError(f"training beside {variant} failed: run it by hand with `--child {variant}`")
    return float(answers[0]), float(answers[1])


@contextlib.contextmanager
def slow_server() -> Iterator[str]:
    """The address of a server that answers everything with an empty object, after `DELAY` seconds."""

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(DELAY)
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


def measure(rounds: int, steps: int, variants: Sequence[str] = VARIANTS) -> dict[str, list[tuple[float, float]]]:
    """The seconds of the bare loop and of each variant beside it, in each round.

    Raises:
        PipelineError: there are no two cores, or the digits are not prepared.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2 or shutil.which("taskset") is None:
        raise PipelineError("two CPU cores and the command taskset (util-linux) are needed")
    found: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
    with slow_server() as slow, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        open_client(store).search_experiments()  # making a store takes 2 s, once
        uris = {"tracking": store, "dead server": _closed_port(), "slow server": slow}
        bar = progress_bar(None, "pairs", rounds * len(variants), "pairs", 0)
        for number in range(rounds):
            for variant in variants:
                first, second = (cores[0], cores[1]) if number % 2 else (cores[1], cores[0])
                found[variant].append(pair(variant, steps, uris.get(variant, ""), (first, second)))
                bar.update()
        bar.close()
    return found


def compare(rounds: int, steps: int) -> None:
    found = measure(rounds, steps)
    print(f"\n{MODEL}, {steps} steps, {rounds} rounds: seconds, ratio to the bare loop beside it\n")
    for variant, times in found.items():
        logs = [math.log(own / bare) for bare, own in times]
        error = statistics.stdev(logs) / math.sqrt(rounds) if rounds > 1 else math.nan
        low, middle, high = (math.exp(value) for value in (min(logs), statistics.fmean(logs), max(logs)))
        own = statistics.median(own for _, own in times)
        print(f"{variant:<14}{own:8.2f} s  {middle:6.3f} +- {error:.3f}  ({low:.3f} .. {high:.3f})")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safety_cost", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    make_deterministic()
    torch.set_num_threads(1)
    if options.child:
        print(seconds(options.child, options.steps, options.folder))
    else:
        compare(options.rounds, options.steps)


if __name__ == "__main__":
    exit_cleanly(main)()
