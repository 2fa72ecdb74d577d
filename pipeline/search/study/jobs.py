"""The trials of a study as a queue: enqueued once, claimed once, and requeued when their worker dies.

A requeued trial keeps its number, its values and its curve, and waits again: whoever claims it next continues from its
checkpoint. So a study has exactly the trials that it was asked for, each in one of its slots. Where two processes
filled a slot at once, on a storage without a lock, the later trial is marked as failed when it is claimed.
"""

import contextlib
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.errors import PipelineError
from pipeline.core.files import InUse, exclusive
from pipeline.core.paths import root
from pipeline.search.study.storage import StudyRef, locked

HEARTBEAT_EVERY = 10.0  # seconds
HEARTBEAT_TIMEOUT = 60.0  # seconds without a new heartbeat after which a trial's worker counts as dead


def enqueue(study: optuna.Study, jobs: Sequence[Mapping[str, Any]], count: int) -> None:
    """Bring the study to `count` trials: `jobs` are the values of the first ones, the sampler chooses the others'.

    To be called under the storage's lock, if it has one.
    """
    trials = study.get_trials(deepcopy=False)
    filled = {trial.user_attrs.get("slot") for trial in trials if trial.state != TrialState.FAIL}
    for slot in range(count):
        if slot not in filled:
            study.enqueue_trial(dict(jobs[slot]) if slot < len(jobs) else {}, user_attrs={"slot": slot})


def claim(ref: StudyRef) -> int | None:
    """The id of a waiting trial that is now ours and running, the one with the lowest number; None if none waits."""
    # On sqlite Optuna looks for a waiting trial in one transaction and takes it in another: two could get it.
    with locked(ref.url) if ref.url.startswith("sqlite") else contextlib.nullcontext():
        return _claim(ref)


def _claim(ref: StudyRef) -> int | None:
    trials = ref.trials()
    first: dict[int | None, int] = {}
    for trial in trials:
        if trial.state != TrialState.FAIL:
            first.setdefault(trial.user_attrs.get("slot"), trial.number)
    for trial in trials:
        if trial.state != TrialState.WAITING:
            continue
        trial_id = ref.trial_id(trial.number)
        with contextlib.suppress(UpdateFinishedTrialError):
            if not ref.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                continue
            slot = trial.user_attrs.get("slot")
            if slot is None or first[slot] == trial.number:
                return trial_id
            ref.storage.set_trial_state_values(trial_id, TrialState.FAIL)
    return None


def requeue(ref: StudyRef, trial_id: int, worker: str, crashed: bool) -> bool:
    """Put a running trial of a worker that stops or has died back into the queue; False if it is not its any more."""
    storage = ref.storage
    with locked(ref.url), contextlib.suppress(UpdateFinishedTrialError):
        trial = storage.get_trial(trial_id)
        if trial.state != TrialState.RUNNING or trial.user_attrs.get("worker", "") != worker:
            return False
        if crashed:
            storage.set_trial_user_attr(trial_id, "worker_crashes", worker_crashes(trial) + 1)
        storage.set_trial_user_attr(trial_id, "worker", "")  # first: who claims it must not be taken for the dead one
        storage.set_trial_state_values(trial_id, TrialState.WAITING)
        return True
    return False


def worker_crashes(trial: FrozenTrial) -> int:
    """How many workers died while they had this trial."""
    return int(trial.user_attrs.get("worker_crashes", 0))


class Worker:
    """One process of a study: its lock, by which others on this machine see that it lives, and its heartbeat."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = uuid.uuid4().hex
        self._clock = clock
        self._seen: dict[int, tuple[Any, float]] = {}

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Hold the lock of this process for as long as the body runs."""
        with exclusive(_workers() / self.name, "a worker"):
            yield
            shutil.rmtree(_workers() / self.name, ignore_errors=True)  # it has no trial any more

    @contextlib.contextmanager
    def heartbeat(self, ref: StudyRef, trial_id: int) -> Iterator[None]:
        """Show in the storage that the worker of a trial lives, while the body runs."""
        ref.storage.set_trial_user_attr(trial_id, "worker", self.name)
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(HEARTBEAT_EVERY):
                with contextlib.suppress(PipelineError, UpdateFinishedTrialError):
                    ref.storage.set_trial_user_attr(trial_id, "heartbeat", time.time())

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def is_dead(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is gone: its lock is free, or its heartbeat has not changed."""
        worker = trial.user_attrs.get("worker", "")
        if worker and (_workers() / worker / "lock").exists():
            try:
                with exclusive(_workers() / worker, "a worker"):
                    return True
            except InUse:
                return False
        beat, now = (worker, trial.user_attrs.get("heartbeat")), self._clock()
        seen = self._seen.setdefault(trial.number, (beat, now))
        if seen[0] != beat:
            self._seen[trial.number] = (beat, now)
        return now - self._seen[trial.number][1] > HEARTBEAT_TIMEOUT


def _workers() -> Path:
    return root() / ".work" / "search" / "workers"
