"""Tracking against a real sqlite store and against servers that refuse, fail and dawdle."""

import contextlib
import http.server
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.tracking.tracker import Tracker
from pipeline.tracking.tracker import outbox as spool
from pipeline.tracking.tracker import tracker as tracking
from pipeline.tracking.tracker import uploader as sender

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "s3cr3t-pa55"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A sqlite store without experiments: to make one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    sender.open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch, empty_store):
    """A repository's root with a space in its name and an empty store, no tracking URI, and quick senders."""
    root = tmp_path / "a root"
    root.mkdir()
    shutil.copyfile(empty_store, root / "mlflow.db")
    monkeypatch.chdir(root)
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "INTERVAL", 0.1)
    monkeypatch.setattr(tracking, "RETRY", 0.2)
    monkeypatch.setattr(tracking, "CLOSE_WAIT", dict.fromkeys(tracking.CLOSE_WAIT, 60.0))  # a busy machine is slow
    sender.warned.clear()
    return root


@pytest.fixture
def folder(root):
    return root / ".work" / "tiny-0-abc"


def opened(folder, **options):
    return Tracker(folder, "digits", "tiny-0", **options)


def client():
    return sender.open_client(f"sqlite:///{Path.cwd() / 'mlflow.db'}")


def runs():
    experiment = client().get_experiment_by_name("digits")
    return client().search_runs([experiment.experiment_id])


def history(key, run=None):
    """All that the store holds of a metric, duplicates included."""
    run = run or runs()[0]
    return [(metric.step, metric.value) for metric in client().get_metric_history(run.info.run_id, key)]


def files(place, run=None):
    return sorted(item.path for item in client().list_artifacts((run or runs()[0]).info.run_id, place))


def entries(folder, kind):
    lines = (folder / "outbox.jsonl").read_bytes().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def picture(path, value=7, size=(40, 20)):
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def server():
    """A function that starts a local HTTP server which gives the same answer to everything, after `delay` seconds."""
    started = []

    def start(code, delay=0.0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                time.sleep(delay)
                with_body = b"{}"
                self.send_response(code)
                self.send_header("Content-Length", str(len(with_body)))
                self.end_headers()
                self.wfile.write(with_body)

            do_GET = do_POST = do_PUT = do_PATCH = answer

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):  # the client hung up
                pass

        started.append(Quiet(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{started[-1].server_port}"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def test_everything_arrives_with_its_value(root, folder):
    with opened(folder) as tracker:
        tracker.params({"lr": 2e-4, "network": "dcgan", "none": None})
        tracker.tags({"stage": "train"})
        for step in range(1, 1301):
            tracker.metrics(step, {"loss/d": step / 8, "loss/g": torch.tensor(-step)})
        tracker.image("samples/fixed", picture(root / "grid.png", 100), 500)
        (root / "m.json").write_text("{}")
        tracker.artifact(root / "m.json", "scores")
    (run,) = runs()
    assert run.info.run_name == "tiny-0" and run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.0002", "network": "dcgan", "none": "None"}
    assert run.data.tags["stage"] == "train" and run.data.tags["mlflow.loggedImages"] == "True"
    assert history("loss/d") == [(step, step / 8) for step in range(1, 1301)]
    assert history("loss/g") == [(step, -step) for step in range(1, 1301)]
    assert files("scores") == ["scores/m.json"]
    png, webp = sorted(files("images"), key=lambda path: path.endswith(".webp"))
    assert png.startswith("images/samples~fixed+step+500+timestamp+") and webp == png[:-4] + "+compressed.webp"
    with Image.open(client().download_artifacts(run.info.run_id, png, str(root))) as image:
        assert image.size == (40, 20) and image.getpixel((3, 3)) == (100, 100, 100)
    assert (root / "mlruns" / run.info.run_id / "artifacts").is_dir()


def test_a_later_stage_continues_the_same_run(folder):
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    first = runs()[0]
    with opened(folder) as tracker:
        deadline = time.monotonic() + 10
        while runs()[0].info.status != "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert runs()[0].info.status == "RUNNING"
        tracker.metrics(1, {"fid": 12.5})
        tracker.params({"samples": 100})
    (run,) = runs()
    assert run.info.run_id == first.info.run_id and run.info.status == "FINISHED"
    assert history("loss/d") == [(1, 1.0)] and history("fid") == [(1, 12.5)]
    assert run.data.params == {"samples": "100"} and run.info.end_time >= first.info.end_time


@pytest.mark.parametrize("raised", [None, ValueError])
def test_a_status_that_was_given_stands_however_the_block_ends(folder, raised):
    """As of a trial that is pruned."""
    with contextlib.suppress(ValueError), opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
        tracker.close("KILLED")
        if raised:
            raise raised
    assert runs()[0].info.status == "KILLED" and history("loss/d") == [(1, 1.0)]
    assert [entry["value"] for entry in entries(folder, "status")] == ["RUNNING", "KILLED"]


@pytest.mark.parametrize(
    ("raised", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_status_tells_how_the_stage_ended(folder, raised, status):
    with pytest.raises(raised), opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
        raise raised
    assert runs()[0].info.status == status


def test_a_killed_run_that_replays_its_steps_adds_nothing_twice(root, folder):
    grids = [picture(root / f"{step}.png", step) for step in (1, 2)]
    first = opened(folder)
    for step in range(1, 8):
        first.metrics(step, {"loss/d": float(step)})
    first.image("samples", grids[0], 1)
    first.image("samples", grids[1], 2)
    first.params({"lr": 1})
    first.close("KILLED")
    whole = (folder / "outbox.jsonl").read_bytes()
    with open(folder / "outbox.jsonl", "ab") as spool:  # a kill in the middle of a write
        spool.write(b'{"kind": "metric", "key": "loss/d", "st')
    with opened(folder) as tracker:
        for step in range(5, 11):
            tracker.metrics(step, {"loss/d": float(step) + (step < 8) / 4})  # what was logged first stands
        tracker.image("samples", picture(grids[1], 99), 2)
        tracker.params({"lr": 1})
    assert (folder / "outbox.jsonl").read_bytes().startswith(whole + b'{"kind": "status"')
    assert history("loss/d") == [(step, float(step)) for step in range(1, 11)]
    assert len(files("images")) == 4 and len(runs()) == 1 and runs()[0].data.params == {"lr": "1"}


def test_sending_everything_again_changes_nothing(root, folder):
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.5})
        tracker.image("samples", picture(root / "1.png"), 1)
    before = (files("images"), history("loss/d"), runs()[0].info.run_id)
    (folder / "mlflow.json").unlink()  # forgets what was sent, and the run's id
    tracking.sync()
    assert (files("images"), history("loss/d"), runs()[0].info.run_id) == before and len(runs()) == 1


def test_a_changed_param_keeps_its_first_value_and_a_changed_tag_its_last(folder):
    with opened(folder) as tracker:
        tracker.params({"device": "cpu"})
        tracker.tags({"note": "a"})
        tracker.params({"device": "cuda"})
        tracker.tags({"note": "b"})
        tracker.tags({"note": "b"})
    assert runs()[0].data.params == {"device": "cpu"} and runs()[0].data.tags["note"] == "b"
    assert [entry["value"] for entry in entries(folder, "tag")] == ["a", "b"]


def test_nan_and_inf_become_a_tag_and_no_metric(folder):
    with opened(folder) as tracker:
        tracker.metrics(7, {"loss/d": float("nan"), "loss/g": 0.0})
        tracker.metrics(8, {"loss/d": float("-inf"), "loss/g": float("inf")})
    assert runs()[0].data.metrics == {"loss/g": 0.0}
    tags = {key: value for key, value in runs()[0].data.tags.items() if key.startswith("nonfinite")}
    assert tags == {"nonfinite/loss/d": "nan at step 7", "nonfinite/loss/g": "inf at step 8"}


def test_names_that_mlflow_refuses_do_not_block_the_rest(folder, caplog):
    with opened(folder) as tracker:
        tracker.metrics(1, {"größe <1>" + "x" * 300: 1.0, "loss/d": 2.0})
        tracker.params({"long": "y" * 9000})
        tracker.tags({"long": "y" * 9000})
    assert history("loss/d") == [(1, 2.0)] and len(runs()[0].data.metrics) == 2
    assert runs()[0].data.params == {"long": "y" * 5000} and caplog.messages == []


def test_what_finds_no_room_in_tmpdir_is_sent_later(folder, monkeypatch, root):
    Image.new("L", (4, 4)).save(root / "grid.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *_, **__: os.write(os.open("/dev/full", os.O_WRONLY), b"no room"))
        with opened(folder) as tracker:
            tracker.image("samples", root / "grid.png", 1)
    assert client().list_artifacts(runs()[0].info.run_id, "images") == []
    tracking.main(["sync"])
    assert len(client().list_artifacts(runs()[0].info.run_id, "images")) == 2


def test_a_database_that_cannot_be_opened_is_told_at_once(folder, capsys, caplog, root):
    (root / "mlflow.db").unlink()
    (root / "mlflow.db").mkdir()
    started = time.monotonic()
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    with pytest.raises(SystemExit):
        tracking.main(["sync"])
    assert time.monotonic() - started < 30  # MLflow itself would try for 100 seconds, twice
    assert "unable to open database file" in capsys.readouterr().out
    assert len(caplog.messages) == 1 and "all is kept in" in caplog.messages[0]


def test_an_address_without_its_scheme_shows_no_password_either(folder, caplog, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"me:{PASSWORD}@mlflow.example")
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    with pytest.raises(SystemExit):
        tracking.main(["sync"])
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
        tracking.main(["sync"])
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


def test_a_changed_artifact_replaces_the_former_one(root, folder):
    path = root / "m.json"
    for text in ("one", "two"):
        path.write_text(text)
        with opened(folder) as tracker:
            tracker.artifact(path, "scores")
        path.unlink()  # as DVC does
    run = runs()[0].info.run_id
    assert files("scores") == ["scores/m.json"]
    assert Path(client().download_artifacts(run, "scores/m.json", str(root))).read_text() == "two"


def test_any_file_is_an_artifact_and_its_last_content_stands(root, folder):
    names = ["study.html", "trials.csv", "étude #1 100%.html", "README", ".hidden", "a.tar.gz"]
    with opened(folder) as tracker:
        for content in (b"<html>\xff\x00", b"", b"two", b"<html>\xff\x00", b"two", b"last"):
            for name, place in [(name, "search") for name in names] + [("a.csv", "search/deep/"), ("top.csv", "")]:
                (root / name).write_bytes(content)
                tracker.artifact(root / name, place)
                tracker.artifact(root / name, place)
        tracker.metrics(1, {"loss/d": 1.0})
    assert len(entries(folder, "artifact")) == 6 * 8 and history("loss/d") == [(1, 1.0)]
    assert files("search") == sorted(f"search/{name}" for name in [*names, "deep"])
    kept = root / "mlruns" / runs()[0].info.run_id / "artifacts"
    found = {str(path.relative_to(kept)): path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert found == dict.fromkeys([f"search/{name}" for name in names] + ["search/deep/a.csv", "top.csv"], b"last")


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
    other = sender.open_client(f"sqlite:///{root / 'other.db'}")
    (run,) = other.search_runs([other.get_experiment_by_name("digits").experiment_id])
    points = [(metric.step, metric.value) for metric in other.get_metric_history(run.info.run_id, "loss/d")]
    assert points == [(1, 1.0), (2, 2.0)] and history("loss/d") == [(1, 1.0)]
    states = json.loads((folder / "mlflow.json").read_text())
    assert len(states) == 2 and {state["experiment"] for state in states.values()} == {"digits"}
    assert len({state["run_id"] for state in states.values()}) == 2


@pytest.mark.parametrize("kind", ["refused", "500", "slow", "nonsense"])
def test_a_bad_server_costs_one_warning_and_no_time(root, folder, server, monkeypatch, caplog, kind):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    sender.open_client("sqlite://")  # the import is not what is timed
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
    assert len(warnings) == 1 and f"http://{host}" in caplog.text and "pipeline.tracking.tracker sync" in caplog.text
    leaks = [path for path in root.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert leaks == [] and PASSWORD not in caplog.text

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.sync()
    assert history("loss/d") == [(step, float(step)) for step in range(200)]
    assert len(runs()) == 1 and runs()[0].info.status == "FINISHED"


def test_closing_waits_for_a_slow_server_only_so_long(folder, server, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server(200, 5)}")
    monkeypatch.setitem(tracking.CLOSE_WAIT, "FINISHED", 0.5)
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
        tracking.main(["sync"])
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and out.startswith("tiny-0: ") and out.count("\n") == 1
    assert "1 of 1 runs could not be sent" in error and PASSWORD not in out + error
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.main(["sync"])
    tracking.main(["sync"])
    assert capsys.readouterr().out == "tiny-0: 4 entries sent\ntiny-0: 0 entries sent\n"  # run, 2 x status, metric


def test_only_one_sends_a_spool_at_a_time(folder, capsys):
    with opened(folder):
        pass
    with spool.lock(folder / "spool.lock", wait=False) as ours:
        assert ours
        tracking.main(["sync"])
    assert capsys.readouterr().out == "tiny-0: another process is sending it\n"


def test_disabled_writes_nothing(root, folder):
    with opened(folder, enabled=False) as tracker:
        tracker.params({"a": 1})
        tracker.metrics(1, {"a": float("nan")})
        tracker.image("a", root / "none.png", 1)
        tracker.artifact(root / "none.png", "a")
        tracker.model(root)
    assert [path.name for path in root.iterdir()] == ["mlflow.db"]


def test_a_spool_that_cannot_be_written_costs_one_warning(root, caplog):
    (root / "file").write_text("")
    with opened(root / "file" / "inside") as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    assert len(caplog.messages) == 1 and "not everything reaches MLflow" in caplog.messages[0]


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
    assert all(run.data.metrics == {"a": 2.0} and run.info.status == "FINISHED" for run in runs())


# Nested runs.


@pytest.fixture
def study(root):
    """The folder of a parent of which no server knows: its spool has a header and no sender."""
    folder = root / ".work" / "study"
    spool.Outbox(folder, "digits", "study")
    return folder


def named(name):
    """The only active run of that name."""
    (run,) = (run for run in runs() if run.info.run_name == name)
    return run


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
    waiting = spool.Outbox(study, "digits", "study")
    for step in (1, 2):
        waiting.add("metric", "best", step / 2, step)
    waiting.add("status", "", "KILLED", 0)
    with opened(folder, parent=study):
        pass
    made = named("study")
    assert below(made) == ["tiny-0"] and made.data.metrics == {} and made.info.status == "RUNNING"
    tracking.sync()
    tracking.sync()
    assert capsys.readouterr().out.count("study: 4 entries sent") == 1  # the header is among them
    assert named("study").info.run_id == made.info.run_id and history("best", made) == [(1, 0.5), (2, 1.0)]
    assert named("study").info.status == "KILLED" and below(made) == ["tiny-0"] and len(runs()) == 2


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
    assert len(warnings) == 1 and "pipeline.tracking.tracker sync" in caplog.text

    moved = root.parent / "moved"
    root.rename(moved)
    monkeypatch.chdir(moved)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for _ in range(2):
        tracking.sync()
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
    sender.open_client(f"sqlite:///{root}/./mlflow.db")
    tracking.sync()
    states = json.loads((study / "mlflow.json").read_text())
    assert len(states) == 2 and first in {state["run_id"] for state in states.values()}
    other = sender.open_client(f"sqlite:///{root}/./mlflow.db")
    found = other.search_runs([other.get_experiment_by_name("digits").experiment_id])
    made = {run.info.run_name: run for run in found}
    assert len(found) == 2 and parent_of(made["tiny-0"]) == made["study"].info.run_id != first


def test_the_parent_is_made_on_the_server_of_the_child(folder, study, monkeypatch):
    spool.Outbox(folder, "digits", "tiny-0", study)
    sending = sender.Uploader(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert sending.send() == 1 and below(named("study")) == ["tiny-0"]


def test_a_deleted_parent_is_made_anew_under_its_open_tracker(folder, root, caplog):
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


def test_a_parent_without_a_spool_holds_nothing_up_and_can_come_later(root, folder, caplog):
    study = root / ".work" / "study"
    with opened(folder, parent=study), opened(root / ".work" / "own", parent=root / ".work" / "own"):
        pass
    assert [parent_of(run) for run in runs()] == [None, None] and not study.exists() and caplog.messages == []
    spool.Outbox(study, "digits", "study")
    tracking.sync()
    assert len(below(named("study"))) == 1 and len(runs()) == 3


def test_a_busy_parent_that_the_server_has_makes_no_child_wait(folder, study):
    with opened(folder / "0", parent=study):
        pass
    with spool.lock(study / "spool.lock", wait=False), Tracker(folder / "1", "digits", "1", parent=study) as tracker:
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
        spool.Outbox(child, "digits", "trial", parent)
        assert spool.first(child)["value"].get("parent") == place


class Generator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.labels = torch.nn.Embedding(10, 8)
        self.dense = torch.nn.Linear(24, 64)
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, z, y):
        # z.shape[0], not len(z): len makes a plain number of it, and the exported batch size a constant
        hidden = self.dense(torch.cat([z, self.labels(y)], 1))
        return torch.tanh(self.norm(hidden.view(z.shape[0], 1, 8, 8)))


def test_the_model_loads_back_and_draws_the_same(root, folder, monkeypatch):
    generator, asked = Generator(), []
    recipe = {"latent_dim": 16, "ema_decay": 0.99}
    monkeypatch.setattr(
        "pipeline.gan.checkpoint.load_generator", lambda path, which: asked.append(which) or (generator, {})
    )
    (root / "runs").mkdir()
    (root / "runs" / "generator.json").write_text(json.dumps({"recipe": recipe}))
    (root / "runs" / "generator.safetensors").write_bytes(b"weights")
    for _ in range(2):
        with opened(folder) as tracker:
            tracker.model(root / "runs")
    experiment = client().get_experiment_by_name("digits").experiment_id
    (model,) = client().search_logged_models([experiment])
    assert model.name == "generator" and model.status == "READY" and asked == ["ema"]
    assert model.source_run_id == runs()[0].info.run_id

    import mlflow.pytorch

    loaded = mlflow.pytorch.load_model(model.artifact_location)
    z, y = torch.randn(5, 16), torch.tensor([0, 3, 9, 3, 1])
    with torch.no_grad():
        torch.testing.assert_close(loaded(z, y), generator(z, y))
    assert not list(Path(root / "mlruns").rglob("*.pkl")) and list(Path(root / "mlruns").rglob("model.pt2"))


def test_importing_is_light():
    code = "import sys, pipeline.tracking.tracker; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_store_is_made_whole_or_not_at_all(root, folder, monkeypatch):
    """MLflow can mend no store whose making was broken off: by a kill, or a full disk."""
    (root / "mlflow.db").unlink()
    real = sender.shutil.copyfile

    def broken_off(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:5000])
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(sender.shutil, "copyfile", broken_off)
    tracker = opened(folder)
    tracker.metrics(1, {"loss/d": 1.0})
    tracker.close()
    assert not list(root.glob("*mlflow.db*"))
    monkeypatch.setattr(sender.shutil, "copyfile", real)
    tracking.sync()
    assert len(runs()) == 1 and len(history("loss/d")) == 1


def test_a_picture_and_what_was_logged_before_it_are_fsynced(folder, monkeypatch, tmp_path):
    done, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), real(fd)))
    monkeypatch.setattr(tracking.Tracker, "_work", lambda self: None)
    picture = tmp_path / "1.png"
    Image.new("L", (2, 2)).save(picture)
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
        assert done == []
        tracker.image("samples", picture, 1)
        assert done == ["1.png", "outbox.jsonl"]
