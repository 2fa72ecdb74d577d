"""Training from checkpoint to checkpoint: stops amid a measurement, rollbacks, collapse, full disks, memory."""

import contextlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import experiment as experiments
from pipeline.core import files
from pipeline.core.devices import memory_errors
from pipeline.core.errors import PipelineError, Stopped, exit_cleanly
from pipeline.core.world import ALONE, World
from pipeline.experiment import Experiment
from pipeline.gan import step as training
from pipeline.gan.checkpoint import RunHistory, checkpoints, step_of
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import Diverged, TrainState, create_state, train, train_step
from pipeline.metrics import Extractor
from pipeline.sampling.images import pixel_std
from pipeline.tracking.outbox import read_entries
from pipeline.training import trainer
from pipeline.training.monitor import TrainingMonitor
from pipeline.training.trainer import Interrupted, train_experiment, write_run
from tests.recipes import ROOT, SHAPE, image_set, tiny_params

STEPS = 9
IMAGES = image_set(20, classes=1)
DESCRIPTION = {"name": "toy", "image_shape": list(SHAPE), "classes": ["a"], "class_counts": [20], "sha256": "e" * 64,
               "train": 20}  # fmt: skip
Poison = Callable[[TrainState], bool]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def experiment_of(**changes: Any) -> Experiment:
    """A tiny recipe: scored after every third step, checkpoints after every second."""
    values = {"train.steps": STEPS, "train.grid_every": 3, "train.score_every": 3, "train.score_samples": 6}
    mlp = {"network": "mlp", "loss": "hinge", "lr_decay": "linear"}
    return Experiment(tiny_params(values | {"metrics.batch_size": 4} | changes, dcgan=mlp), "dcgan", 4, DESCRIPTION)


def monitor_of(experiment: Experiment, **more: Any) -> TrainingMonitor:
    extractor = Extractor("mean", "fd_mean", 1, Mean(), torch.device("cpu"), {})
    reference: Any = SimpleNamespace(distance=lambda features: float(features.std()))
    return TrainingMonitor(
        experiment, extractor, reference, experiment.open_tracker(), experiment.work_folder() / "grids", **more
    )


def bits(state: TrainState) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in state.tensors().items()}


def outputs(experiment: Experiment, out: Path, should_stop: Callable[[], bool] = lambda: False, **more: Any) -> Any:
    """Every bit of the state, and the files of the run but for timing.csv."""
    monitor = monitor_of(experiment, **more)
    state, progress = train_experiment(experiment, IMAGES, monitor, should_stop)
    write_run(experiment, state, progress, monitor, out)
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    del found["timing.csv"]
    return bits(state), found


def steps_kept(experiment: Experiment) -> list[int]:
    return [step_of(path) for path in checkpoints(experiment.work_folder())]


# Stops.


def counting(limit: int) -> Callable[[], bool]:
    """Says no so many times, and then yes."""
    calls = iter(range(limit))
    return lambda: next(calls, None) is None


@pytest.mark.slow
def test_a_stop_breaks_off_a_measurement_and_nothing_is_lost(elsewhere: Path) -> None:
    whole = outputs(experiment_of(), elsewhere / "whole")
    experiment, stopped = experiment_of(**{"runtime.checkpoint_every": 100}), []
    assert experiment.fingerprint == experiment_of().fingerprint
    for path in experiment.work_folder().iterdir():
        path.rename(elsewhere / path.name)
    for limit in range(200):
        monitor = monitor_of(experiment, stopping=counting(limit))
        for path in checkpoints(experiment.work_folder()):
            path.unlink()
        try:
            train_experiment(experiment, IMAGES, monitor)
            break
        except Interrupted as stop:
            stopped.append(stop.step)
            assert steps_kept(experiment)[:1] == ([stop.step] if stop.step else []), limit
        assert outputs(experiment, elsewhere / str(limit)) == whole, limit
    # 15 batches of a grid and 2 of a distance, at each of 4 steps, and one look after every step but the last.
    assert stopped[:18] == [0] * 17 + [1] and stopped.count(3) == 18 and sorted(set(stopped)) == list(range(STEPS + 1))


# Rollbacks.


def poisoned(monkeypatch: pytest.MonkeyPatch, when: Poison) -> None:
    """D's weights are NaN after each step for which `when` says so: the next loss is."""

    def step(state: TrainState, *rest: Any) -> Tensor:
        losses = train_step(state, *rest)
        if when(state):
            with torch.no_grad():
                next(state.gan.discriminator.parameters()).fill_(math.nan)
        return losses

    monkeypatch.setattr(training, "train_step", step)


def at(step: int, above: float) -> Poison:
    """After the step counted from 1, where the learning rates' factor is above `above`."""
    return lambda state: state.step + 1 == step and state.lr_scale > above


@pytest.mark.parametrize(("step", "good"), [(1, 0), (2, 0), (3, 0), (4, 3), (5, 3), (6, 3), (7, 6)])
def test_a_diverged_training_goes_back_with_lower_learning_rates(
    step: int, good: int, monkeypatch: pytest.MonkeyPatch, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = experiment_of(**{"train.rollbacks": 2, "train.rollback_lr": 0.25})
    poisoned(monkeypatch, at(step, above=0.1))
    state, progress = train_experiment(experiment, IMAGES, monitor_of(experiment))
    assert [(back["to"], back["step"] in (step, step + 1)) for back in progress.rollbacks] == [(good, True)] * 2
    assert all(re.fullmatch(r"the loss of [DG] is nan|\S+ is not finite", back["fault"]) for back in progress.rollbacks)
    assert state.lr_scale == 0.0625
    assert [row["step"] for row in progress.history] == [0, 2, 3, 4, 6, 8, 9]
    assert capsys.readouterr().err.count(f"back to step {good}, learning rates x 0.") == 2

    # By hand: so far with the learning rates as they are, then with a sixteenth of them.
    recipe, budget = experiment.recipe, experiment.params.train
    other = create_state(recipe, budget, SHAPE, 1, 4, torch.device("cpu"))
    loop = train(other, IMAGES, LOSSES[recipe.loss], recipe, budget)
    while other.step < good:
        next(loop)
    other.lr_scale = 0.0625
    list(loop)
    assert bits(other) == bits(state)
    assert other.optimiser_g.param_groups[0]["lr"] == pytest.approx(recipe.lr_g / 9 / 16)  # of the last of 9 steps


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4, 6])
def test_kills_do_not_change_what_a_rollback_leads_to(
    step: int, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    poisoned(monkeypatch, at(step, above=0.3))
    experiment = experiment_of(**{"train.rollbacks": 2})
    whole = outputs(experiment, elsewhere / "whole")
    assert [back["to"] for back in json.loads(whole[1]["generator.json"])["rollbacks"]] == [(step - 1) // 3 * 3] * 2
    for limit in range(0, 30, 3):
        for path in checkpoints(experiment.work_folder()):
            path.unlink()
        for again in (limit, limit // 2):  # killed, and killed again
            killed = counting(again)

            def die(killed: Callable[[], bool] = killed) -> bool:
                if killed():
                    raise KeyboardInterrupt
                return False

            try:
                train_experiment(experiment, IMAGES, monitor_of(experiment), die)
            except KeyboardInterrupt:
                continue
        with contextlib.suppress(Interrupted):  # and stopped, with a checkpoint at a step of its own
            train_experiment(experiment, IMAGES, monitor_of(experiment), counting(limit % 5))
        assert outputs(experiment, elsewhere / f"again-{limit}") == whole, limit


@pytest.mark.slow
def test_a_kill_at_any_write_or_removal_of_a_rollback_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    poisoned(monkeypatch, at(5, above=0.3))
    experiment = experiment_of(**{"train.rollbacks": 2})
    whole = outputs(experiment, elsewhere / "whole")
    real, died = Path.unlink, 0
    for limit in range(20):
        for path in experiment.work_folder().glob("step-*"):
            path.unlink()
        calls = iter(range(limit))

        def unlink(self: Path, missing_ok: bool = False, calls: Any = calls) -> None:
            if self.name.startswith("step-") and next(calls, None) is None:
                raise KeyboardInterrupt
            real(self, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            try:
                train_experiment(experiment, IMAGES, monitor_of(experiment))
            except KeyboardInterrupt:
                died += 1
        assert outputs(experiment, elsewhere / str(limit)) == whole, limit
    assert died >= 6


def points() -> dict[tuple[str, int], list[float]]:
    """What the only outbox holds of each metric at each step, the newest last."""
    found: dict[tuple[str, int], list[float]] = {}
    (path,) = Path(".work").glob("*/outbox.jsonl")
    for entry, _ in read_entries(path):
        if entry["kind"] == "metric":
            found.setdefault((entry["key"], entry["step"]), []).append(entry["value"])
    return found


@pytest.mark.parametrize("kills", [False, True])
def test_mlflow_ends_with_the_points_after_a_rollback(
    kills: bool, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    poisoned(monkeypatch, at(6, above=0.9))
    experiment = experiment_of(**{"train.rollbacks": 1, "runtime.tracking": True, "runtime.checkpoint_every": 1})
    for limit in range(12 if kills else 0):  # stopped after 1, 2 .. steps, each time from the newest checkpoint on
        with contextlib.suppress(Interrupted):
            monitor = monitor_of(experiment)
            train_experiment(experiment, IMAGES, monitor, counting(limit % 4))
        monitor.tracker.close("KILLED")
    monitor = monitor_of(experiment)
    _, progress = train_experiment(experiment, IMAGES, monitor)
    monitor.tracker.close("KILLED")
    assert [back["to"] for back in progress.rollbacks] == [3]
    found = points()
    for name, key in {"loss/d": "loss/d", "loss/g": "loss/g", "distance": "curve/fd_mean", "images": "images"}.items():
        last = {step: values[-1] for (metric, step), values in found.items() if metric == key}
        assert last == {row["step"]: row[name] for row in progress.history if name in row}, name
        changed = {step for (metric, step), values in found.items() if metric == key and len(values) > 1}
        # Once more from step 3 on, with lower learning rates; the loss of D at step 4 is of the same weights.
        assert changed == {"loss/d": {6}, "loss/g": {4, 6}, "distance": {6}, "images": set()}[name], name
    assert all(len(set(values)) == len(values) <= 2 for values in found.values())


def test_a_damaged_good_checkpoint_costs_time_and_no_bit(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    poisoned(monkeypatch, at(5, above=0.9))
    experiment = experiment_of(**{"train.rollbacks": 1})
    whole = outputs(experiment, elsewhere / "whole")
    for path in checkpoints(experiment.work_folder()):
        path.unlink()
    with pytest.raises(Interrupted):
        train_experiment(experiment, IMAGES, monitor_of(experiment), counting(3))
    assert steps_kept(experiment) == [4, 3]
    good = checkpoints(experiment.work_folder())[1]
    good.write_bytes(good.read_bytes()[:-1])
    assert outputs(experiment, elsewhere / "again") == whole


def test_without_rollbacks_and_after_the_last_the_fault_names_all(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, at(4, above=0.0))
    experiment = experiment_of()
    with pytest.raises(Diverged) as fault:
        train_experiment(experiment, IMAGES, monitor_of(experiment))
    place = checkpoints(experiment.work_folder())[0]
    assert fault.value.step == 4 and step_of(place) == 2
    said = rf"dcgan-4: \S+ is not finite at step 4; the last good checkpoint is {place}: lower lr_g and lr_d"
    assert re.match(said, str(fault.value))
    experiment = experiment_of(**{"train.rollbacks": 2})
    with pytest.raises(Diverged) as fault:
        train_experiment(experiment, IMAGES, monitor_of(experiment))
    assert " at step 4, after 2 rollbacks; the last good checkpoint is " in str(fault.value)
    assert step_of(checkpoints(experiment.work_folder())[0]) == 3


# Grids.


@pytest.mark.parametrize("damage", ["bit", "missing", "folder"])
def test_a_grid_that_is_not_as_it_was_drawn_is_not_passed_on(damage: str, elsewhere: Path) -> None:
    experiment = experiment_of()
    whole = outputs(experiment, elsewhere / "whole")
    path = experiment.work_folder() / "grids" / "00000003.png"
    content = path.read_bytes()
    path.unlink()
    if damage == "bit":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(PipelineError, match=r"00000003.png is damaged or missing: restore it, or delete \S+/dcgan-4-"):
        outputs(experiment, elsewhere / "again")
    assert not (elsewhere / "again" / "grids").exists()
    if damage == "folder":
        path.rmdir()
    path.write_bytes(content)
    assert outputs(experiment, elsewhere / "again") == whole


# MLflow.


def test_what_a_lost_spool_held_is_told_again() -> None:
    told: list[tuple[int, dict[str, float]]] = []
    monitor = monitor_of(experiment_of())
    tracker = SimpleNamespace(metrics=lambda step, values: told.append((step, values)), tags=lambda values: None)
    monitor.tracker = tracker  # type: ignore
    history = [{"step": 0, "distance": 2.5, "pixel_std_ratio": 0.5}, {"step": 2, "loss/d": 1.0, "images": 8}]
    monitor.resumed(RunHistory(history))
    assert told == [(0, {"curve/fd_mean": 2.5, "curve/pixel_std_ratio": 0.5}), (2, {"loss/d": 1.0, "images": 8})]


# Collapse.


def test_code_that_is_edited_meanwhile_moves_no_checkpoint(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_of()
    folder = experiment.work_folder()
    monkeypatch.setattr(experiments, "code_version", lambda *_: "edited")
    outputs(experiment, elsewhere / "out")
    assert checkpoints(folder) and experiment_of().work_folder() != folder


def test_the_spread_of_images() -> None:
    images = torch.tensor([[[0, 10], [4, 10]], [[100, 0], [100, 6]]], dtype=torch.uint8)[..., None, None]
    assert images.shape == (2, 2, 2, 1, 1)
    # Standard deviations of a pixel within each of the two rows: 4, 0; 0, 6; each over the square root of 2.
    assert pixel_std(images) == pytest.approx(2.5 / math.sqrt(2))


def test_a_model_whose_samples_are_all_the_same_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def scaled(factors: dict[int, float]) -> Callable[..., Tensor]:
        """Training whose generator's weights are multiplied after some steps."""

        def step(state: TrainState, *rest: Any) -> Tensor:
            losses = train_step(state, *rest)
            for network in (state.gan.generator, state.ema):
                for parameter in network.parameters():
                    parameter.data.mul_(factors.get(state.step + 1, 1.0))
            return losses

        return step

    experiment = experiment_of(**{"models.dcgan.lr_g": 1e-6})
    monkeypatch.setattr(training, "train_step", scaled({1: 10.0}))
    healthy = train_experiment(experiment, IMAGES, monitor_of(experiment))[1]
    assert healthy.pixel_std_ratio() > 0.05 and "collapsed" not in capsys.readouterr().err
    for path in checkpoints(experiment.work_folder()):
        path.unlink()
    monkeypatch.setattr(training, "train_step", scaled({1: 10.0, 5: 0.0}))
    progress = train_experiment(experiment, IMAGES, monitor_of(experiment))[1]
    values = [row["pixel_std_ratio"] for row in progress.history if "pixel_std_ratio" in row]
    assert values[:2] == [row["pixel_std_ratio"] for row in healthy.history if "pixel_std_ratio" in row][:2]
    assert max(values[2:]) < 0.01 and progress.pixel_std_ratio() == values[-1]
    assert capsys.readouterr().err.count("dcgan-4 has collapsed at step 6") == 1  # once, not at every grid


def test_the_diversity_of_the_last_grid() -> None:
    assert RunHistory().pixel_std_ratio() == 1
    assert (
        RunHistory(
            [{"step": 0, "pixel_std_ratio": 0.5}, {"step": 3, "pixel_std_ratio": 0.25}, {"step": 4}]
        ).pixel_std_ratio()
        == 0.25
    )


def test_the_untrained_generator_is_never_the_best_and_a_tie_changes_nothing() -> None:
    experiment = experiment_of()
    monitor, values = monitor_of(experiment), iter([1.0, 5.0, 4.0, 4.0])  # after 0, 3, 6 and 9 steps
    monitor.reference.distance = lambda features: next(values)  # type: ignore[method-assign]
    progress = train_experiment(experiment, IMAGES, monitor)[1]
    assert (progress.best_step, progress.best_distance()) == (6, 4.0)


def test_the_ends_of_the_curve() -> None:
    history: list[dict[str, float]] = [{"step": 0, "distance": 9.0}, {"step": 3, "distance": 4.0}, {"step": 4}]
    found = RunHistory(history)
    assert (found.untrained_distance(), found.last_distance()) == (9.0, 4.0)
    assert RunHistory().untrained_distance() is None and RunHistory().last_distance() is None


# Room.


def test_too_little_disk_space_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_of()
    state = create_state(experiment.recipe, experiment.params.train, SHAPE, 1, 4, torch.device("cpu"))
    size = sum(t.nbytes for t in state.tensors().values()) + 2 * sum(p.nbytes for p in state.gan.generator.parameters())
    for free, enough in ((4 * size - 1, False), (4 * size + 4000, True)):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if enough:
            train_experiment(experiment, IMAGES, monitor_of(experiment))
        else:
            with pytest.raises(PipelineError, match=r"\.work/dcgan-4-\w+ needs about .* of disk space, .* are free: "):
                train_experiment(experiment, IMAGES, monitor_of(experiment))
            assert checkpoints(experiment.work_folder()) == []


@pytest.mark.parametrize(
    ("allocate", "told"),
    [
        (lambda: torch.empty(2**58), "out of memory (tried to allocate 1152921504606846976 bytes): lower it"),
        (lambda: np.empty(2**57), "out of memory (tried to allocate 1.00 EiB): lower it"),
    ],
)
def test_a_failed_allocation_is_one_sentence(allocate: Callable[[], object], told: str) -> None:
    with pytest.raises(PipelineError) as error, memory_errors("lower it"):
        allocate()
    assert str(error.value) == told


def test_an_accelerators_allocation_too_and_nothing_else() -> None:
    told = r"^out of memory \(tried to allocate 20.00 MiB\): lower it$"
    with pytest.raises(PipelineError, match=told), memory_errors("lower it"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 79.10 GiB")
    with pytest.raises(PipelineError, match=r"^out of memory: lower it$"), memory_errors("lower it"):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors("lower it"):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(("stop", "code"), [(Stopped(15), 143), (Stopped(10), 138), (KeyboardInterrupt(), 130)])
def test_a_signal_becomes_its_exit_code(stop: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    @exit_cleanly
    def main() -> None:
        raise stop

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    assert capsys.readouterr().err == "error: interrupted; run the same command again to continue\n"


def test_a_signal_when_a_command_is_over_ends_it_without_a_traceback() -> None:
    code = """if True:
        import atexit, os, signal
        from pipeline.core.errors import exit_cleanly
        from pipeline.stages import stop_by_exception
        atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
        @exit_cleanly
        def main():
            stop_by_exception()
        main()
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-15, "")


def test_what_lacks_or_is_a_folder_is_one_sentence(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "there").mkdir()
    for name, told in (
        ("lacking", "lacking does not exist: run `dvc repro`"),
        ("there", "there: Is a directory: move"),
    ):

        @exit_cleanly
        def main(name: str = name) -> None:
            Path(name).read_bytes()

        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2 and f"error: {told}" in capsys.readouterr().err


def test_the_file_that_dvc_plots_has_the_measured_points_and_no_holes(elsewhere: Path) -> None:
    _, files = outputs(experiment_of(), elsewhere / "out")
    header, *rows = files["distance.csv"].decode().splitlines()
    assert header == "step,images,distance" and all(all(row.split(",")) for row in rows)
    assert [row.split(",")[:2] for row in rows] == [["0", "0"], ["3", "12"], ["6", "24"], ["9", "36"]]


def test_steps_are_captured_on_a_gpu_that_trains_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "Graphs", lambda: "graphs")
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert trainer._graphs(experiment_of(), cuda, ALONE) == "graphs"
    assert trainer._graphs(experiment_of(), cpu, ALONE) is None
    assert trainer._graphs(experiment_of(), cuda, World(0, 2)) is None
    assert trainer._graphs(experiment_of(**{"runtime.cuda_graphs": "off"}), cuda, ALONE) is None
    assert not capsys.readouterr().err
    assert trainer._graphs(experiment_of(**{"models.dcgan.instance_noise": 0.1}), cuda, ALONE) is None
    assert "not captured as CUDA graphs, for instance_noise changes" in capsys.readouterr().err
