"""Where a study is kept: a journal file (the default), sqlite, PostgreSQL, MySQL or a gRPC proxy.

An outage is waited for: a call that fails because the storage is away or busy is tried again, for ten minutes.
"""

import contextlib
import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend

from pipeline.errors import PipelineError, warn
from pipeline.files import storage_errors

PATIENCE, RETRY = 600.0, 2.0  # seconds: how long an outage is waited for, and between two tries
KINDS = "a path (journal file), sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql://.. or grpc://HOST:PORT"
OUTAGES = (StorageInternalError, sqlalchemy.exc.DBAPIError, grpc.RpcError, grpc.FutureTimeoutError)


def open_storage(url: str) -> BaseStorage:
    """The storage at `url`, made if it is a file that does not exist.

    Raises:
        PipelineError: it is of no known kind, or cannot be reached; a password in the URL is not shown.
    """
    kind, separator, rest = url.partition("://")
    try:
        with storage_errors(Path(url)), locked(url):
            if not separator:
                Path(url).parent.mkdir(parents=True, exist_ok=True)
                storage: BaseStorage = JournalStorage(JournalFileBackend(url))
            elif kind == "grpc":
                host, _, port = rest.rpartition(":")
                storage = GrpcStorageProxy(host=host, port=int(port))
                storage.wait_server_ready(timeout=10)
            else:
                storage = get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True}))
            storage.get_all_studies()
    except (*OUTAGES, sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        raise PipelineError(f"{shown(url)} cannot be opened ({reason[0]}): --storage takes {KINDS}") from None
    return _patient(storage)


def shown(url: str) -> str:
    """The URL without its password."""
    with contextlib.suppress(sqlalchemy.exc.ArgumentError):
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    return url


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Hold what only one process may do at a time with the storage at `url`: making tables, filling a queue.

    For files it is a lock beside them, for PostgreSQL an advisory lock; other servers have none: there, start one
    command first and the others when it has begun.
    """
    kind, separator, rest = url.partition("://")
    if not separator or kind.startswith("sqlite"):
        path = Path(rest.lstrip("/") if rest[:2] != "//" else rest[1:]) if separator else Path(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{path}.mutex", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    elif kind.startswith("postgresql"):
        key = int.from_bytes(hashlib.sha256(b"pipeline.search").digest()[:4], "big")
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"select pg_advisory_lock({key})"))
            yield  # the lock goes with the connection
    else:
        yield


def create(storage: BaseStorage, name: str, directions: list[optuna.study.StudyDirection]) -> bool:
    """Make the study `name`; whether it was not there yet."""
    try:
        storage.create_new_study(directions, name)
    except DuplicatedStudyError:
        return False
    return True


def _patient(inner: BaseStorage) -> BaseStorage:
    """A storage that passes every call on to `inner`, and waits out its outages."""
    names = BaseStorage.__abstractmethods__ | {"get_trial_id_from_study_id_trial_number", "remove_session"}
    return type("PatientStorage", (BaseStorage,), {name: _patiently(getattr(inner, name)) for name in names})()


def _patiently(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(_: BaseStorage, *arguments: Any, **named: Any) -> Any:
        started, told = time.monotonic(), False
        while True:
            try:
                return method(*arguments, **named)
            except OUTAGES as error:
                if time.monotonic() - started > PATIENCE:
                    raise PipelineError(
                        f"the study's storage has not answered for {PATIENCE / 60:.0f} minutes: "
                        "when it is back, run the same command again to continue"
                    ) from error
                if not told:
                    warn("the study's storage does not answer; waiting for it")
                told = True
                time.sleep(RETRY)

    return call
