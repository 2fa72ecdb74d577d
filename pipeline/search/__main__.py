"""Tune a recipe against the distance: a study of many short trials, then its best ones anew with fresh seeds.

    python -m pipeline.search --model sagan --trials 24 --workers 2      the space stands in params.yaml, under search:
    python -m pipeline.search --model sagan --trials 24 --apply          and write the winner into params.yaml
    python -m pipeline.search --model sagan --trials 24 --apply-trial 7  or another finalist, by its trial
    python -m pipeline.search --models dcgan,sagan --trials 24           tune each, and compare the winners

The same command continues a study that was stopped, whatever stopped it; the same command on other machines, with
--storage URL, takes part in it. --cluster ray://HOST:10001 starts the workers on a Ray cluster.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable

import optuna
from optuna.trial import TrialState

from pipeline import check
from pipeline.core import paths
from pipeline.core.errors import PipelineError, exit_cleanly, log_line
from pipeline.data.prepared import load_description
from pipeline.params import PARAMS_FILE, load, save
from pipeline.search.pages.outputs import publish, publish_comparison
from pipeline.search.study.mlflow_run import open_study, track_progress
from pipeline.search.study.results import Results, results_of
from pipeline.search.study.space import problems
from pipeline.search.study.storage import VARIABLE, locked
from pipeline.search.study.study import Place, make_finals, make_study, place
from pipeline.search.study.trial_stats import distance_of
from pipeline.search.workers.cluster import run_on_ray
from pipeline.search.workers.processes import run_here
from pipeline.stages import stop_by_exception, stop_signals
from pipeline.tracking.tracker import Tracker


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.search") -> None:
    options = _options(arguments, prog)
    stop_by_exception()
    params = load()
    check.validate(params)
    models = options.models.split(",")
    faults = [fault for model in models for fault in problems(params, model)]
    if faults:
        raise PipelineError("\n".join(f"{PARAMS_FILE}: {fault}" for fault in dict.fromkeys(faults)))
    applied = options.apply or options.apply_trial is not None
    if applied and len(models) > 1:
        raise PipelineError("--apply and --apply-trial write one recipe: give them with --model")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _prepare()
    url = options.storage or str(paths.root() / ".work" / "search" / "studies.journal")
    found = []
    received = stop_signals()
    for model in models:
        at, description = place(url, options.study or model), load_description(paths.PREPARED)
        make_study(at, params, model, description["sha256"], options.trials)
        with open_study(at, params, description) as tracker:
            _work(at, model, options, received, tracker)
            make_finals(at, params)
            _work(at.finals(), model, options, received)
            found.append(results_of(at, params, model))
            page = publish(found[-1], tracker)
        print(f"{found[-1].summary()}\nsee {page}")
    if len(found) > 1:
        print(f"the models compared: see {publish_comparison(found)}")
    if applied:
        _apply(found[0], options.apply_trial)


def _options(arguments: list[str] | None, prog: str = "python -m pipeline.search") -> argparse.Namespace:
    first, rest = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog=prog, description=first, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", "--models", dest="models", required=True, help="a recipe, or several with commas")
    parser.add_argument("--trials", type=_positive, required=True, help="trials of each study")
    parser.add_argument("--workers", type=_positive, default=1, help="processes on this machine (1)")
    parser.add_argument(
        "--storage", default=os.environ.get(VARIABLE), help=f"of the studies (${VARIABLE}, else a file in .work/search)"
    )
    parser.add_argument("--study", help="the study's name (the recipe's)")
    parser.add_argument("--cluster", help="a Ray cluster's address, such as ray://HOST:10001: the workers run there")
    parser.add_argument("--cpus", type=_share, default=1.0, help="of a node that each worker on a cluster takes (1)")
    parser.add_argument("--gpus", type=_share, default=0.0, help="likewise; 0.5 puts two workers on a GPU (0)")
    writing = parser.add_mutually_exclusive_group()
    writing.add_argument("--apply", action="store_true", help=f"write the winner into {PARAMS_FILE}")
    writing.add_argument("--apply-trial", type=_number, metavar="N", help="write instead the finalist that was trial N")
    options = parser.parse_args(arguments)
    if options.study and "," in options.models:
        parser.error("--study names one study: give one --model")
    if options.cluster and not options.storage:
        parser.error(f"--cluster needs --storage or {VARIABLE}: a URL, or a file on a disk that all nodes share")
    if options.study and not re.fullmatch(r"\w[\w.-]{0,63}", options.study):
        parser.error(f"--study: must be letters, digits, _ . and -, got {options.study}")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a trial's number, got {text}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1024, got {text}")
    return value


def _prepare() -> None:
    """Bring the prepared data and their reference up to date."""
    with locked(str(paths.root() / ".work" / "search" / "prepare")):  # DVC refuses to run twice at once
        done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", "reference"])
    if done.returncode:
        raise PipelineError("the reference could not be made: see what `dvc repro reference` says above")


def _work(
    at: Place, model: str, options: argparse.Namespace, received: list[int], tracker: Tracker | None = None
) -> None:
    """Have workers do the trials of a study, here or on a cluster, until it is over; `tracker` hears of its progress.

    Raises:
        PipelineError: the workers cannot go on.
    """
    command = [sys.executable, "-m", "pipeline.search.workers.worker", "--study", at.name, "--model", model]
    environment = {VARIABLE: at.url}  # it may hold a password

    def left() -> int:
        return len(_trials(at, TrialState.WAITING, TrialState.RUNNING))

    tell, count = _teller(at, tracker), min(options.workers, left())
    if options.cluster and count:
        needs = {"num_cpus": options.cpus, "num_gpus": options.gpus}
        run_on_ray(options.cluster, command, count, environment, needs, lambda: bool(received), tell)
    else:
        run_here(command, count, environment, lambda: not left(), lambda: bool(received), tell)
    tell()
    if received:
        log_line("stopped: run the same command again to continue")
        sys.exit(128 + received[0])


def _trials(at: Place, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
    return at.storage.get_all_trials(at.study_id, deepcopy=False, states=states)


def _teller(at: Place, tracker: Tracker | None) -> Callable[[], None]:
    """A line whenever more trials are over, and the study's progress in MLflow."""
    before = -1

    def tell() -> None:
        nonlocal before
        trials = [trial for trial in _trials(at, *TrialState) if trial.state != TrialState.FAIL]
        over = [trial for trial in trials if trial.state.is_finished()]
        if len(over) != before:
            before = len(over)
            values = [value for trial in over if (value := distance_of(trial)) is not None]
            best = f", best {min(values):.2f}" if values else ""
            log_line(f"study {at.name}: {len(over)} of {len(trials)} trials{best}")
            if tracker:
                track_progress(tracker, over)

    return tell


def _apply(results: Results, number: int | None) -> None:
    """Write the winner, or the finalist that was trial `number`, into params.yaml.

    Raises:
        PipelineError: that trial is no finalist.
    """
    numbered = {finalist.trial: finalist for finalist in results.finalists}
    if number is not None and number not in numbered:
        choices = ", ".join(map(str, sorted(numbered)))
        raise PipelineError(f"--apply-trial {number}: no finalist of study {results.study}; choices: {choices}")
    chosen = results.winner if number is None else numbered[number]
    changes = {f"models.{results.model}.{name}": value for name, value in chosen.values.items()}
    save(changes)
    told = ", ".join(f"{name}={value}" for name, value in changes.items())
    print(f"wrote {told} to {PARAMS_FILE}: `dvc repro` trains it")


if __name__ == "__main__":
    main()
