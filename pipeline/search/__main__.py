"""Tune a recipe against the distance: a study of many short trials, then its best ones anew with fresh seeds.

    python -m pipeline.search --model sagan --trials 24 --workers 2      the space stands in params.yaml, under search:
    python -m pipeline.search --model sagan --trials 24 --apply          and write the winner into params.yaml
    python -m pipeline.search --models dcgan,sagan --trials 24           tune each, and compare the winners

The same command continues a study that was stopped, whatever stopped it; the same command on other machines, with
--storage URL, takes part in it.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable

import optuna
import torch
from optuna.trial import TrialState

from pipeline import check, layout
from pipeline.data import load_description
from pipeline.errors import PipelineError, exit_cleanly, warn
from pipeline.params import PARAMS_FILE, load, save
from pipeline.search.publish import publish, publish_comparison
from pipeline.search.record import open_study
from pipeline.search.results import Results, results_of
from pipeline.search.space import problems
from pipeline.search.storage import locked
from pipeline.search.study import Place, make_finals, make_study, place
from pipeline.search.worker import stopping

POLL = 0.5  # seconds between two looks at the workers
GRACE = 60.0  # seconds for a worker to end when it is asked to
SHORT_LIFE, LIVES = 20.0, 5  # a worker that ends within so many seconds, so many times in a row, is not started again


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    params = load()
    check.require(params)
    models = options.models.split(",")
    faults = [fault for model in models for fault in problems(params, model)]
    if faults:
        raise PipelineError("\n".join(f"{PARAMS_FILE}: {fault}" for fault in dict.fromkeys(faults)))
    if options.apply and len(models) > 1:
        raise PipelineError("--apply writes one winner: give it with --model")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _prepare()
    url = options.storage or str(layout.root() / ".work" / "search" / "studies.journal")
    found = []
    with stopping() as received:
        for model in models:
            at, description = place(url, options.study or model), load_description(layout.PREPARED)
            make_study(at, params, model, description["sha256"], options.trials)
            with open_study(at, params, description) as tracker:
                _run_workers(at, model, options.workers, received)
                make_finals(at, params)
                _run_workers(at.finals(), model, options.workers, received)
                found.append(results_of(at, params, model))
                page = publish(found[-1], tracker)
            print(f"{found[-1].summary()}\nsee {page}")
    if len(found) > 1:
        print(f"the models compared: see {publish_comparison(found)}")
    if options.apply:
        _apply(found[0])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    first, rest = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.search", description=first, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", "--models", dest="models", required=True, help="a recipe, or several with commas")
    parser.add_argument("--trials", type=_positive, required=True, help="trials of each study")
    parser.add_argument("--workers", type=_positive, default=1, help="processes on this machine (1)")
    parser.add_argument("--storage", help="where the studies are kept (a journal file in .work/search)")
    parser.add_argument("--study", help="the study's name (the recipe's)")
    parser.add_argument("--apply", action="store_true", help=f"write the winner into {PARAMS_FILE}")
    options = parser.parse_args(arguments)
    if options.study and "," in options.models:
        parser.error("--study names one study: give one --model")
    if options.study and not re.fullmatch(r"\w[\w.-]{0,63}", options.study):
        parser.error(f"--study: must be letters, digits, _ . and -, got {options.study}")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)


def _prepare() -> None:
    """Bring the prepared data and their reference up to date."""
    with locked(str(layout.root() / ".work" / "search" / "prepare")):  # DVC refuses to run twice at once
        done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", "reference"])
    if done.returncode:
        raise PipelineError("the reference could not be made: see what `dvc repro reference` says above")


def _run_workers(at: Place, model: str, count: int, received: list[int]) -> None:
    """Keep `count` workers at a study until it is over: one that dies is started again.

    Raises:
        PipelineError: a worker said so, or dies again and again.
    """
    command = [sys.executable, "-m", "pipeline.search.worker"]
    command += ["--storage", at.url, "--study", at.name, "--model", model]
    count = max(1, min(count, len(_trials(at, TrialState.WAITING, TrialState.RUNNING))))
    workers: dict[int, subprocess.Popen[bytes]] = {}
    started, short = dict.fromkeys(range(count), 0.0), 0
    tell = _teller(at)
    try:
        while _trials(at, TrialState.WAITING, TrialState.RUNNING) and not received:
            for index in range(count):
                worker = workers.get(index)
                if worker is not None and worker.poll() is None:
                    continue
                if worker is not None and worker.returncode == 2:
                    raise PipelineError("a worker cannot go on: see above")
                if worker is not None and worker.returncode != 0:
                    short = short + 1 if time.monotonic() - started[index] < SHORT_LIFE else 0
                    if short >= LIVES:
                        raise PipelineError(f"workers died {LIVES} times in a row: see above what they say")
                    warn(f"a worker of study {at.name} died ({worker.returncode}); its trial goes on in another")
                workers[index] = subprocess.Popen(command, env=_environment(index, count))
                started[index] = time.monotonic()
            tell()
            time.sleep(POLL)
        tell()
    finally:
        _end(list(workers.values()))
    if received:
        print("stopped: run the same command again to continue", file=sys.stderr)
        sys.exit(128 + received[0])


def _end(workers: list[subprocess.Popen[bytes]]) -> None:
    """Ask workers to stop, which write their checkpoints first; kill one that has not within `GRACE`."""
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + GRACE
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _environment(index: int, count: int) -> dict[str, str]:
    """What a worker is told: its share of the cores, its GPU, and whose child it is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // count)))}
    if torch.cuda.device_count() > 1:
        told["CUDA_VISIBLE_DEVICES"] = _gpus()[index % torch.cuda.device_count()]
    return {**os.environ, **told, "PIPELINE_PARENT": str(os.getpid())}


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


def _trials(at: Place, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
    return at.storage.get_all_trials(at.study_id, deepcopy=False, states=states)


def _teller(at: Place) -> Callable[[], None]:
    """A line whenever more trials are over."""
    before = -1

    def tell() -> None:
        nonlocal before
        trials = [trial for trial in _trials(at, *TrialState) if trial.state != TrialState.FAIL]
        over = [trial for trial in trials if trial.state.is_finished()]
        if len(over) != before:
            before = len(over)
            values = [trial.value for trial in over if trial.state == TrialState.COMPLETE and trial.value is not None]
            best = f", best {min(values):.2f}" if values else ""
            print(f"study {at.name}: {len(over)} of {len(trials)} trials{best}", file=sys.stderr, flush=True)

    return tell


def _apply(results: Results) -> None:
    changes = {f"models.{results.model}.{name}": value for name, value in results.winner.values.items()}
    save(changes)
    told = ", ".join(f"{name}={value}" for name, value in changes.items())
    print(f"wrote {told} to {PARAMS_FILE}: `dvc repro` trains it")


if __name__ == "__main__":
    main()
