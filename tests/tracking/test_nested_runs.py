"""Runs of trials are nested in the run of their study, whichever process comes first."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.tracking import tracker as tracker_module
from pipeline.tracking.mlflow_client import open_client
from pipeline.tracking.outbox import Outbox, lock, read_header
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.uploader import Uploader
from tests.tracking.mlflow_store import client, entries, history, named, opened, runs

ROOT = Path(__file__).resolve().parents[2]


def parent_of(run):
    return run.data.tags.get("mlflow.parentRunId")


def below(run):
    """The names of the runs that MLflow's UI shows below a run."""
    found = client().search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    return sorted(run.info.run_name for run in found)


def test_runs_are_nested_in_the_parents(root, folder):
    study = root / ".work" / "study"
    with Tracker(study, "digits", "study") as parent:
        for trial in range(2):
            with Tracker(folder / f"{trial}", "digits", f"trial-{trial}", parent=study) as tracker:
                tracker.metrics(1, {"loss/d": float(trial)})
                tracker.close("KILLED" if trial else "FINISHED")
        parent.metrics(1, {"best": 0.0})
    assert below(named("study")) == ["trial-0", "trial-1"] and len(runs()) == 3
    assert parent_of(named("study")) is None and history("best", named("study")) == [(1, 0.0)]
    assert [named(name).info.status for name in ("study", "trial-0", "trial-1")] == ["FINISHED", "FINISHED", "KILLED"]
    assert "parent" not in entries(study, "run")[0]["value"]


def test_a_child_makes_the_parents_run_and_sends_nothing_else_of_it(folder, study, capsys):
    waiting = Outbox(study, "digits", "study")
    for step in (1, 2):
        waiting.add("metric", "best", step / 2, step)
    waiting.add("status", "", "KILLED", 0)
    with opened(folder, parent=study):
        pass
    made = named("study")
    assert below(made) == ["tiny-0"] and made.data.metrics == {} and made.info.status == "RUNNING"
    tracker_module.sync()
    tracker_module.sync()
    assert capsys.readouterr().out.count("study: 4 entries sent") == 1  # the header is among them
    assert named("study").info.run_id == made.info.run_id and history("best", made) == [(1, 0.5), (2, 1.0)]
    assert named("study").info.status == "KILLED" and below(made) == ["tiny-0"] and len(runs()) == 2


@pytest.mark.slow
def test_children_of_two_processes_make_one_parents_run(root, study):
    code = (
        "import sys, time; from pathlib import Path; from mlflow.tracking.client import MlflowClient\n"
        "from pipeline.tracking.tracker import CLOSE_WAIT, Tracker\n"
        "CLOSE_WAIT['FINISHED'], make = 240.0, MlflowClient.create_run\n"
        "def slow(self, experiment, moment, tags, name):\n"
        "    time.sleep(2 * (name == 'study'))\n"
        "    return make(self, experiment, moment, tags, name)\n"
        "MlflowClient.create_run = slow\n"
        "Path(sys.argv[1]).touch()\n"
        "while not Path('go').exists(): time.sleep(0.01)\n"
        "with Tracker(Path('.work') / sys.argv[1], 'digits', sys.argv[1], parent=Path('.work/study')) as tracker:\n"
        "    tracker.metrics(1, {'a': 2.0})"
    )
    names = ["trial-0", "trial-1"]
    processes = [
        subprocess.Popen([sys.executable, "-W", "error::UserWarning", "-c", code, name], text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for name in names
    ]  # fmt: skip
    deadline = time.monotonic() + 120
    while not all((root / name).exists() for name in names) and time.monotonic() < deadline:
        time.sleep(0.05)
    (root / "go").touch()
    assert [process.communicate(timeout=300)[0] for process in processes] == ["", ""]
    assert sorted(run.info.run_name for run in runs()) == ["study", *names] and below(named("study")) == names


def test_a_lost_answer_makes_no_second_parents_run(folder, study, monkeypatch):
    from mlflow.tracking.client import MlflowClient

    make, lost = MlflowClient.create_run, []

    def create_run(self, experiment, moment, tags, name):
        run = make(self, experiment, moment, tags, name)
        if not lost:
            lost.append(name)
            raise ConnectionError("the answer was lost")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    tracker = opened(folder, parent=study)
    deadline = time.monotonic() + 30
    while not (folder / "mlflow.json").exists() and time.monotonic() < deadline:  # written when a round succeeds
        time.sleep(0.01)
    tracker.close()
    assert lost == ["study"] and below(named("study")) == ["tiny-0"] and len(runs()) == 2


@pytest.mark.parametrize("kind", ["refused", "500", "nonsense"])
def test_nested_runs_survive_a_dead_server_and_a_move(root, server, monkeypatch, caplog, kind):
    host = {"refused": lambda: "127.0.0.1:9", "500": lambda: server(500), "nonsense": lambda: server(200)}[kind]()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{host}")
    with Tracker(root / ".work" / "study", "digits", "study") as parent:
        parent.metrics(1, {"best": 1.0})
        for trial in range(2):  # the first sorts before the study, the second after it
            folder = root / ".work" / f"{'az'[trial]}-0-abc" / "study"
            with Tracker(folder, "digits", f"trial-{trial}", parent=root / ".work" / "study") as tracker:
                tracker.metrics(1, {"loss/d": 1.0})
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "pipeline.tracking sync" in caplog.text

    moved = root.parent / "moved"
    root.rename(moved)
    monkeypatch.chdir(moved)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for _ in range(2):
        tracker_module.sync()
        assert below(named("study")) == ["trial-0", "trial-1"] and len(runs()) == 3
        assert history("best", named("study")) == [(1, 1.0)] and history("loss/d", named("trial-1")) == [(1, 1.0)]
        assert {run.info.status for run in runs()} == {"FINISHED"}


def test_another_server_gets_its_own_parent(root, folder, study, monkeypatch, empty_store):
    with opened(folder, parent=study):
        pass
    first = named("study").info.run_id
    (root / "mlflow.db").rename(root / "first.db")
    shutil.copyfile(empty_store, root / "mlflow.db")  # client() looks here
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/./mlflow.db")
    open_client(f"sqlite:///{root}/./mlflow.db")
    tracker_module.sync()
    states = json.loads((study / "mlflow.json").read_text())
    assert len(states) == 2 and first in {state["run_id"] for state in states.values()}
    other = open_client(f"sqlite:///{root}/./mlflow.db")
    found = other.search_runs([other.get_experiment_by_name("digits").experiment_id])
    made = {run.info.run_name: run for run in found}
    assert len(found) == 2 and parent_of(made["tiny-0"]) == made["study"].info.run_id != first


def test_the_parent_is_made_on_the_server_of_the_child(folder, study, monkeypatch):
    Outbox(folder, "digits", "tiny-0", study)
    sending = Uploader(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert sending.send() == 1 and below(named("study")) == ["tiny-0"]


def test_a_deleted_parent_is_created_again_under_its_open_tracker(folder, root, caplog):
    study = root / ".work" / "study"
    with Tracker(study, "digits", "study") as parent:
        parent.metrics(1, {"best": 1.0})
        with opened(folder, parent=study):
            pass
        gone = named("study").info.run_id
        deadline = time.monotonic() + 30
        while history("best", named("study")) != [(1, 1.0)] and time.monotonic() < deadline:
            time.sleep(0.05)
        client().delete_run(gone)
        with opened(folder, parent=study) as tracker:  # the same run, another parent
            tracker.metrics(1, {"loss/d": 1.0})
        assert named("study").info.run_id != gone and below(named("study")) == ["tiny-0"] and len(runs()) == 2
        parent.metrics(2, {"best": 2.0})
    assert history("best", named("study")) == [(1, 1.0), (2, 2.0)] and len(runs()) == 2
    assert named("study").info.status == "FINISHED" and caplog.messages == []


def test_a_child_stays_nested_when_another_stage_continues_it(root, folder, study):
    with opened(folder, parent=study):
        pass
    before = named("tiny-0").info.run_id
    client().set_tag(before, "mlflow.parentRunId", "of a run that is gone")
    with opened(folder) as tracker:
        tracker.metrics(1, {"fid": 1.0})
    assert named("tiny-0").info.run_id == before and below(named("study")) == ["tiny-0"] and len(runs()) == 2


def test_a_parent_without_an_outbox_holds_nothing_up_and_can_come_later(root, folder, caplog):
    study = root / ".work" / "study"
    with opened(folder, parent=study), opened(root / ".work" / "own", parent=root / ".work" / "own"):
        pass
    assert [parent_of(run) for run in runs()] == [None, None] and not study.exists() and caplog.messages == []
    Outbox(study, "digits", "study")
    tracker_module.sync()
    assert len(below(named("study"))) == 1 and len(runs()) == 3


def test_a_busy_parent_that_the_server_has_makes_no_child_wait(folder, study):
    with opened(folder / "0", parent=study):
        pass
    with lock(study / "outbox.lock", wait=False), Tracker(folder / "1", "digits", "1", parent=study) as tracker:
        tracker.close()
        assert below(named("study")) == ["1", "tiny-0"]


def test_where_the_parent_lies_is_kept_relative_within_work(root, tmp_path):
    work, outside = root / ".work", tmp_path / "outside"
    (root / "link").symlink_to(work)
    for child, parent, place in [
        (work / "a", Path(".work/study"), "../study"),
        (work / "b" / "study", root / "link" / "study", "../../study"),
        (work / "c", outside, str(outside)),
        (tmp_path / "d", work / "study", str(work / "study")),
        (work / "e", Path("link/e"), None),
    ]:
        Outbox(child, "digits", "trial", parent)
        assert read_header(child)["value"].get("parent") == place
