"""Outages of a study's storage are waited for: a call that fails because the storage is away or busy is tried again.

Calls must be idempotent: one that appeared to fail may have succeeded and is retried.
"""

import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import grpc
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.errors import PipelineError, warn
from pipeline.core.files import storage_errors

PATIENCE, RETRY = 600.0, 2.0  # seconds: how long an outage is waited for, and between two tries
OUTAGES = (
    StorageInternalError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.InternalError,
    sqlalchemy.exc.PendingRollbackError,
    grpc.RpcError,
    ConnectionError,  # Optuna's, when a proxy does not answer in time
)
P = ParamSpec("P")
T = TypeVar("T")


def retry(call: Callable[[], T], patience: float) -> T:
    """What `call` returns, tried again for `patience` seconds while the storage is away."""
    started, warned = time.monotonic(), False
    while True:
        try:
            return call()
        except OUTAGES:
            if time.monotonic() - started >= patience:
                raise
        if not warned:
            warn("the study's storage does not answer; waiting for it")
        warned = True
        time.sleep(RETRY)


class PatientStorage(BaseStorage):
    """A storage that passes every call on to `inner`, and waits up to `PATIENCE` seconds for the end of an outage.

    Every method raises PipelineError where the storage was removed, its disk is full, or the outage lasts.
    """

    def __init__(self, inner: BaseStorage) -> None:
        self._inner = inner

    def _call(self, method: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            with storage_errors(Path("the study's storage")):
                return retry(lambda: method(*arguments, **named), PATIENCE)
        except FileNotFoundError as error:
            raise PipelineError(
                f"{error.filename} was removed while the study ran: put it back, or run the same command again, "
                "which makes a new study"
            ) from error
        except OUTAGES as error:
            raise PipelineError(
                f"the study's storage has not answered for {PATIENCE / 60:.0f} minutes ({str(error).splitlines()[0]}): "
                "when it is back, run the same command again to continue"
            ) from error

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._call(self._inner.create_new_study, directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._call(self._inner.delete_study, study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._call(self._inner.set_study_user_attr, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._call(self._inner.set_study_system_attr, study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._call(self._inner.get_study_id_from_name, study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._call(self._inner.get_study_name_from_id, study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._call(self._inner.get_study_directions, study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._call(self._inner.get_study_user_attrs, study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._call(self._inner.get_study_system_attrs, study_id)

    def get_all_studies(self) -> list[Any]:
        return self._call(self._inner.get_all_studies)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self._call(self._inner.create_new_trial, study_id, template_trial)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._call(self._inner.set_trial_param, trial_id, param_name, param_value_internal, distribution)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._call(self._inner.get_trial_id_from_study_id_trial_number, study_id, trial_number)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        return self._call(self._inner.set_trial_state_values, trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._call(self._inner.set_trial_intermediate_value, trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._call(self._inner.set_trial_user_attr, trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._call(self._inner.set_trial_system_attr, trial_id, key, value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._call(self._inner.get_trial, trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._call(self._inner.get_all_trials, study_id, deepcopy, states)

    def remove_session(self) -> None:
        self._inner.remove_session()
