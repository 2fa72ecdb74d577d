"""Tune a recipe: a study of many short trials, then finals, in which its best ones are trained with fresh seeds.

    python -m pipeline.search --model sagan --trials 24 --workers 2      tune; `search:` in params.yaml is the space
    python -m pipeline.search --model sagan --trials 24 --apply          and write the winner into params.yaml
    python -m pipeline.search --model sagan --trials 24 --apply-trial 7  or another finalist, by the number of its trial
    python -m pipeline.search --models dcgan,sagan --trials 24           tune each, and compare the winners

The same command continues a study that was stopped. The same command on other machines, with --storage URL, takes part
in the study. --cluster ray://HOST:10001 starts the workers on a Ray cluster.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import TrialState
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import check
from pipeline.core import paths
from pipeline.core.checksums import verify_checksums
from pipeline.core.errors import PipelineError, exit_cleanly, log_line
from pipeline.data.prepared import load_description
from pipeline.params import PARAMS_FILE, Params, load, save
from pipeline.repository import reproduce_reference, require_dvc
from pipeline.search.pages.outputs import publish, publish_comparison
from pipeline.search.study.mlflow_run import open_study_run, track_progress
from pipeline.search.study.results import StudyResults, gain_text, load_results
from pipeline.search.study.space import data_problems, problems
from pipeline.search.study.storage import VARIABLE, StudyRef, locked, open_study
from pipeline.search.study.study import NothingCompleted, make_finals, make_study
from pipeline.search.study.trial_stats import distance_of
from pipeline.search.workers.cluster import run_on_ray
from pipeline.search.workers.processes import run_here
from pipeline.stages import stop_by_exception, stop_signals
from pipeline.tracking.tracker import Tracker

SECTIONS = {"prepare": "data", "reference": "metrics"}  # what the two stages read of params.yaml


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.search") -> None:
    options = _options(arguments, prog)
    stop_by_exception()
    params = load()
    models = options.models.split(",")
    _validate(params, models)
    applied = options.apply or options.apply_trial is not None
    if applied and len(models) > 1:
        raise PipelineError("--apply and --apply-trial write one recipe: give them with --model")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _prepare(params)
    _validate_data(params, models)
    received = stop_signals()
    found, faults = [], []
    for model in models:
        try:
            found.append(_tune(model, params, options, received))
        except NothingCompleted as error:  # the other models are tuned all the same
            faults.append(str(error))
    if len(found) > 1:
        print(f"the models compared: see {publish_comparison(found)}")
    if faults:
        raise PipelineError("\n".join(faults))
    if applied:
        _apply(found[0], options.apply_trial)


def _validate(params: Params, models: list[str]) -> None:
    """Refuse a study that cannot be run, before anything is."""
    faults = [fault for model in models for fault in problems(params, model)]
    if faults:
        raise PipelineError("\n".join(f"{PARAMS_FILE}: {fault}" for fault in dict.fromkeys(faults)))
    for model in models:
        check.validate(params, model)


def _validate_data(params: Params, models: list[str]) -> None:
    images = load_description(paths.PREPARED)["train"]
    faults = [fault for model in models for fault in data_problems(params, model, images)]
    if faults:
        raise PipelineError("\n".join(f"{PARAMS_FILE}: {fault}" for fault in dict.fromkeys(faults)))


def _tune(model: str, params: Params, options: argparse.Namespace, received: list[int]) -> StudyResults:
    """One study and its finals, from where they are to their end, and their page."""
    url = options.storage or str(paths.root() / ".work" / "search" / "studies.journal")
    ref, description = open_study(url, options.study or model), load_description(paths.PREPARED)
    make_study(ref, params, model, description["sha256"], options.trials)
    with open_study_run(ref, params, description) as tracker:
        _work(ref, model, options, received, tracker)
        finals = make_finals(ref, params)
        _work(finals, model, options, received)
        results = load_results(ref, finals, model)
        page = publish(results, tracker)
    print(f"{results.summary()}\nsee {page}")
    return results


def _options(arguments: list[str] | None, prog: str = "python -m pipeline.search") -> argparse.Namespace:
    first, rest = __doc__.replace("python -m pipeline.search", prog).split("\n\n", 1)
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=first, epilog=rest, formatter_class=layout)
    parser.add_argument(
        "--model", "--models", dest="models", required=True, help="a recipe, or several separated by commas"
    )
    parser.add_argument("--trials", type=_positive, required=True, help="trials of each study")
    parser.add_argument("--workers", type=_positive, default=1, help="processes on this machine (1)")
    parser.add_argument(
        "--storage",
        default=os.environ.get(VARIABLE),
        help=f"where studies are kept (${VARIABLE}, else a file in .work/search)",
    )
    parser.add_argument("--study", help="the study's name (the recipe's)")
    parser.add_argument("--cluster", help="a Ray cluster's address, such as ray://HOST:10001: the workers run there")
    parser.add_argument("--cpus", type=_share, default=1.0, help="CPUs of each worker on a cluster (1)")
    parser.add_argument("--gpus", type=_share, default=0.0, help="GPUs of each; with 0.5 two workers share one (0)")
    writing = parser.add_mutually_exclusive_group()
    writing.add_argument("--apply", action="store_true", help=f"write the winner into {PARAMS_FILE}")
    writing.add_argument("--apply-trial", type=_number, metavar="N", help="write the finalist of trial N instead")
    options = parser.parse_args(arguments)
    models = options.models.split(",")
    if len(set(models)) < len(models):
        parser.error(f"--models: must not name anything twice, got {options.models}")
    if options.study and "," in options.models:
        parser.error("--study names one study: give one --model with it")
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


def _prepare(params: Params) -> None:
    """Bring the prepared data and their reference up to date.

    DVC refuses to while another command of it is at work, such as a comparison that trains. What is there is then used
    if it was made with the present params.
    """
    with locked(str(paths.root() / ".work" / "search" / "prepare")):  # DVC refuses to run twice at once
        failed = reproduce_reference()
    if not failed:
        return
    if not _is_prepared(params):
        require_dvc()
        raise PipelineError(
            "data/reference is not up to date, and DVC could not make it (see above): if another `dvc repro` runs, "
            "wait for it, then run the same command again"
        )
    log_line("data/reference was made with the present params, so it is used, although DVC could not check it")


def _is_prepared(params: Params) -> bool:
    """Whether dvc.lock says that both folders were made with these params, and the folders are whole."""
    try:
        stages = YAML(typ="safe", pure=True).load(Path("dvc.lock").read_bytes())["stages"]
        made = {stage: stages[stage]["params"][str(PARAMS_FILE)] for stage in ("prepare", "reference")}
        verify_checksums(paths.PREPARED)
        verify_checksums(paths.REFERENCE)
    except (OSError, LookupError, TypeError, YAMLError, PipelineError):
        return False
    whole = params.model_dump(mode="json")
    return all(made[stage] == {section: whole[section]} for stage, section in SECTIONS.items())


def _work(
    ref: StudyRef, model: str, options: argparse.Namespace, received: list[int], tracker: Tracker | None = None
) -> None:
    """Have workers do the trials of a study, here or on a cluster, until it is over; `tracker` logs its progress.

    Raises:
        PipelineError: the workers cannot go on.
    """
    command = [sys.executable, "-m", "pipeline.search.workers.worker", "--study", ref.name, "--model", model]
    environment = {VARIABLE: ref.url}  # it may hold a password

    def left() -> int:
        return len(ref.trials(TrialState.WAITING, TrialState.RUNNING))

    report, count = progress_reporter(ref, tracker), min(options.workers, left())
    if options.cluster and count:
        needs = {"num_cpus": options.cpus, "num_gpus": options.gpus}
        run_on_ray(options.cluster, command, count, environment, needs, lambda: bool(received), report)
    else:
        run_here(command, count, environment, lambda: not left(), lambda: bool(received), report)
    report()
    if received:
        log_line("stopped: run the same command again to continue")
        sys.exit(128 + received[0])


def progress_reporter(ref: StudyRef, tracker: Tracker | None) -> Callable[[], None]:
    """A function that prints a line whenever more trials are over, and logs the study's progress in MLflow."""
    before = -1

    def report() -> None:
        nonlocal before
        trials = [trial for trial in ref.trials() if trial.state != TrialState.FAIL]
        over = [trial for trial in trials if trial.state.is_finished()]
        if len(over) != before:
            before = len(over)
            values = [value for trial in over if (value := distance_of(trial)) is not None]
            best = f", best {min(values):.2f}" if values else ""
            log_line(f"study {ref.name}: {len(over)} of {len(trials)} trials{best}")
            if tracker:
                track_progress(tracker, over)

    return report


def _apply(results: StudyResults, number: int | None) -> None:
    """Write the winner, or the finalist that was trial `number`, into params.yaml.

    Raises:
        PipelineError: that trial is no finalist, or there is no winner.
    """
    numbered = {finalist.trial: finalist for finalist in results.finalists}
    if number is not None and number not in numbered:
        choices = ", ".join(map(str, sorted(numbered)))
        raise PipelineError(f"--apply-trial {number}: not a finalist of study {results.study}; choices: {choices}")
    if number is None and not results.winner.finals:
        raise PipelineError(f"study {results.study}: {gain_text(results)}; {PARAMS_FILE} stays as it was")
    chosen = results.winner if number is None else numbered[number]
    changes = {f"models.{results.model}.{name}": value for name, value in chosen.values.items()}
    save(changes)
    written = ", ".join(f"{name}={value}" for name, value in changes.items())
    print(f"wrote {written} to {PARAMS_FILE}: `dvc repro` trains it")


if __name__ == "__main__":
    main()
