"""Where a study is kept: a journal file (the default), sqlite, PostgreSQL, MySQL or a gRPC proxy."""

import contextlib
import hashlib
import importlib.util
import os
import re
import urllib.parse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.errors import PipelineError, printable
from pipeline.core.files import flock, storage_errors
from pipeline.search.study.outages import OUTAGES, PATIENCE, PatientStorage, retry

FINALS = " finals"  # in the name of a study's finals
CONNECT = 10  # seconds within which a server must answer
VARIABLE = "PIPELINE_STORAGE"  # of the environment, which holds the URL: a command line can be read by all users
KINDS = "a path (journal file), sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql://.. or grpc://HOST:PORT"
BEGIN = b'{"op_code"'  # of each line of a journal
# Where a URL may hold a password; NO_PORT: nor is it one where the host was forgotten, as in postgresql://me:secret.
QUERY, USER, NO_PORT = r"(passw(?:or)?d=)", r"^(\w[\w+]*:/*[^:/@]*)", r"(?!\d*(?:/|$))"
REFUSALS = (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, LookupError, AssertionError, RuntimeError, OSError,
            TypeError, AttributeError)  # the latter two: lines of a journal that are JSON of another kind  # fmt: skip


@dataclass(frozen=True)
class StudyRef:
    """Where a study is kept."""

    url: str
    name: str
    storage: BaseStorage

    @property
    def study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.name)

    def load(self, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> optuna.Study:
        """The study as it is now; a new object each time, because one remembers the trials that it has seen."""
        return optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler, pruner=pruner)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states, by default all, by number. They are not to be changed."""
        return self.storage.get_all_trials(self.study_id, deepcopy=False, states=states or None)

    def trial_id(self, number: int) -> int:
        """The storage's id of the trial `number`."""
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def finals(self, key: str) -> "StudyRef":
        """Where the finals of the study with this key are kept."""
        return StudyRef(self.url, f"{self.name}{FINALS} {key}", self.storage)


def open_study(url: str, name: str, patience: float = 0.0) -> StudyRef:
    """Open the storage of a study, which need not exist yet. `patience`: seconds to wait for the end of an outage."""
    return StudyRef(url, name, open_storage(url, patience))


def open_storage(url: str, patience: float = 0.0) -> BaseStorage:
    """The storage at `url`; a file that does not exist is made. `patience`: seconds to wait for the end of an outage.

    Raises:
        PipelineError: it is of no known kind, or cannot be reached; a password in the URL is not shown.
    """
    try:
        return PatientStorage(retry(lambda: _open(url), patience))
    except (*OUTAGES, *REFUSALS) as error:
        if isinstance(error, ConnectionError):
            reason = f"no answer within {CONNECT} s"
        elif isinstance(error, OSError):
            reason = f"{error.filename or url}: {error.strerror or error}"
        else:
            lines = str(getattr(error, "orig", None) or error).strip().splitlines()
            reason = lines[0].rstrip(".:") if lines else type(error).__name__
        reason = reason.replace(url, redacted(url))
        for secret in _secrets(url):
            reason = reason.replace(secret, "***")
        text = printable(f"{redacted(url)} cannot be opened ({reason})", 1000)
        raise PipelineError(f"{text}: --storage takes {KINDS}") from None


def _open(url: str) -> BaseStorage:
    kind, separator, rest = url.partition("://")
    if not separator and re.match(r"\w+:", url):
        raise ValueError("not a URL, nor the path of a file")
    with locked(url, patience=0):
        if not separator:
            _require_journal(url)
            lock: Any = _JournalLock(url)  # Optuna's base class of such locks is not public
            storage: BaseStorage = JournalStorage(JournalFileBackend(url, lock))
        elif kind == "grpc":
            host, _, port = rest.strip("/").rpartition(":")
            if not host or not port.isdigit():
                raise ValueError("it needs a host and a port")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                storage = GrpcStorageProxy(host=host, port=int(port))
            storage.wait_server_ready(timeout=CONNECT)
        else:
            options = {"connect_args": {"connect_timeout": CONNECT}} if kind.startswith("postgresql") else {}
            storage = get_storage(RDBStorage(_with_driver(url), engine_kwargs={"pool_pre_ping": True, **options}))
        storage.get_all_studies()
    return storage


def redacted(url: str) -> str:
    """The URL without its password; what follows sqlite:/// is a file's name."""
    if url.startswith("sqlite:///"):
        return url
    url = re.sub(rf"{QUERY}[^&]*", r"\1***", url)
    return re.sub(rf"{USER}:(?:.*(?=@)|{NO_PORT}.*)", r"\1:***", url)


def _secrets(url: str) -> list[str]:
    """The passwords in the URL, as written and decoded."""
    if redacted(url) == url:
        return []
    found = [match[2] for match in re.finditer(rf"{QUERY}([^&]*)", url)]
    found += [match[2] for match in re.finditer(rf"{USER}:(.*(?=@)|{NO_PORT}.*)", url)]
    return [text for secret in found if secret for text in (secret, urllib.parse.unquote(secret))]


def _with_driver(url: str) -> str:
    """The URL with the driver that is installed: SQLAlchemy takes psycopg2 where postgresql:// names none."""
    if url.startswith("postgresql://") and importlib.util.find_spec("psycopg2") is None:
        return url.replace("postgresql://", "postgresql+psycopg://", 1)
    return url


@contextlib.contextmanager
def locked(url: str, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of the storage at `url`, for what one process at a time may do: make tables, fill a queue.

    For files it is a lock beside them, for PostgreSQL an advisory lock. Other servers have none, so what is done under
    it must be right without it too. The exception is the making of MySQL's tables: start one command first.
    """
    kind, separator, _ = url.partition("://")
    if not separator or kind.startswith("sqlite"):
        name = sqlalchemy.make_url(url).database if separator else url
        if not name or name == ":memory:":
            raise ValueError("it names no file")
        with storage_errors(Path(name)):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            file = open(f"{name}.mutex", "a")  # noqa: SIM115  closed below
        with file:
            flock(file)
            yield
    elif kind.startswith("postgresql"):
        connection = retry(lambda: _advisory_lock(url), patience)
        try:
            yield  # the lock goes with the connection
        finally:
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.invalidate()
                connection.close()
    else:
        yield


def _advisory_lock(url: str) -> sqlalchemy.Connection:
    key = int.from_bytes(hashlib.sha256(b"pipeline.search").digest()[:4], "big")
    arguments = {"connect_timeout": CONNECT}
    engine = sqlalchemy.create_engine(_with_driver(url), poolclass=sqlalchemy.NullPool, connect_args=arguments)
    connection = engine.connect()
    connection.execute(sqlalchemy.text(f"select pg_advisory_lock({key})"))
    return connection


class _JournalLock:
    """A lock on the journal file itself, which the kernel releases when its holder is killed; Optuna's own stays.

    A last line that was not written to its end, because its writer was killed or the disk was full, is cut off. The
    journal could not be read with it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        file = open(self.path, "rb+")  # noqa: SIM115  closed by release
        flock(file)
        self._file = file
        _cut_torn_line(file)
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _require_journal(path: str) -> None:
    """Raise ValueError where the last line of another kind of file would be cut off. Zeros are left by a power cut."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        begin = file.read(len(BEGIN))
        if begin.strip(b"\0") and not BEGIN.startswith(begin):
            raise ValueError("it is not an Optuna journal")


def _cut_torn_line(file: IO[bytes]) -> None:
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole:
        begin = max(0, whole - 4096)
        file.seek(begin)
        line_end = file.read(whole - begin).rfind(b"\n")
        if line_end >= 0:
            whole = begin + line_end + 1
            break
        whole = begin
    if whole < end:
        file.truncate(whole)


def create(storage: BaseStorage, name: str, directions: list[StudyDirection]) -> bool:
    """Make the study `name`; whether it was not there yet."""
    try:
        storage.create_new_study(directions, name)
    except DuplicatedStudyError:
        return False
    return True
