"""A project that is moved or copied, or lies where a URI would end early; experiments deleted in MLflow's UI."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.files import sha256
from pipeline.tracking.mlflow_client import open_client, store_uri
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.uploader import Uploader


def log(root: Path, name: str) -> Uploader:
    """A run with a point and a file, sent."""
    folder = root / ".work" / f"{name}-abc"
    outbox = Outbox(folder, "tiny", name)
    outbox.add("metric", "loss/d", 1.5, 1)
    Image.new("L", (4, 4), 9).save(folder / "grid.png")
    outbox.add("artifact", "final/grid.png", "grid.png", 0)
    outbox.add("tag", "sha256", sha256(folder / "grid.png"), 0)
    uploader = Uploader(folder)
    uploader.send()
    return uploader


def runs(root: Path) -> dict[str, tuple[str, list[str]]]:
    """Each run's experiment and the files that MLflow finds for it, by the run's name."""
    client = open_client(store_uri(root / "mlflow.db"))
    names = {one.experiment_id: one.name for one in client.search_experiments(view_type=3)}
    return {
        run.info.run_name: (
            names[run.info.experiment_id],
            [Path(client.download_artifacts(run.info.run_id, "final/grid.png")).read_bytes()[:4].hex()],
        )
        for run in client.search_runs(list(names))
    }


PNG = ["89504e47"]


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_project_elsewhere_has_its_files_where_it_is(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    log(root, "gan-0")
    there = tmp_path / "there"
    shutil.move(root, there) if how == "moved" else shutil.copytree(root, there)
    monkeypatch.chdir(there)
    log(there, "gan-1")
    if how == "moved":
        assert not root.exists(), "nothing is written to where it was"
    else:
        shutil.rmtree(root)
    assert runs(there) == {"gan-0": ("tiny", PNG), "gan-1": ("tiny", PNG)}


def test_a_path_with_what_ends_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> None:
    name = "which? 50% #1"  # all in one: MLflow caches a store by its URI, which is a relative one here
    there = tmp_path / name
    there.mkdir()
    shutil.copyfile(empty_store, there / "mlflow.db")
    monkeypatch.chdir(there)
    log(there, "gan-0")
    assert runs(there) == {"gan-0": ("tiny", PNG)}
    assert [path.name for path in tmp_path.iterdir() if "root" not in path.name] == [name]
    assert sorted(path.name for path in there.iterdir()) == [".work", "mlflow.db", "mlruns"]


@pytest.mark.slow  # a store is made
def test_a_path_that_is_no_text_of_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow says: near "b": syntax error; of the colon: a value is required for bind parameter 'c'."""
    place = tmp_path / "a'b\"" / ":c"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    log(place, "gan-0")
    assert runs(place) == {"gan-0": ("tiny", PNG)}
    client = open_client(store_uri(place / "mlflow.db"))
    assert client.get_experiment("0").artifact_location == f"{place}/mlruns/0"


def test_after_an_experiment_was_deleted_a_new_one_is_taken_and_nothing_is_lost(root: Path) -> None:
    log(root, "gan-0")
    client = open_client(store_uri(root / "mlflow.db"))
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    log(root, "gan-1")
    log(root, "gan-2")
    found = runs(root)
    assert found["gan-1"] == ("tiny-2", PNG) and found["gan-2"] == ("tiny-2", PNG)
    assert client.get_experiment_by_name("tiny").lifecycle_stage == "deleted"
    outbox = Outbox(root / ".work" / "gan-0-abc", "tiny", "gan-0")  # the run goes on
    outbox.add("metric", "loss/d", 0.5, 2)
    Uploader(root / ".work" / "gan-0-abc").send()
    assert runs(root)["gan-0"] == ("tiny-2", PNG)


def test_a_store_of_somebody_else_is_left_alone(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two projects that share a store by MLFLOW_TRACKING_URI keep their own files."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    log(root, "gan-0")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    log(other, "gan-1")
    client = open_client(f"sqlite:///{root / 'mlflow.db'}")
    assert client.get_experiment_by_name("tiny").artifact_location == (root / "mlruns").as_uri()
