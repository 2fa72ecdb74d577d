"""Where a study is kept: ten that make it at once, what cannot be opened, servers that are killed, torn journals."""

import contextlib
import gc
import inspect
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from pipeline.core.errors import PipelineError, exit_cleanly
from pipeline.search.study import jobs, outages, storage
from pipeline.search.study.outages import PatientStorage
from pipeline.search.study.storage import _cut_torn_line, locked, open_storage, open_study, redacted
from pipeline.search.study.study import _make

# psycopg warns of connections that a pool still holds when it is collected, as it is here by every open_study().
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"space": {"lr_g": {"low": 1, "high": 2}}, "steps": 20, "model": "dcgan", "recipe": {"width_g": 8}}


def free_port() -> int:
    """A port that no outgoing connection gets: one that tries again and again at a dead server would take its port."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
            return int(listener.getsockname()[1])


def start(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def states(url: str, name: str = "s") -> list[str]:
    ref = open_study(url, name)
    return [trial.state.name for trial in ref.storage.get_all_trials(ref.study_id)]


# All at once.

PROCESSES = multiprocessing.get_context("forkserver")  # which import torch once for all
PROCESSES.set_forkserver_preload(["pipeline.search.study.study"])


def make_and_claim(url: str, me: int, folder: Path, count: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (folder / f"ready-{me}").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    ref = open_study(url, "s")
    _make(ref, {"steps": 20}, [{"x": 0.5}], count)
    claimed = []
    while (trial_id := jobs.claim(ref)) is not None:
        claimed.append(ref.storage.get_trial(trial_id).number)
        ref.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    (folder / f"claimed-{me}").write_text(" ".join(map(str, claimed)))


def race(url: str, folder: Path, trials: int = 24, processes: int = 10) -> None:
    """Processes that open, make and fill the study at the same instant, and then empty it."""
    started = [PROCESSES.Process(target=make_and_claim, args=(url, me, folder, trials)) for me in range(processes)]
    for process in started:
        process.start()
    deadline = time.monotonic() + 240
    while len(list(folder.glob("ready-*"))) < processes and time.monotonic() < deadline:
        time.sleep(0.05)
    (folder / "go").touch()
    for process in started:
        process.join(240)
    assert [process.exitcode for process in started] == [0] * processes
    claimed = [int(number) for path in folder.glob("claimed-*") for number in path.read_text().split()]
    ref = open_study(url, "s")
    trials_there = ref.storage.get_all_trials(ref.study_id)
    kept = [trial for trial in trials_there if trial.state != TrialState.FAIL]
    assert sorted(claimed) == [trial.number for trial in kept]  # each claimed once
    assert [trial.state.name for trial in kept] == ["COMPLETE"] * trials
    assert sorted(trial.user_attrs["slot"] for trial in kept) == list(range(trials))
    assert kept[0].system_attrs["fixed_params"] == {"x": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_ten_make_the_same_study_at_the_same_instant(kind: str, tmp_path: Path) -> None:
    race(f"sqlite:///{tmp_path}/s.db" if kind == "sqlite" else f"{tmp_path}/s.journal", tmp_path)
    url = f"sqlite:///{tmp_path}/s.db" if kind == "sqlite" else f"{tmp_path}/s.journal"
    assert states(url) == ["COMPLETE"] * 24  # under a lock none is made in vain


# What cannot be opened.


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://me:secret@127.0.0.1:{port}/s", "postgresql://me:***@127.0.0.1:{port}/s cannot be opened ("),
        ("postgresql+psycopg://me:se/cr@t@127.0.0.1:{port}/s", "postgresql+psycopg://me:***@127.0.0.1:{port}/s cannot"),
        (
            "postgresql://127.0.0.1:{port}/s?user=me&password=secret",
            "postgresql://127.0.0.1:{port}/s?user=me&password=",
        ),
        ("grpc://127.0.0.1:{port}", "grpc://127.0.0.1:{port} cannot be opened (no answer within"),
        ("grpc://127.0.0.1", "grpc://127.0.0.1 cannot be opened (it needs a host and a port): --storage takes a path"),
        (
            "nodb://me:secret@host/s",
            "nodb://me:***@host/s cannot be opened (Can't load plugin: sqlalchemy.dialects:nodb",
        ),
        ("postgresql+nodriver://me:secret@host/s", "postgresql+nodriver://me:***@host/s cannot be opened ("),
        ("postgresql:/me:secret@host/s", "postgresql:/me:***@host/s cannot be opened (not a URL, nor the path"),
        ("://", ":// cannot be opened ("),
        ("sqlite://", "sqlite:// cannot be opened (it names no file): --storage takes a path (journal file), "),
        ("sqlite:///:memory:", "sqlite:///:memory: cannot be opened (it names no file): --storage takes"),
        ("{folder}/closed/s.journal", "{folder}/closed/s.journal cannot be opened ({folder}/closed: File exists)"),
        ("sqlite:///{folder}/closed/s.db", "sqlite:///{folder}/closed/s.db cannot be opened ({folder}/closed: File"),
        ("{folder}", "{folder} cannot be opened ("),
        ("{folder}/notes.yaml", "{folder}/notes.yaml cannot be opened ("),
        ("{folder}/list.json", "{folder}/list.json cannot be opened ("),
        ("{folder}/token.txt", "{folder}/token.txt cannot be opened (it is not an Optuna journal): --storage takes"),
        ("sqlite:///{folder}/notes.yaml", "sqlite:///{folder}/notes.yaml cannot be opened (file is not a database"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(
    url: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CONNECT", 1)
    notes = "a: 1\nb: 2\nno newline at the end"
    (tmp_path / "notes.yaml").write_text(notes)
    (tmp_path / "list.json").write_text('{"a": 1}\n{"a": 2}\n')
    (tmp_path / "token.txt").write_text("one line without its newline")
    (tmp_path / "closed").write_text("")  # root may write in any folder, but not below a file
    filled = {"port": free_port(), "folder": tmp_path}
    with pytest.raises(PipelineError) as caught:
        open_storage(url.format(**filled))
    message = str(caught.value)
    assert message.startswith(sentence.format(**filled)), message
    assert "\n" not in message and "secret" not in message and "cr@t" not in message
    assert (tmp_path / "notes.yaml").read_text() == notes
    assert (tmp_path / "token.txt").read_text() == "one line without its newline"


def test_a_command_says_it_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        exit_cleanly(lambda: open_study(f"postgresql://me:secret@127.0.0.1:{free_port()}/s", "s"))()
    printed = capsys.readouterr().err
    assert caught.value.code == 2
    assert printed.startswith("error: postgresql://me:***@127.0.0.1:") and printed.count("\n") == 1, printed


def test_a_password_is_not_shown() -> None:
    assert redacted("postgresql://me:a:b@c/d@host:1/s") == "postgresql://me:***@host:1/s"
    assert redacted("postgresql://me@host:1/s") == "postgresql://me@host:1/s"
    assert redacted("mysql+pymysql://:x@host/s") == "mysql+pymysql://:***@host/s"
    assert redacted("a/b:c.journal") == "a/b:c.journal"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "space",
            {"lr_g": {"low": 1, "high": 3}},
            "another space: lr_g is {'low': 1, 'high': 2} there, {'low': 1, 'hi",
        ),
        ("space", {}, "another space: lr_g is {'low': 1, 'high': 2} there, None here"),
        ("steps", 30, "another steps: 20 there, 30 here"),
        ("recipe", {"width_g": 9}, "another recipe: width_g is 8 there, 9 here"),
    ],
)
def test_a_study_of_something_else_is_one_sentence(key: str, value: Any, sentence: str, tmp_path: Path) -> None:
    ref = open_study(f"{tmp_path}/s.journal", "s")
    _make(ref, SETTINGS, [], 3)
    with pytest.raises(PipelineError) as caught:
        _make(ref, {**SETTINGS, key: value}, [], 4)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/s.journal holds a study 's' with {sentence}"), message
    assert message.endswith("change that back to continue it, or start another with --study NAME")
    assert states(ref.url) == ["WAITING"] * 3
    _make(ref, SETTINGS, [], 4)
    assert states(ref.url) == ["WAITING"] * 4


def test_a_study_that_others_made_is_left_alone(tmp_path: Path) -> None:
    ref = open_study(f"{tmp_path}/s.journal", "s")
    optuna.create_study(storage=ref.storage, study_name="s").enqueue_trial({})
    with pytest.raises(PipelineError, match="did not make: start another with --study NAME"):
        _make(ref, SETTINGS, [], 3)
    assert len(states(ref.url)) == 1


def test_a_maker_that_was_killed_before_it_wrote_the_settings_is_followed_by_another(tmp_path: Path) -> None:
    ref = open_study(f"{tmp_path}/s.journal", "s")
    ref.storage.create_new_study([StudyDirection.MINIMIZE], "s")
    _make(ref, SETTINGS, [], 3)
    assert json.loads(ref.load().user_attrs["settings"]) == SETTINGS
    assert states(ref.url) == ["WAITING"] * 3


# Journal files.


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 9000])
def test_what_a_killed_writer_left_of_a_line_is_cut_off(length: int, tmp_path: Path) -> None:
    path = tmp_path / "j"
    for whole in (b"", b"{}\n", b"x" * 5000 + b"\n"):
        path.write_bytes(whole + b"y" * length)
        with open(path, "rb+") as file:
            _cut_torn_line(file)
        assert path.read_bytes() == whole


def test_a_torn_journal_goes_on(tmp_path: Path) -> None:
    ref = open_study(f"{tmp_path}/s.journal", "s")
    _make(ref, SETTINGS, [], 2)
    with open(ref.url, "ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x","trial_i')
    assert states(ref.url) == ["WAITING"] * 2
    ref = open_study(ref.url, "s")
    _make(ref, SETTINGS, [], 3)
    assert states(ref.url) == ["WAITING"] * 3


def test_a_journal_lock_goes_with_its_holder_and_optunas_own_is_not_waited_for(tmp_path: Path) -> None:
    ref = open_study(f"{tmp_path}/s.journal", "s")
    _make(ref, SETTINGS, [], 1)
    os.symlink("s.journal", f"{ref.url}.lock")  # as Optuna leaves it after a kill; it would wait for 30 s
    code = """
        import sys, time
        from pipeline.search.study.storage import _JournalLock, locked
        with locked(sys.argv[1]):
            _JournalLock(sys.argv[1]).acquire()
            print("held", flush=True)
            time.sleep(600)
    """
    holder = start(code, ref.url, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    made = threading.Thread(target=lambda: _make(open_study(ref.url, "s"), SETTINGS, [], 4))
    made.start()
    made.join(0.5)
    assert made.is_alive()
    holder.kill()
    holder.communicate()
    made.join(10)
    assert not made.is_alive()
    assert states(ref.url) == ["WAITING"] * 4


def test_optuna_itself_reads_the_journal(tmp_path: Path) -> None:
    ref = open_study(f"{tmp_path}/s.journal", "s")
    _make(ref, SETTINGS, [{"lr_g": 1.0}], 3)
    theirs = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(JournalFileBackend(ref.url)))
    assert [trial.state for trial in theirs.trials] == [TrialState.WAITING] * 3


# Outages.


def test_every_call_is_passed_on_with_all_that_it_was_given() -> None:
    calls = []

    class Inner:
        def __getattr__(self, name: str) -> Any:
            def method(*given: Any) -> str:
                calls.append((name, given))
                return "answer"

            return method

    patient: Any = PatientStorage(Inner())  # type: ignore[arg-type]
    for name in {"get_trial_id_from_study_id_trial_number", *optuna.storages.BaseStorage.__abstractmethods__}:
        signature = inspect.signature(getattr(optuna.storages.BaseStorage, name))
        given = tuple(f"its {parameter}" for parameter in list(signature.parameters)[1:])
        assert getattr(patient, name)(*given) == (None if signature.return_annotation == "None" else "answer")
        assert calls.pop() == (name, given) and not calls


def test_an_outage_is_waited_for_and_a_long_one_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outages, "RETRY", 0.01)
    failures = 3

    class Shaky(optuna.storages.InMemoryStorage):
        def get_all_studies(self) -> Any:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise optuna.exceptions.StorageInternalError("gone")
            return super().get_all_studies()

    patient = PatientStorage(Shaky())
    assert patient.get_all_studies() == []
    assert capsys.readouterr().err == "warning: the study's storage does not answer; waiting for it\n"
    failures = 10**9
    monkeypatch.setattr(outages, "PATIENCE", 0.05)
    with pytest.raises(
        PipelineError, match=r"^the study's storage has not answered for 0 minutes \(gone\): when it is "
    ):
        patient.get_all_studies()
    with pytest.raises(KeyError):  # no outage: raised at once
        patient.get_study_id_from_name("none")


def test_a_journal_that_was_removed_is_one_sentence(tmp_path: Path) -> None:
    patient = open_storage(f"{tmp_path}/s.journal")
    (tmp_path / "s.journal").unlink()
    with pytest.raises(
        PipelineError, match=r"s\.journal was removed while the study ran: put it back, or run the same"
    ):
        patient.get_all_studies()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    patient = open_storage(f"{tmp_path}/s.journal")
    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(PipelineError, match="No space left on device; free some space and run the command again"):
        patient.create_new_study([StudyDirection.MINIMIZE], "s")


# PostgreSQL, as Debian packages it.


class Server:
    """A private PostgreSQL server."""

    def __init__(self, folder: Path) -> None:
        found = [shutil.which("postgres"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres")))]
        binary = next((Path(path).resolve() for path in found if path), None)
        if binary is None:
            pytest.skip("no PostgreSQL server is here: apt-get install postgresql")
        pytest.importorskip("psycopg", reason="no driver for PostgreSQL is here: pip install 'psycopg[binary]'")
        self.binary, self.folder, self.port = binary, folder / "data", free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.log = folder / "log"
        folder.chmod(0o755)
        self.folder.mkdir()
        self._as_nobody = []
        if os.geteuid() == 0:  # as which no PostgreSQL runs
            shutil.chown(self.folder, "postgres", "postgres")
            self._as_nobody = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        made = [*self._as_nobody, str(binary.parent / "initdb"), "-D", str(self.folder), "-U", "postgres"]
        subprocess.run([*made, "-A", "trust", "--no-sync"], check=True, capture_output=True, cwd="/")
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [str(self.binary), "-D", str(self.folder), "-p", str(self.port), "-h", "127.0.0.1"]
        command += ["-c", "unix_socket_directories=", "-c", "fsync=off"]

        def launch() -> subprocess.Popen[bytes]:
            with open(self.log, "ab") as log:
                return subprocess.Popen([*self._as_nobody, *command], cwd="/", stdout=log, stderr=log)

        self.process = launch()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self.process
            if self.process.poll() is not None:  # children of the one that was killed still hold its memory
                self.process = launch()
            time.sleep(0.1)
        pytest.fail(f"PostgreSQL does not start: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Not in pytest's own folder, which only root may enter: another pytest that starts meanwhile sees to that."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        running = Server(Path(folder))
        yield running
        gc.collect()  # while the mark above holds
        running.process.send_signal(signal.SIGINT)
        running.process.wait(timeout=60)


@pytest.mark.slow
def test_ten_make_the_same_study_on_postgresql(server: Server, tmp_path: Path) -> None:
    race(server.url, tmp_path)
    assert states(server.url) == ["COMPLETE"] * 24


def work(url: str, name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    outages.RETRY = 0.2
    ref = open_study(url, name, 60.0)
    _make(ref, {"steps": 20}, [], 40)
    worker = jobs.Worker()
    while ref.storage.get_all_trials(ref.study_id, states=(TrialState.WAITING,)):
        trial_id = jobs.claim(ref)
        if trial_id is None:
            continue
        ref.storage.set_trial_user_attr(trial_id, "worker", worker.name)
        trial = optuna.trial.Trial(ref.load(), trial_id)
        for step in range(3):
            trial.report(float(trial.number), step)
            time.sleep(0.02)
        ref.load().tell(trial, float(trial.number), skip_if_finished=True)


@pytest.mark.slow
def test_a_study_outlives_kills_of_postgresql(server: Server, tmp_path: Path) -> None:
    workers = [PROCESSES.Process(target=work, args=(server.url, "killed")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(3):
        deadline = time.monotonic() + 120
        before = len(over(server.url))
        while len(over(server.url)) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        server.kill()
        time.sleep(0.5)
        server.start()
    for worker in workers:
        worker.join(240)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    ref = open_study(server.url, "killed")
    left = ref.storage.get_all_trials(ref.study_id, states=(TrialState.RUNNING,))
    for trial in left:  # a claim whose answer was lost: its worker did not know that it had it
        assert jobs.requeue(ref, ref.trial_id(trial.number), trial.user_attrs.get("worker", ""), crashed=True)
    if left:
        last = PROCESSES.Process(target=work, args=(server.url, "killed"))
        last.start()
        last.join(240)
    trials = ref.storage.get_all_trials(ref.study_id)
    assert [(trial.state.name, trial.value) for trial in trials] == [("COMPLETE", float(n)) for n in range(40)]


def over(url: str) -> list[Any]:
    try:
        ref = open_study(url, "killed", 60.0)
        return ref.storage.get_all_trials(ref.study_id, states=(TrialState.COMPLETE,))
    except KeyError:
        return []


# A gRPC proxy.


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    code = """
        import sys, optuna
        from optuna.storages.journal import JournalFileBackend
        storage = optuna.storages.JournalStorage(JournalFileBackend(sys.argv[1]))
        optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
    """
    server = start(code, f"{tmp_path}/s.journal", str(port), stdout=subprocess.DEVNULL)
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.kill()
        server.communicate()


@pytest.mark.slow
def test_ten_make_the_same_study_through_a_grpc_proxy(proxy: str, tmp_path: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            open_storage(proxy)
            break
        except PipelineError:
            time.sleep(0.2)
    race(proxy, tmp_path)  # without a lock: what was made twice is set aside
    again = open_study(proxy, "s")
    _make(again, {"steps": 20}, [], 26)
    assert states(proxy).count("COMPLETE") == 24
    assert states(proxy).count("WAITING") == 2
    with pytest.raises(PipelineError, match="holds a study 's' with another steps: 20 there, 30 here"):
        _make(again, {"steps": 30}, [], 26)


def test_a_lock_is_of_one_storage(tmp_path: Path) -> None:
    with locked(f"{tmp_path}/a.journal"), locked(f"sqlite:///{tmp_path}/a.db"), locked("grpc://host:1"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db.mutex", "a.journal.mutex"]
