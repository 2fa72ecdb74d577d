"""What each process of a study does: claim a trial, train it, tell how it ended, until none is left.

    PIPELINE_STORAGE=URL python -m pipeline.search.workers.worker --study NAME --model MODEL     (started by a search)

Before it leaves, it waits for the trials of other workers: should one die, its trial is taken over.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from pipeline.core import paths
from pipeline.core.checksums import verify_checksums
from pipeline.core.devices import choose_device
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import InUse, exclusive
from pipeline.data.prepared import load_description, load_images
from pipeline.experiment import Experiment
from pipeline.metrics import load_extractor, load_reference
from pipeline.params import Params
from pipeline.search.study.mlflow_run import group_of, study_folder
from pipeline.search.study.space import distributions, draw, with_values
from pipeline.search.study.storage import PATIENCE, VARIABLE
from pipeline.search.study.study import FINALS, Place, jobs, make_pruner, make_sampler, place
from pipeline.search.workers.trial import Bench, Outcome, forget, run, trial_params
from pipeline.stages import begin, stop_signals
from pipeline.tracking.tracker import Tracker
from pipeline.training.trainer import Interrupted

IDLE = 1.0  # seconds between two looks at a queue in which nothing waits
DEATHS = 10  # a trial that so many workers died with is given up


def work(at: Place, bench: Bench, model: str, should_stop: Callable[[], bool]) -> None:
    """Work at a study until all its trials are over.

    Raises:
        Interrupted: `should_stop` said so; the trial's checkpoint is written, and the trial is back in the queue.
    """
    worker = jobs.Worker()
    with worker.alive():
        while not should_stop():
            running = at.storage.get_all_trials(at.study_id, deepcopy=False, states=(TrialState.RUNNING,))
            for trial in filter(worker.dead, running):
                jobs.give_back(at.url, at.storage, trial._trial_id, trial.user_attrs.get("worker", ""), died=True)
            trial_id = jobs.claim(at.url, at.storage, at.study_id)
            if trial_id is not None:
                with worker.beating(at.storage, trial_id):
                    try:
                        _do(at, bench, model, trial_id, should_stop)
                    except Interrupted:
                        jobs.give_back(at.url, at.storage, trial_id, worker.name, died=False)
                        raise
                    except UpdateFinishedTrialError:
                        pass  # another worker, which took this one for dead, has ended it
            elif running:
                time.sleep(IDLE)
            else:
                return


def _do(at: Place, bench: Bench, model: str, trial_id: int, should_stop: Callable[[], bool]) -> None:
    """Do one trial, of a study or of its finals, and tell Optuna how it ended."""
    search, frozen, final = bench.params.search, at.storage.get_trial(trial_id), FINALS in at.name
    space = {} if final else distributions(bench.params, model)
    settled = final or space.keys() <= frozen.params.keys()  # of a trial that goes on, nothing is sampled
    sampler = RandomSampler() if settled else make_sampler(search, frozen.number)
    study = at.load(sampler, NopPruner())  # Hyperband would let the sampler see the trials of one bracket alone
    trial = optuna.trial.Trial(study, trial_id)
    if final:
        finalists = json.loads(study.user_attrs["settings"])["finalists"]
        finalist = finalists[trial.suggest_int("finalist", 0, len(finalists) - 1)]
        seed = trial.suggest_categorical("seed", list(search.final_seeds))
        params, title = with_values(bench.params, model, finalist["values"]), f"final {finalist['trial']}-{seed}"
    else:
        values = draw(trial, space)
        params, seed, title = trial_params(bench.params, model, values), search.seed, f"trial {frozen.number}"
    experiment = Experiment(params, model, seed, bench.description)
    trial.set_user_attr("work_folder", experiment.work_folder().name)
    trial.set_user_attr("device", bench.device)
    with _alone(experiment, should_stop):
        if at.storage.get_trial(trial_id).state.is_finished():
            return
        if jobs.deaths(frozen) >= DEATHS:
            outcome = Outcome(None, 0, 0.0, f"{DEATHS} workers died with it: is there enough memory for its values?")
        else:
            pruning = not final and search.against is None  # Optuna takes no reports of two objectives
            pruned = at.load(RandomSampler(), make_pruner(search))
            reported = optuna.trial.Trial(pruned, trial_id) if pruning else None
            outcome = run(bench, params, model, seed, reported, _tracker_of(at, title), should_stop, full=final)
        if search.against and not final:
            trial.set_user_attr("curve", list(outcome.curve.items()))
        costs = {"images": experiment.images_seen(outcome.steps), "seconds": outcome.seconds}
        _tell(study, trial, outcome, [] if final or search.against is None else [costs[search.against]])
        forget(experiment)


@contextlib.contextmanager
def _alone(experiment: Experiment, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the experiment's work folder; another trial with the same values, which holds it, is waited for."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(experiment.work_folder(), experiment.name))
                break
            except InUse:
                if should_stop():
                    raise Interrupted(0, 0.0) from None
            time.sleep(IDLE)
        yield


def _tell(study: optuna.Study, trial: optuna.trial.Trial, outcome: Outcome, costs: list[float]) -> None:
    """How the trial ended; `costs` are the objectives beside the distance."""
    trial.set_user_attr("steps", outcome.steps)
    trial.set_user_attr("seconds", outcome.seconds)
    if outcome.fault:
        trial.set_user_attr("fault", outcome.fault)
    if outcome.value is None:
        study.tell(trial, None, TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial, [outcome.value, *costs], TrialState.COMPLETE, skip_if_finished=True)


def _tracker_of(at: Place, title: str) -> Callable[[Experiment], Tracker]:
    """How the tracker of a trial is opened: a run below the study's."""

    def open_tracker(experiment: Experiment) -> Tracker:
        group = group_of(experiment.description)
        enabled, folder = experiment.params.runtime.tracking, experiment.work_folder() / at.name.replace(" ", "-")
        tracker = Tracker(folder, group, f"{at.name} {title}", enabled, parent=study_folder(at))
        tracker.params({**experiment.recipe.model_dump(), "seed": experiment.seed})
        tracker.tags(experiment.tags() | {"study": at.name})
        return tracker

    return open_tracker


def load_bench(params: Params) -> Bench:
    """The prepared images, the extractor and the reference, on the device."""
    verify_checksums(paths.PREPARED)
    verify_checksums(paths.REFERENCE)
    device = choose_device(params.runtime.device)
    extractor = load_extractor(params.metrics, device)
    reference = load_reference(paths.REFERENCE, extractor)
    return Bench(
        params, load_description(paths.PREPARED), load_images(paths.PREPARED, "train", device), extractor, reference
    )


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.search.workers.worker", description=__doc__.split("\n")[0]
    )
    for name in ("study", "model"):
        parser.add_argument(f"--{name}", required=True)
    options, url = parser.parse_args(arguments), os.environ.get(VARIABLE)
    if not url:
        parser.error(f"{VARIABLE} must hold the storage's URL: pipeline.search sets it for the workers that it starts")
    params = begin()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    received = stop_signals()
    with contextlib.suppress(Interrupted):
        at = place(url, options.study, PATIENCE)
        work(at, load_bench(params), options.model, lambda: bool(received))
    if received:
        sys.exit(128 + received[0])


if __name__ == "__main__":
    main()
