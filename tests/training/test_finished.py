"""A finished training handed over: the same files, only for exactly that training, and MLflow told as before."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.core.checksums import write_sums
from pipeline.core.files import read_json, write_json
from pipeline.experiment import Experiment
from pipeline.gan.checkpoint import RunHistory, checkpoints, read_history, save_checkpoint, step_of
from pipeline.gan.step import TrainState, create_state
from pipeline.metrics import Extractor
from pipeline.tracking.outbox import read_entries
from pipeline.training import finished
from pipeline.training.finished import complete_checkpoint, copy_finished, hand_over, keep_finished
from pipeline.training.monitor import EvaluationInterrupted, TrainingMonitor
from pipeline.training.trainer import Interrupted, train_experiment, write_run
from tests.recipes import SHAPE, image_set, tiny_params

OUT = Path("runs/dcgan-4")
FLOOR = {"metric": "fd_mean", "extractor": {"weights_sha256": "a" * 64}, "data_sha256": "e" * 64, "value": 1.5}
DESCRIPTION = {"name": "toy", "image_shape": list(SHAPE), "classes": ["a"], "class_counts": [20], "sha256": "e" * 64,
               "train": 20}  # fmt: skip


def experiment_of(**changes: Any) -> Experiment:
    values = {"train.steps": 4, "train.grid_every": 2, "train.score_every": 2, "train.score_samples": 6}
    values |= {"runtime.tracking": True, "runtime.log_model": True}
    mlp = {"network": "mlp", "loss": "hinge"}
    return Experiment(tiny_params(values | changes, dcgan=mlp), "dcgan", 4, DESCRIPTION)


def trained(experiment: Experiment) -> tuple[TrainState, RunHistory]:
    """The training, from its newest checkpoint on, with all that the stage then does."""
    extractor = Extractor("mean", "fd_mean", 1, torch.nn.Flatten(), torch.device("cpu"), {}, resize=_mean)
    reference: Any = SimpleNamespace(distance=lambda features: float(features.std()))
    with experiment.open_tracker() as tracker:
        monitor = TrainingMonitor(experiment, extractor, reference, tracker, experiment.work_folder() / "grids")
        state, progress = train_experiment(experiment, image_set(20, classes=1), monitor)
        complete_checkpoint(experiment.work_folder(), state, progress)
        keep_finished(experiment, FLOOR, lambda folder: write_run(experiment, state, progress, monitor, folder))
        copy_finished(experiment, OUT)
        if experiment.params.runtime.log_model:
            tracker.model(OUT)
    return state, progress


def _mean(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3)).view(-1, 1, 1, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one training is finished."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        trained(experiment_of())
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, in which nothing is handed over yet."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    yield tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told() -> set[tuple[Any, ...]]:
    """What the only outbox holds, times and the run's id apart."""
    (path,) = Path(".work").glob("*/outbox.jsonl")
    entries = (entry for entry, _ in read_entries(path) if entry["kind"] not in ("run", "image"))
    return {(entry["kind"], entry["key"], entry["step"], json.dumps(entry["value"])) for entry in entries}


def test_the_same_files_are_handed_over(whole: Path, folder: Path) -> None:
    experiment = experiment_of()
    assert hand_over(experiment, FLOOR, OUT) and files(OUT) == files(whole / OUT)
    assert set(files(OUT)) == {
        "generator.safetensors", "best.safetensors", "discriminator.safetensors", "generator.json", "history.csv",
        "distance.csv", "timing.csv", "SHA256SUMS", "grids/00000000.png", "grids/00000002.png", "grids/00000004.png",
    }  # fmt: skip
    (outbox,) = Path(".work").glob("*/outbox.jsonl")
    known = [line for line in outbox.read_bytes().splitlines() if b'"status"' not in line]
    (OUT / "history.csv").unlink()
    (OUT / "generator.json").write_text("{}")
    assert hand_over(experiment, FLOOR, OUT) and files(OUT) == files(whole / OUT)
    assert [line for line in outbox.read_bytes().splitlines() if b'"status"' not in line] == known


def test_a_training_that_was_stopped_in_its_last_measurement_has_it_in_its_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(monitor: TrainingMonitor, state: TrainState) -> float:
        if state.step == 4:
            raise EvaluationInterrupted
        return measure(monitor, state)

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    experiment, measure = experiment_of(), TrainingMonitor.score
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingMonitor, "score", score)
        trained(experiment)
    stopped = read_history(checkpoints(experiment.work_folder())[0])
    assert stopped is not None and [row["step"] for row in stopped.history] == [0, 2]
    progress = trained(experiment)[1]
    (last,) = (path for path in checkpoints(experiment.work_folder()) if step_of(path) == 4)
    known = read_history(last)
    assert known is not None and known.history == progress.history and known.history[-1]["step"] == 4
    assert {name: content for name, content in files(OUT).items() if name != "timing.csv"} == {
        name: content for name, content in files(whole / OUT).items() if name != "timing.csv"
    }
    assert hand_over(experiment, FLOOR, OUT)


@pytest.mark.parametrize(
    "changes",
    [
        {"train.steps": 6},
        {"models.dcgan.lr_g": 0.5},
        {"train.rollback_lr": 0.25},
        {"metrics.weights": "other.pt"},
    ],
)
def test_another_training_is_not_handed_over(folder: Path, changes: dict[str, Any]) -> None:
    """Not even where its folder holds these files: as somebody would who copies them."""
    experiment, other = experiment_of(), experiment_of(**changes)
    assert other.work_folder() != experiment.work_folder() and not hand_over(other, FLOOR, OUT)
    shutil.copytree(experiment.work_folder(), other.work_folder(), dirs_exist_ok=True)
    assert not hand_over(other, FLOOR, OUT) and not OUT.exists()


@pytest.mark.parametrize(
    "floor",
    [
        {"metric": "fd_mean_of_unknown"},
        {"extractor": {"weights_sha256": "b" * 64}},
        {"data_sha256": "f" * 64},
    ],
)
def test_with_another_reference_it_is_not_handed_over(folder: Path, floor: dict[str, Any]) -> None:
    assert not hand_over(experiment_of(), FLOOR | floor, OUT) and not OUT.exists()
    assert hand_over(experiment_of(), FLOOR | {"value": 2.5}, OUT)


def test_all_that_the_files_were_made_for_counts(folder: Path) -> None:
    """As where a later version has one more field."""
    experiment = experiment_of(**{"runtime.tracking": False})
    kept = experiment.work_folder() / "finished"
    made_for = read_json(kept / "made_for.json")
    assert set(made_for) == {
        "fingerprint", "checkpoint", "recipe", "train", "image_shape", "n_classes", "reference", "data_sha256", "code"
    }  # fmt: skip
    for key in made_for:
        write_json(kept / "made_for.json", made_for | {key: "other"})
        write_sums(kept, "made_for.json", "run")
        assert not hand_over(experiment, FLOOR, OUT) and not OUT.exists(), key
    write_json(kept / "made_for.json", made_for)
    write_sums(kept, "made_for.json", "run")
    assert hand_over(experiment, FLOOR, OUT)


def test_what_other_code_wrote_is_not_handed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "program_of", lambda files: f"{sorted(files)} changed")
    assert not hand_over(experiment_of(), FLOOR, OUT)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_what_is_damaged_is_said_and_made_again(
    folder: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file that is kept: the training's own command then writes it again from its checkpoint, bit for bit."""
    experiment = experiment_of(**{"runtime.tracking": False})
    kept = experiment.work_folder() / "finished"
    names = sorted(files(kept))
    assert len(names) == 13
    before = files(kept)
    for name in names:
        damage(kept / name)
        assert not hand_over(experiment, FLOOR, OUT), name
        assert capsys.readouterr().err == f"warning: {kept} is damaged and passed over\n"
        assert not OUT.exists()
        (kept / name).write_bytes(before[name])
    assert hand_over(experiment, FLOOR, OUT)
    shutil.rmtree(OUT)
    damage(kept / "run" / "history.csv")
    trained(experiment)
    assert files(kept) == before


def test_without_its_last_checkpoint_it_is_not_handed_over(folder: Path) -> None:
    experiment = experiment_of()
    newest = checkpoints(experiment.work_folder())[0]
    content = newest.read_bytes()
    flip(newest)
    assert not hand_over(experiment, FLOOR, OUT)
    newest.unlink()
    assert not hand_over(experiment, FLOOR, OUT)
    newest.write_bytes(content)
    foreign = create_state(experiment.recipe, experiment.params.train, SHAPE, 1, 5, torch.device("cpu"))
    foreign.step = 5
    other = save_checkpoint(experiment.work_folder(), foreign, RunHistory())
    assert not hand_over(experiment, FLOOR, OUT) and not OUT.exists()
    other.unlink()
    assert hand_over(experiment, FLOOR, OUT)


def test_a_kill_while_files_are_kept_or_copied(whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_of(**{"runtime.tracking": False})
    before = files(experiment.work_folder())

    def killed(target: Path) -> None:
        target.mkdir()
        (target / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_finished(experiment, FLOOR, killed)
    assert files(experiment.work_folder()) == before
    real, died = shutil.copyfile, 0
    for limit in range(13):
        calls = iter(range(limit))

        def copyfile(source: Path, target: Path, calls: Iterator[int] = calls, **options: Any) -> Any:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(source, target, **options)

        shutil.rmtree(OUT, ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(finished.shutil, "copyfile", copyfile)
            try:
                hand_over(experiment, FLOOR, OUT)
            except KeyboardInterrupt:
                died += 1
                assert not (OUT / "SHA256SUMS").exists()
        assert hand_over(experiment, FLOOR, OUT) and files(OUT) == files(whole / OUT)
    assert died == 11


def test_a_lost_outbox_is_told_what_a_resumed_training_tells(folder: Path) -> None:
    experiment = experiment_of()
    (outbox,) = Path(".work").glob("*/outbox.jsonl")
    shutil.rmtree(outbox.parent)
    trained(experiment)
    resumed = told()
    shutil.rmtree(outbox.parent)
    assert hand_over(experiment, FLOOR, OUT)
    assert told() == resumed
    assert {key for kind, key, *_ in resumed if kind == "metric"} == {
        "images", "loss/d", "loss/g", "curve/fd_mean", "curve/pixel_std_ratio"}  # fmt: skip
    assert {kind for kind, *_ in resumed} == {"param", "tag", "dataset", "metric", "model", "version", "status"}


def test_rollbacks_are_told_again(folder: Path) -> None:
    """With the key of each entry in the order in which the training said it: else MLflow would be sent it again."""
    experiment = experiment_of(**{"runtime.tracking": False})
    work = experiment.work_folder()
    state, progress = trained(experiment)
    progress.rollbacks.append({"fault": "the loss of D is nan", "step": 3, "to": 2})
    (newest,) = checkpoints(work)[:1]
    newest.unlink()
    save_checkpoint(work, state, progress)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.trainer.TrainingMonitor.resumed", lambda *_: None)
        trained(experiment)
    tracked = experiment_of()
    assert hand_over(tracked, FLOOR, OUT)
    said = {entry[:3]: entry[3] for entry in told()}
    assert said["rollback", "0", 0] == "2"
    assert json.loads(said["tag", "rollbacks", 0]) == json.dumps(progress.rollbacks)
    assert json.loads(said["tag", "environments", 0]) == json.dumps(progress.environments)
