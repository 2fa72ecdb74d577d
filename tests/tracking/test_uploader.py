"""Sending to servers that refuse, fail and dawdle, and to stores that are damaged or not there."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pipeline.tracking import mlflow_client
from pipeline.tracking import tracker as tracker_module
from pipeline.tracking.__main__ import main
from pipeline.tracking.mlflow_client import open_client
from pipeline.tracking.outbox import Outbox, lock
from pipeline.tracking.uploader import Uploader
from tests.tracking.mlflow_store import client, entries, files, history, opened, picture, runs

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "s3cr3t-pa55"


def test_what_finds_no_room_in_tmpdir_is_sent_later(folder, monkeypatch, root):
    Image.new("L", (4, 4)).save(root / "grid.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *_, **__: os.write(os.open("/dev/full", os.O_WRONLY), b"no room"))
        with opened(folder) as tracker:
            tracker.image("samples", root / "grid.png", 1)
    assert client().list_artifacts(runs()[0].info.run_id, "images") == []
    main(["sync"])
    assert len(client().list_artifacts(runs()[0].info.run_id, "images")) == 2


def test_a_database_that_cannot_be_opened_is_reported_at_once(folder, capsys, caplog, root):
    (root / "mlflow.db").unlink()
    (root / "mlflow.db").mkdir()
    started = time.monotonic()
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    with pytest.raises(SystemExit):
        main(["sync"])
    assert time.monotonic() - started < 30  # MLflow itself would try for 100 seconds, twice
    assert "unable to open database file" in capsys.readouterr().out
    assert len(caplog.messages) == 1 and "everything is kept in" in caplog.messages[0]


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_what_a_database_in_memory_would_lose_is_kept(uri: str, folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        with opened(folder) as tracker:
            tracker.metrics(1, {"loss/d": 1.0})
        with pytest.raises(SystemExit):
            main(["sync"])
        assert f"{uri} is a database in memory, which is lost when this process ends" in capsys.readouterr().out
    main(["sync"])
    assert history("loss/d") == [(1, 1.0)]


def test_an_address_without_its_scheme_shows_no_password_either(folder, caplog, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"me:{PASSWORD}@mlflow.example")
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    with pytest.raises(SystemExit):
        main(["sync"])
    assert PASSWORD not in caplog.text + "".join(capsys.readouterr()) and "MLflow at mlflow.example" in caplog.text


def test_an_entry_that_mlflow_refuses_is_dropped_and_named(folder, capsys, caplog):
    with opened(folder) as tracker:
        tracker.params({"a": 1, "b": 2, "c": 3})
    client().set_terminated(runs()[0].info.run_id)
    spool = folder / "outbox.jsonl"
    spool.write_text(spool.read_text().replace('"value": "2"', '"value": "9"'))
    state = json.loads((folder / "mlflow.json").read_text())
    for server in state.values():
        server["sent"] = 0
    (folder / "mlflow.json").write_text(json.dumps(state))
    with pytest.raises(SystemExit) as stop:
        main(["sync"])
    assert stop.value.code == 2 and "1 left out" in capsys.readouterr().out
    assert len(caplog.messages) == 1 and "param b is left out" in caplog.messages[0]
    assert runs()[0].data.params == {"a": "1", "b": "2", "c": "3"}


def test_lost_and_broken_files_do_not_block_the_rest(root, folder, caplog):
    (root / "broken.png").write_bytes(b"no image")
    with opened(folder) as tracker:
        tracker.image("samples", root / "missing.png", 1)
        tracker.image("samples", root / "broken.png", 2)
        tracker.image("samples", picture(root / "good.png"), 3)
    assert [path.split("+")[2] for path in files("images")] == ["3", "3"] and runs()[0].info.status == "FINISHED"
    assert len(caplog.messages) == 2 and "missing.png" in "".join(caplog.messages)


def test_a_deleted_run_is_made_again(folder):
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    gone = runs()[0].info.run_id
    client().delete_run(gone)
    with opened(folder) as tracker:
        tracker.metrics(2, {"loss/d": 2.0})
    (run,) = runs()
    assert run.info.run_id != gone and history("loss/d") == [(1, 1.0), (2, 2.0)]


def test_another_tracking_uri_gets_everything(root, folder, monkeypatch, empty_store):
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    shutil.copyfile(empty_store, root / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'other.db'}")
    with opened(folder) as tracker:
        tracker.metrics(2, {"loss/d": 2.0})
    other = open_client(f"sqlite:///{root / 'other.db'}")
    (run,) = other.search_runs([other.get_experiment_by_name("digits").experiment_id])
    points = [(metric.step, metric.value) for metric in other.get_metric_history(run.info.run_id, "loss/d")]
    assert points == [(1, 1.0), (2, 2.0)] and history("loss/d") == [(1, 1.0)]
    states = json.loads((folder / "mlflow.json").read_text())
    assert len(states) == 2 and {state["experiment"] for state in states.values()} == {"digits"}
    assert len({state["run_id"] for state in states.values()}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refused", "500", "slow", "nonsense"])
def test_a_bad_server_costs_one_warning_and_no_time(root, folder, server, monkeypatch, caplog, kind):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    open_client("sqlite://")  # the import is not what is timed
    host = {"refused": lambda: "127.0.0.1:9", "500": lambda: server(500), "slow": lambda: server(200, 5),
            "nonsense": lambda: server(200)}[kind]()  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@{host}")
    start = time.monotonic()
    tracker = opened(folder)
    for step in range(200):
        tracker.metrics(step, {"loss/d": float(step)})
    took = time.monotonic() - start
    deadline = time.monotonic() + 15
    while not tracker._failed and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)  # into the next attempt
    start = time.monotonic()
    tracker.close()
    assert took < 0.5 and time.monotonic() - start < 0.5
    tracker._thread.join(10)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and f"http://{host}" in caplog.text and "pipeline.tracking sync" in caplog.text
    leaks = [path for path in root.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert leaks == [] and PASSWORD not in caplog.text

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracker_module.sync()
    assert history("loss/d") == [(step, float(step)) for step in range(200)]
    assert len(runs()) == 1 and runs()[0].info.status == "FINISHED"


def test_closing_waits_for_a_slow_server_only_so_long(folder, server, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server(200, 5)}")
    monkeypatch.setitem(tracker_module.CLOSE_WAIT, "FINISHED", 0.5)
    tracker = opened(folder)
    start = time.monotonic()
    tracker.close()
    assert 0.4 < time.monotonic() - start < 1.5
    assert len(caplog.messages) == 1 and "takes too long" in caplog.messages[0]


def test_sync_says_what_it_sent_and_what_it_could_not(folder, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@127.0.0.1:9")
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    with pytest.raises(SystemExit) as stop:
        main(["sync"])
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and out.startswith("tiny-0: ") and out.count("\n") == 1
    assert "1 of 1 runs could not be sent" in error and PASSWORD not in out + error
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    main(["sync"])
    main(["sync"])
    assert capsys.readouterr().out == "tiny-0: 4 entries sent\ntiny-0: 0 entries sent\n"  # run, 2 x status, metric


def test_only_one_process_sends_an_outbox_at_a_time(folder, capsys):
    with opened(folder):
        pass
    with lock(folder / "outbox.lock", wait=False) as ours:
        assert ours
        main(["sync"])
    assert capsys.readouterr().out == "tiny-0: another process is sending it\n"


@pytest.mark.slow
def test_four_processes_open_a_new_store_at_once(root):
    (root / "mlflow.db").unlink()
    code = (
        "import sys; from pathlib import Path; from pipeline.tracking.tracker import CLOSE_WAIT, Tracker\n"
        "CLOSE_WAIT['FINISHED'] = 240.0\n"  # four at once on a busy machine
        "with Tracker(Path('.work') / sys.argv[1], 'digits', sys.argv[1]) as tracker: tracker.metrics(1, {'a': 2.0})"
    )
    processes = [
        subprocess.Popen([sys.executable, "-W", "error::UserWarning", "-c", code, f"tiny-{seed}"], text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for seed in range(4)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert outputs == [""] * 4 and [process.returncode for process in processes] == [0] * 4
    assert sorted(run.info.run_name for run in runs()) == [f"tiny-{seed}" for seed in range(4)]
    assert all(run.info.status == "FINISHED" for run in runs())
    for run in runs():  # one that is open for long also has MLflow's metrics of the machine
        assert {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")} == {"a": 2.0}


@pytest.mark.slow
def test_a_store_is_made_whole_or_not_at_all(root, folder, monkeypatch):
    """MLflow can mend no store whose making was broken off: by a kill, or a full disk."""
    (root / "mlflow.db").unlink()
    real = mlflow_client.shutil.copyfile

    def broken_off(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:5000])
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(mlflow_client.shutil, "copyfile", broken_off)
    tracker = opened(folder)
    tracker.metrics(1, {"loss/d": 1.0})
    tracker.close()
    assert not list(root.glob("*mlflow.db*"))
    monkeypatch.setattr(mlflow_client.shutil, "copyfile", real)
    tracker_module.sync()
    assert len(runs()) == 1 and len(history("loss/d")) == 1


def test_mlflow_reads_the_retry_constant_that_we_set(root, monkeypatch):
    """It is private: where it moves, opening a database that is not there costs two minutes again."""
    open_client("sqlite://")
    from mlflow.store.db import utils

    monkeypatch.setattr(utils.time, "sleep", lambda seconds: pytest.fail(f"MLflow retries after {seconds} s"))
    with pytest.raises(Exception, match="unable to open database file"):
        utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{root}")


def test_an_image_is_stored_as_mlflow_stores_one(root, folder):
    """The names of images are MLflow's own pattern: where it changes, its UI would no longer show ours."""
    with opened(folder) as tracker:
        tracker.image("samples/fixed", picture(root / "1.png", size=(300, 20)), 7)
    (moment,) = (entry["time"] for entry in entries(folder, "image"))
    ours = files("images")
    run = runs()[0]
    with Image.open(root / "1.png") as image:
        client().log_image(run.info.run_id, image, key="samples/fixed", step=7, timestamp=moment, synchronous=True)
    theirs = sorted(set(files("images")) - set(ours))
    tag = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    assert [tag.sub("ID", name) for name in ours] == [tag.sub("ID", name) for name in theirs]
    sizes = []
    for name in ours + theirs:
        with Image.open(client().download_artifacts(run.info.run_id, name, str(root))) as image:
            sizes.append((image.format, image.size))
    assert sizes[:2] == sizes[2:] == [("WEBP", (256, 17)), ("PNG", (300, 20))]


READ_ONLY = {  # an entry of each kind, as it would be the first that a database refuses
    "metric": ("loss/d", 2.0, 2), "param": ("lr", "3", 0), "tag": ("note", "x", 0), "status": ("", "FINISHED", 0),
    "artifact": ("f/p.png", "outbox/p.png", 0), "image": ("grid", "outbox/p.png", 3),
}  # fmt: skip


@pytest.mark.parametrize("first", READ_ONLY)
def test_a_database_that_turns_read_only_keeps_nothing_out_for_good(folder, capsys, first):
    query_only = [0]

    def begin(connection):
        connection.exec_driver_sql(f"PRAGMA query_only = {query_only[0]}")

    outbox, uploader = Outbox(folder, "digits", "tiny-0"), Uploader(folder)
    (folder / "outbox").mkdir()
    picture(folder / "outbox/p.png")
    outbox.add("metric", "loss/d", 1.0, 1)
    event.listen(Engine, "begin", begin)
    try:
        assert uploader.send() == 2
        query_only[0] = 1  # from now on sqlite refuses each change in the words that it has for a read-only file
        for kind in sorted(READ_ONLY, key=lambda kind: kind != first):
            outbox.add(kind, *READ_ONLY[kind])
        if first not in ("artifact", "image"):  # MLflow writes files beside its database
            for sender in (uploader, Uploader(folder)):
                with pytest.raises(MlflowException, match="attempt to write a readonly database"):
                    sender.send()
        with pytest.raises(SystemExit):
            main(["sync"])
        out, error = capsys.readouterr()
        assert out == "tiny-0: MlflowException: (sqlite3.OperationalError) attempt to write a readonly database\n"
        assert error == (
            f"error: 1 of 1 runs could not be sent to MLflow completely: see that {Path.cwd()}/mlflow.db, its folder "
            "and mlruns/ can be written, then run `python -m pipeline.tracking sync` again\n"
        )
        query_only[0] = 0
        main(["sync"])
        assert uploader.dropped == 0 and "left out" not in capsys.readouterr().out
    finally:
        event.remove(Engine, "begin", begin)
    (run,) = runs()
    assert history("loss/d") == [(1, 1.0), (2, 2.0)] and run.info.status == "FINISHED"
    assert run.data.params == {"lr": "3"} and run.data.tags["note"] == "x"
    assert files("f") == ["f/p.png"] and len(files("images")) == 2
