"""What MLflow's users look for: the data set as an input, the machine's load, the model with the alias `best`."""

import base64
import json
import os
import time
import zlib

import mlflow.pytorch
import pytest
import torch

from pipeline.tracking import tracker as tracker_module
from pipeline.tracking import ui
from pipeline.tracking.tracker import measured_run
from pipeline.tracking.views import VIEW_TAG, ranked_experiments, ranking_view
from tests.tracking.mlflow_store import client, history, opened, runs
from tests.tracking.test_mlflow_model import Generator


def test_the_data_set_is_an_input_of_the_run(folder):
    for _ in range(2):
        with opened(folder) as tracker:
            tracker.dataset("digits", "d" * 64, {"train": 1437})
    (held,) = runs()[0].inputs.dataset_inputs
    assert (held.dataset.name, held.dataset.digest, held.dataset.source_type) == ("digits", "d" * 36, "local")
    assert json.loads(held.dataset.profile) == {"train": 1437}
    assert [(tag.key, tag.value) for tag in held.tags] == [("mlflow.data.context", "training")]


def test_what_the_machine_does_is_logged_by_seconds(folder, monkeypatch):
    monkeypatch.setattr(tracker_module, "SYSTEM_EVERY", 0.0)
    with opened(folder):
        deadline = time.monotonic() + 60
        while not (folder / "outbox.jsonl").read_text().count("system/"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    points = history("system/cpu_utilization_percentage")
    assert points and all(0 <= step < 60 and 0 <= value <= 100 for step, value in points)


def test_the_folder_of_a_run_is_found_by_its_training(root):
    assert measured_run("dcgan-0", "abc") is None
    for age, key in enumerate(("111111", "222222")):
        path = root / f".work/dcgan-0-abc-{key}/outbox.jsonl"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (100 - age, 100 - age))
    assert measured_run("dcgan-0", "abc") == root / ".work/dcgan-0-abc-111111" and measured_run("dcgan-0", "x") is None


@pytest.mark.slow
def test_the_model_of_the_run_that_is_best_has_the_alias(root, folder, monkeypatch):
    made = {}
    monkeypatch.setattr("pipeline.gan.checkpoint.load_generator", lambda path, which: (made["generator"], {}))
    (root / "runs").mkdir()
    (root / "runs" / "generator.json").write_text(json.dumps({"recipe": {"latent_dim": 16, "ema_decay": None}}))
    folders = [folder, folder.with_name("tiny-1-abc")]
    generators = [Generator().eval(), Generator().eval()]
    for place, made["generator"] in zip(folders, generators, strict=True):
        with opened(place) as tracker:
            tracker.model(root / "runs")
            tracker.best()
    versions = client().search_model_versions("name = 'digits'")
    assert len(versions) == 2

    def best():
        return client().get_model_version_by_alias("digits", "best")

    ids = {json.loads((place / "mlflow.json").read_text()).popitem()[1]["run_id"]: place for place in folders}
    assert ids[best().run_id] == folders[1]
    with opened(folders[0]) as tracker:
        tracker.best()
    assert ids[best().run_id] == folders[0] and len(client().search_model_versions("name = 'digits'")) == 2
    # In MLflow's pages somebody renames the experiment, even to what no registered model can be called.
    client().rename_experiment(client().get_experiment_by_name("digits").experiment_id, "a/b: c")
    for place in (*folders[1:], folders[0]):
        with opened(place) as tracker:
            tracker.best()
            tracker.ranked_by("fd_toy")
        assert ids[best().run_id] == place and len(client().search_model_versions("name = 'digits'")) == 2
    assert sorted(each.name for each in client().search_experiments()) == ["Default", "a/b: c"]
    assert VIEW_TAG in client().get_experiment_by_name("a/b: c").tags
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    try:
        loaded = mlflow.pytorch.load_model("models:/digits@best")
    finally:
        mlflow.set_tracking_uri(None)
    z, y = torch.randn(3, 16), torch.tensor([0, 3, 9])
    with torch.no_grad():
        torch.testing.assert_close(loaded(z, y), generators[0](z, y))


def test_a_run_without_a_model_is_not_registered(folder, caplog):
    with opened(folder) as tracker:
        tracker.best()
    assert "runtime.log_model was false" in caplog.text and client().search_registered_models() == []


def test_the_experiment_has_a_view_of_its_runs_by_rank(root, folder, monkeypatch, capsys):
    """Its form is what MLflow's pages save themselves: "deflate;" and JSON that zlib compressed, in base64."""
    assert ranked_experiments(root / "mlflow.db") == {}
    for _ in range(2):
        with opened(folder) as tracker:
            tracker.ranked_by("fd_x")
    assert (folder / "outbox.jsonl").read_text().count('"view"') == 1
    (run,) = runs()
    held = json.loads(client().get_experiment(run.info.experiment_id).tags["mlflow.sharedViewState.ranking"])
    assert held.pop("state").startswith("deflate;")
    assert held == {"name": "ranking", "createdAt": 0, "updatedAt": 0}
    state = json.loads(ranking_view("fd_x"))["state"].removeprefix("deflate;")
    assert json.loads(zlib.decompress(base64.b64decode(state))) == {
        "orderByKey": "metrics.`fd_x`", "orderByAsc": True,
        "selectedColumns": ["metrics.`fd_x`", "metrics.`ratio_to_floor`", "tags.`model`", "params.`seed`"],
    }  # fmt: skip
    page = f"#/experiments/{run.info.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=ranking"
    assert ranked_experiments(root / "mlflow.db") == {"digits": page}
    (root / "params.yaml").touch()
    monkeypatch.setattr(ui, "require_free", lambda port: None)
    monkeypatch.setattr("os.execv", lambda *command: None)
    ui.main(["--port", "5077"])
    told = f"http://127.0.0.1:5077, Ctrl-C ends it\ndigits, ranked: http://127.0.0.1:5077/{page}\n"
    assert capsys.readouterr().out == told
