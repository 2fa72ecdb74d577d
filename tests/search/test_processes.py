"""What a worker is given_on by its environment, and what everybody can read on its command line."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from pipeline.search import __main__ as command_line
from pipeline.search.study.storage import StudyRef
from pipeline.search.workers import worker
from pipeline.search.workers.processes import run_here

URL = "postgresql://me:secret@db.example/studies"
ASKED = ["--model", "dcgan", "--trials", "2"]


def test_a_worker_has_its_environment_and_nothing_of_it_on_its_command_line(tmp_path: Path) -> None:
    out = tmp_path / "seen"
    code = """if True:
        import os, pathlib, sys, time
        line, url = pathlib.Path("/proc/self/cmdline").read_text(), os.environ["PIPELINE_STORAGE"]
        pathlib.Path(sys.argv[1]).write_text(f"{url} {'sec' + 'ret' in line} {'argv' in line}")
        time.sleep(60)
    """
    command = [sys.executable, "-c", code, str(out)]
    run_here(
        command, 1, {"PIPELINE_STORAGE": URL}, lambda: out.exists() and out.read_text() != "", lambda: False, print
    )
    assert out.read_text() == f"{URL} False True"


@pytest.mark.parametrize("cluster", [None, "ray://host:1"])
def test_no_password_is_on_the_command_line_of_a_worker(cluster: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, given_on = InMemoryStorage(), []
    optuna.create_study(storage=storage, study_name="s").enqueue_trial({})
    monkeypatch.setattr(command_line, "run_here", lambda *given: given_on.extend(given))
    monkeypatch.setattr(command_line, "run_on_ray", lambda address, *given: given_on.extend(given))
    options = Namespace(workers=1, cluster=cluster, cpus=1.0, gpus=0.0)
    command_line._work(StudyRef(URL, "s", storage), "dcgan", options, [])
    command, count, environment = given_on[:3]
    assert command[1:] == ["-m", "pipeline.search.workers.worker", "--study", "s", "--model", "dcgan"] and count == 1
    assert environment == {"PIPELINE_STORAGE": URL}


def test_the_storage_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_STORAGE", raising=False)
    assert command_line._options(ASKED).storage is None
    monkeypatch.setenv("PIPELINE_STORAGE", URL)
    assert command_line._options(ASKED).storage == URL
    assert command_line._options([*ASKED, "--cluster", "auto"]).storage == URL
    assert command_line._options([*ASKED, "--storage", "a.journal"]).storage == "a.journal"


def test_a_cluster_without_a_storage_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PIPELINE_STORAGE", raising=False)
    with pytest.raises(SystemExit):
        command_line._options([*ASKED, "--cluster", "auto"])
    assert "--cluster needs --storage or PIPELINE_STORAGE: a URL, or a file on" in capsys.readouterr().err


def test_a_worker_opens_what_its_environment_names(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    opened: list[Any] = []

    class Opened(Exception):
        pass

    def open_study(*given: Any) -> None:
        opened.extend(given)
        raise Opened

    monkeypatch.setattr(worker, "begin", lambda: None)
    monkeypatch.setattr(worker, "open_study", open_study)
    monkeypatch.setattr(worker, "stop_signals", list)
    monkeypatch.setenv("PIPELINE_STORAGE", URL)
    with pytest.raises(Opened):
        worker.main(["--study", "s", "--model", "dcgan"])
    assert opened[:2] == [URL, "s"]
    monkeypatch.delenv("PIPELINE_STORAGE")
    with pytest.raises(SystemExit):
        worker.main(["--study", "s", "--model", "dcgan"])
    assert "PIPELINE_STORAGE must hold the storage's URL: pipeline.search sets it" in capsys.readouterr().err
