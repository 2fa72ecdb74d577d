"""What a stage logs arrives in a real sqlite store, once, and with the value that was logged first."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.tracking import tracker as tracker_module
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.tracker import Tracker, sync
from pipeline.tracking.uploader import Uploader
from tests.tracking.mlflow_store import client, entries, files, history, opened, picture, runs

ROOT = Path(__file__).resolve().parents[2]


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
def test_the_status_is_how_the_stage_ended(folder, raised, status):
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
    tracker_module.sync()
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


def quietly(folder, **values):
    """What is told again, and whether a quiet tracker had anything to send."""
    with opened(folder, quiet=True) as tracker:
        tracker.params({"lr": 1})
        tracker.metrics(1, {"loss/d": 1.5, **values})
    return tracker._thread is not None


@pytest.fixture
def known(folder):
    """A run that MLflow knows all of."""
    with opened(folder) as tracker:
        tracker.params({"lr": 1})
        tracker.metrics(1, {"loss/d": 1.5})
    return runs()[0]


def test_a_quiet_tracker_without_news_touches_nothing(folder, known):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not quietly(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert runs()[0].info.end_time == known.info.end_time


def test_a_quiet_tracker_sends_news(folder, known):
    assert quietly(folder, fid=2.0)
    (run,) = runs()
    assert (run.info.run_id, run.info.status) == (known.info.run_id, "FINISHED")
    assert history("fid") == [(1, 2.0)] and history("loss/d") == [(1, 1.5)]
    assert not quietly(folder, fid=2.0)


@pytest.mark.parametrize("status", ["KILLED", "RUNNING"])
def test_a_quiet_tracker_ends_a_run_that_had_not_ended_well(folder, known, status):
    opened(folder).close("KILLED")
    if status == "RUNNING":
        Outbox(folder, "digits", "tiny-0").add("status", "", status, 0)
        tracker_module.sync()
    assert runs()[0].info.status == status
    assert quietly(folder) and runs()[0].info.status == "FINISHED" and not quietly(folder)


def test_a_quiet_tracker_sends_what_waits(folder, known):
    Outbox(folder, "digits", "tiny-0").add("metric", "fid", 2.0, 1)
    assert quietly(folder) and history("fid") == [(1, 2.0)] and not quietly(folder)


def test_a_quiet_tracker_makes_a_deleted_run_again(root, folder, known):
    client().delete_run(known.info.run_id)
    assert quietly(folder) and not quietly(folder)
    (run,) = runs()
    assert run.info.run_id != known.info.run_id and run.info.status == "FINISHED"
    assert history("loss/d") == [(1, 1.5)] and run.data.params == {"lr": "1"}
    client().delete_experiment(run.info.experiment_id)
    assert quietly(folder) and not quietly(folder)
    (root / "mlflow.db").unlink()
    assert not Uploader(folder).is_settled()


def test_a_quiet_tracker_sees_that_an_outbox_was_cut(folder, known):
    path = folder / "outbox.jsonl"
    whole = path.read_bytes()
    with opened(folder) as tracker:
        tracker.metrics(1, {"fid": 2.0})
    path.write_bytes(whole)  # a power cut
    assert quietly(folder) and runs()[0].info.status == "FINISHED" and not quietly(folder)
    assert path.read_bytes().count(b"loss/d") == 1 and history("loss/d") == [(1, 1.5)]


def test_of_another_store_only_its_client_can_tell(root, folder, known, monkeypatch):
    assert Uploader(folder).is_settled()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'other.db'}")
    assert quietly(folder) and not Uploader(folder).is_settled()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert not Uploader(folder).is_settled()


def test_disabled_writes_nothing(root, folder):
    with opened(folder, enabled=False) as tracker:
        tracker.params({"a": 1})
        tracker.metrics(1, {"a": float("nan")})
        tracker.image("a", root / "none.png", 1)
        tracker.artifact(root / "none.png", "a")
        tracker.model(root)
    assert [path.name for path in root.iterdir()] == ["mlflow.db"]


def test_an_outbox_that_cannot_be_written_costs_one_warning(root, caplog):
    (root / "file").write_text("")
    with opened(root / "file" / "inside") as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
    assert len(caplog.messages) == 1 and "not everything reaches MLflow" in caplog.messages[0]


def test_importing_is_light():
    code = "import sys, pipeline.tracking.tracker; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_picture_and_what_was_logged_before_it_are_fsynced(folder, monkeypatch, tmp_path):
    done, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), real(fd)))
    monkeypatch.setattr(Tracker, "_upload", lambda self: None)
    picture = tmp_path / "1.png"
    Image.new("L", (2, 2)).save(picture)
    with opened(folder) as tracker:
        tracker.metrics(1, {"loss/d": 1.0})
        assert done == []
        tracker.image("samples", picture, 1)
        assert done == ["1.png", "outbox.jsonl"]


def test_sync_elsewhere_than_in_a_project_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with pytest.raises(PipelineError, match="run from the repository's root"):
        sync()
    (tmp_path / "params.yaml").touch()
    sync()
    assert capsys.readouterr().out == "nothing to send\n"
