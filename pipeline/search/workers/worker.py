"""What each process of a study does: claim a trial, train it, record how it ended, until none is left.

    PIPELINE_STORAGE=URL python -m pipeline.search.workers.worker --study NAME --model MODEL     (started by a search)

Before it ends, it waits for the trials of other workers: if one of those dies, its trial is taken over.
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
from pipeline.core.devices import choose_device, keep_freed_memory
from pipeline.core.errors import exit_cleanly, visible
from pipeline.core.files import InUse, exclusive
from pipeline.data.prepared import load_description, load_images
from pipeline.experiment import Experiment
from pipeline.metrics import load_extractor, load_reference
from pipeline.params import Params
from pipeline.search.study import jobs
from pipeline.search.study.mlflow_run import group_of, page_note, page_tag, study_folder
from pipeline.search.study.outages import PATIENCE
from pipeline.search.study.pruner import make_pruner
from pipeline.search.study.space import distributions, suggest_values, with_values
from pipeline.search.study.storage import FINALS, VARIABLE, StudyRef, open_study
from pipeline.search.study.study import hide_shared_values, make_sampler
from pipeline.search.workers.trial import TrialContext, TrialResult, remove_checkpoints, run_trial, trial_params
from pipeline.stages import begin, stop_signals
from pipeline.tracking.tracker import Tracker
from pipeline.training.trainer import Interrupted

IDLE = 1.0  # seconds between two looks at a queue in which nothing waits
MOST_CRASHES = 10  # a trial whose workers died so often is given up


def work(ref: StudyRef, context: TrialContext, model: str, should_stop: Callable[[], bool]) -> None:
    """Work at a study until all its trials are over.

    Raises:
        Interrupted: `should_stop` said so; the trial's checkpoint is written, and the trial is back in the queue.
    """
    worker = jobs.Worker()
    with worker.alive():
        while not should_stop():
            running = ref.trials(TrialState.RUNNING)
            for trial in filter(worker.is_dead, running):
                jobs.requeue(ref, ref.trial_id(trial.number), trial.user_attrs.get("worker", ""), crashed=True)
            trial_id = jobs.claim(ref)
            if trial_id is not None:
                with worker.heartbeat(ref, trial_id):
                    try:
                        _work_at_trial(ref, context, model, trial_id, should_stop)
                    except Interrupted:
                        jobs.requeue(ref, trial_id, worker.name, crashed=False)
                        raise
                    except UpdateFinishedTrialError:
                        pass  # another worker, which took this one for dead, has ended it
            elif running:
                time.sleep(IDLE)
            else:
                return


def _work_at_trial(
    ref: StudyRef, context: TrialContext, model: str, trial_id: int, should_stop: Callable[[], bool]
) -> None:
    """Do one trial, of a study or of its finals, and tell Optuna how it ended."""
    search, frozen, final = context.params.search, ref.storage.get_trial(trial_id), FINALS in ref.name
    space = {} if final else distributions(context.params, model)
    sampled = final or space.keys() <= frozen.params.keys()  # of a requeued trial, nothing is sampled
    sampler = RandomSampler() if sampled else make_sampler(search, frozen.number)
    study = ref.load(sampler, NopPruner())  # with Hyperband the sampler would see the trials of one bracket only
    trial = optuna.trial.Trial(study, trial_id)
    if final:
        params, seed, title = _final_params(trial, context.params, model)
    else:
        if not sampled:
            hide_shared_values(ref, trial_id)
        values = suggest_values(trial, space)
        params, seed, title = trial_params(context.params, model, values), search.seed, f"trial {frozen.number}"
    experiment = Experiment(params, model, seed, context.description)
    trial.set_user_attr("work_folder", experiment.work_folder().name)
    trial.set_user_attr("device", context.device)
    with _only_worker_of(experiment, should_stop):
        if ref.storage.get_trial(trial_id).state.is_finished():
            return
        if jobs.worker_crashes(frozen) >= MOST_CRASHES:
            fault = f"{MOST_CRASHES} workers died while they trained it: do its values need more memory than there is?"
            result = TrialResult(None, 0, 0.0, "crashed", fault)
        else:
            pruning = not final and search.against is None  # Optuna takes no reports of two objectives
            pruned_study = ref.load(RandomSampler(), make_pruner(search))
            reporting = optuna.trial.Trial(pruned_study, trial_id) if pruning else None
            open_tracker = _tracker_of(ref, title)
            result = run_trial(context, params, model, seed, reporting, open_tracker, should_stop, full=final)
        if search.against and not final:
            trial.set_user_attr("curve", list(result.curve.items()))
        costs = {"images": experiment.images_seen(result.steps), "seconds": result.seconds}
        _record(study, trial, result, [] if final or search.against is None else [costs[search.against]])
        remove_checkpoints(experiment)


def _final_params(trial: optuna.trial.Trial, params: Params, model: str) -> tuple[Params, int, str]:
    """The params of one of the finals, its training seed, and how it is called."""
    finalists = json.loads(trial.study.user_attrs["settings"])["finalists"]
    finalist = finalists[trial.suggest_int("finalist", 0, len(finalists) - 1)]
    seed = int(trial.suggest_categorical("seed", list(params.search.final_seeds)))
    return with_values(params, model, finalist["values"]), seed, f"final {finalist['trial']}-{seed}"


@contextlib.contextmanager
def _only_worker_of(experiment: Experiment, should_stop: Callable[[], bool]) -> Iterator[None]:
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


def _record(study: optuna.Study, trial: optuna.trial.Trial, result: TrialResult, costs: list[float]) -> None:
    """Tell Optuna how the trial ended; `costs` are the objectives beside the distance."""
    trial.set_user_attr("steps", result.steps)
    trial.set_user_attr("seconds", result.seconds)
    if result.failure:
        trial.set_user_attr("failure", result.failure)
        trial.set_user_attr("fault", visible(result.fault))
    if result.value is None:
        study.tell(trial, None, TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial, [result.value, *costs], TrialState.COMPLETE, skip_if_finished=True)


def _tracker_of(ref: StudyRef, title: str) -> Callable[[Experiment], Tracker]:
    """How the tracker of a trial is opened: a run below the study's."""

    def open_tracker(experiment: Experiment) -> Tracker:
        group = group_of(experiment.description)
        enabled, folder = experiment.params.runtime.tracking, experiment.work_folder() / ref.name.replace(" ", "-")
        tracker = Tracker(folder, group, f"{ref.name} {title}", enabled, parent=study_folder(ref))
        tracker.params({**experiment.recipe.model_dump(), "seed": experiment.seed})
        note = f"**{experiment.model}**, {title} of the study {ref.name}. {page_note(ref)}"
        own = {"study": ref.name, "report": page_tag(ref), "mlflow.note.content": note}
        tracker.tags(experiment.tags() | own)
        return tracker

    return open_tracker


def load_context(params: Params) -> TrialContext:
    """The prepared images, the extractor and the reference, on the device."""
    verify_checksums(paths.PREPARED)
    verify_checksums(paths.REFERENCE)
    device = choose_device(params.runtime.device)
    extractor = load_extractor(params.metrics, device)
    description = load_description(paths.PREPARED)
    reference = load_reference(paths.REFERENCE, extractor, description["sha256"])
    images = load_images(paths.PREPARED, "train", device, params.runtime.resident)
    return TrialContext(params, description, images, extractor, reference)


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
    keep_freed_memory()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    received = stop_signals()
    with contextlib.suppress(Interrupted):
        ref = open_study(url, options.study, PATIENCE)
        work(ref, load_context(params), options.model, lambda: bool(received))
    if received:
        sys.exit(128 + received[0])


if __name__ == "__main__":
    main()
