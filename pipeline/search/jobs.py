"""The trials of a study as a queue: filled once, claimed once, given back when their worker dies.

A study has exactly as many trials that are not failed as were asked for. Failed is only what a worker left behind; in
its place stands a new waiting trial with the same values, which continues from the same checkpoint.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import PipelineError
from pipeline.files import exclusive
from pipeline.layout import root

BEAT, SILENCE = 10.0, 60.0  # seconds between two signs of life of a trial, and without one until it counts as dead


def fill(study: optuna.Study, jobs: Sequence[Mapping[str, Any]], count: int) -> None:
    """Bring the study to `count` trials: `jobs` are the values of the first ones, the sampler chooses the others'.

    To be called under the storage's lock.
    """
    trials = study.get_trials(deepcopy=False)
    resumed = {trial.user_attrs.get("resumes") for trial in trials}
    for trial in trials:  # of one that was killed between the two halves of `give_back`
        if trial.state == TrialState.FAIL and trial.number not in resumed:
            _enqueue_again(study, trial)
    present = sum(trial.state != TrialState.FAIL for trial in study.get_trials(deepcopy=False))
    for index in range(present, count):
        study.enqueue_trial(dict(jobs[index]) if index < len(jobs) else {})


def claim(storage: BaseStorage, study_id: int) -> int | None:
    """The id of a waiting trial that is now ours and running; None if none waits."""
    for waiting in storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.WAITING,)):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, waiting.number)
        with contextlib.suppress(UpdateFinishedTrialError):
            if storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return trial_id
    return None


def give_back(study: optuna.Study, storage: BaseStorage, trial_id: int) -> bool:
    """Put a running trial, whose worker stops or is dead, back into the queue; False if another has done so."""
    try:
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False
    _enqueue_again(study, storage.get_trial(trial_id))
    return True


def _enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    study.enqueue_trial(values, user_attrs={"resumes": trial.number})


class Worker:
    """One process of a study: its lock, by which others on this machine see that it lives, and its signs of life."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self._seen: dict[int, tuple[Any, float]] = {}

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Hold the lock of this process for as long as the body runs."""
        with exclusive(_workers() / self.name, "a worker"):
            yield

    @contextlib.contextmanager
    def beating(self, storage: BaseStorage, trial_id: int) -> Iterator[None]:
        """Give signs of life of a trial while the body runs."""
        storage.set_trial_user_attr(trial_id, "worker", self.name)
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT):
                with contextlib.suppress(PipelineError, UpdateFinishedTrialError):
                    storage.set_trial_user_attr(trial_id, "beat", time.time())

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def dead(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is gone: its lock is free, or its sign of life has not changed."""
        worker = trial.user_attrs.get("worker", "")
        if worker and (_workers() / worker).is_dir():
            try:
                with exclusive(_workers() / worker, "a worker"):
                    return True
            except PipelineError:
                return False
        beat, now = (worker, trial.user_attrs.get("beat")), time.monotonic()
        seen = self._seen.setdefault(trial.number, (beat, now))
        if seen[0] != beat:
            self._seen[trial.number] = (beat, now)
        return now - self._seen[trial.number][1] > SILENCE


def _workers() -> Any:
    return root() / ".work" / "search" / "workers"
