"""Checkpoints: round trips, resumes bit for bit, damage, foreign and hostile files; and the exported generator."""

import contextlib
import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.core.errors import PipelineError
from pipeline.gan.checkpoint import (
    RunHistory,
    checkpoints,
    export_networks,
    generator_tensors,
    load_checkpoint,
    load_generator,
    save_checkpoint,
)
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import TrainState, train
from pipeline.params import Recipe
from tests.gan import states
from tests.gan.states import bits, equal
from tests.networks import ADVERSARIAL
from tests.recipes import SHAPE, image_set, tiny_budget, tiny_recipe

BUDGET = tiny_budget(steps=6, channels_last=True, report_every=4)
IMAGES = image_set(20)


def recipe_of(**changes: Any) -> Recipe:
    hinge = {"loss": "hinge", "norm_d": "spectral", "spectral_norm_g": True, "n_critic": 2, "lr_decay": "linear"}
    return tiny_recipe(**hinge | changes)


def start(recipe: Recipe, seed: int = 0) -> TrainState:
    return states.start(recipe, BUDGET, seed)


def continued(recipe: Recipe, state: TrainState, progress: RunHistory, folder: Path | None = None) -> TrainState:
    """Train to the end, writing a checkpoint per step into folders named by the step."""
    for report in train(state, IMAGES, LOSSES[recipe.loss], recipe, BUDGET):
        if report.losses:
            progress.history.append({"step": report.step, **report.losses})
        if folder:
            save_checkpoint(folder / str(report.step), state, progress)
    return state


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        *((network, {}) for network in ADVERSARIAL),
        ("dcgan", {"norm_d": "batch", "ema_decay": None, "spectral_norm_g": False}),
        ("dcgan", {"optimiser": "rmsprop", "beta1": 0.0, "norm_d": "none", "clip": 0.05, "loss": "wasserstein"}),
        ("resnet", {"optimiser": "rmsprop", "penalty": "gradient", "instance_noise": 0.2, "ema_warmup": True}),
        ("sagan", {"penalty": "r1", "loss": "bce", "label_smoothing": 0.1, "augment": ["cutout"], "penalty_every": 2}),
    ],
)
@pytest.mark.slow
def test_a_run_cut_anywhere_ends_bit_for_bit_like_one_that_was_not(
    network: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    recipe, progress = recipe_of(network=network, **changes), RunHistory()
    whole = continued(recipe, start(recipe), progress, tmp_path)
    assert [row["step"] for row in progress.history] == [4, 6]
    for cut in range(1, 7):
        resumed = start(recipe, seed=0)
        layouts = {name: t.stride() for name, t in resumed.tensors().items()}
        rest = load_checkpoint(tmp_path / str(cut), resumed)
        assert resumed.step == cut
        assert [row["step"] for row in rest.history] == [step for step in (4, 6) if step <= cut]
        assert {name: t.stride() for name, t in resumed.tensors().items()} == layouts  # channels last stays so
        assert equal(bits(resumed), bits(whole)) == (cut == 6)
        continued(recipe, resumed, rest)
        assert equal(bits(resumed), bits(whole)), cut
        assert rest.history == progress.history, cut


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_round_trip_of_every_tensor(network: str, tmp_path: Path) -> None:
    recipe = recipe_of(network=network)
    state = start(recipe)
    list(zip(range(3), train(state, IMAGES, LOSSES["hinge"], recipe, BUDGET), strict=False))
    best = {name: tensor + 1 for name, tensor in generator_tensors(state).items()}
    history = [{"step": 0, "distance": 0.5}, {"step": 2, "loss/d": 1 / 3}, {"step": 3, "distance": 0.25}]
    progress = RunHistory(history, [{"seconds": 1.5}], 2.25, 3, best)
    path = save_checkpoint(tmp_path, state, progress)
    assert path.name == f"step-00000003-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.safetensors"
    other = start(recipe, seed=9)
    assert not equal(bits(other), bits(state))
    loaded = load_checkpoint(tmp_path, other)
    assert (loaded.history, loaded.timing, loaded.seconds, loaded.best_step) == (history, [{"seconds": 1.5}], 2.25, 3)
    assert loaded.best_distance() == 0.25
    assert equal(loaded.best, best)
    assert other.step == 3
    assert equal(bits(other), bits(state))
    for prefix in ("g.", "d.", "ema.", "optimiser_g.", "optimiser_d."):
        assert any(name.startswith(prefix) and tensor.abs().sum() > 0 for name, tensor in bits(other).items())


def test_nothing_saved_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    state = start(recipe_of())
    before = bits(state)
    assert load_checkpoint(tmp_path / "none", state) == RunHistory([], [], 0.0)
    assert state.step == 0
    assert equal(bits(state), before)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, TrainState, list[dict[str, Tensor]]]:
    """A folder with checkpoints of steps 1 and 2, a fresh state, and the bits after 0, 1 and 2 steps."""
    recipe = recipe_of()
    state = start(recipe)
    seen = [bits(state)]
    for _ in zip(range(2), train(state, IMAGES, LOSSES["hinge"], recipe, BUDGET), strict=False):
        save_checkpoint(tmp_path, state, RunHistory(seconds=float(state.step)))
        seen.append(bits(state))
    assert state.step == 2
    return tmp_path, start(recipe), seen


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[min(int(len(content) * place), len(content) - 1)] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "flipped at the start": lambda path: flip(path, 0),
    "flipped at the end": lambda path: flip(path, 1),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_older(damage: str, two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, state, seen = two
    older, newer = sorted(folder.iterdir())
    DAMAGES[damage](newer)
    assert load_checkpoint(folder, state) == RunHistory(seconds=1.0)
    assert state.step == 1
    assert equal(bits(state), seen[1])
    assert f"warning: {newer} is damaged and passed over" in capsys.readouterr().err
    assert older.exists()


def test_both_damaged_is_a_fresh_start(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, state, seen = two
    for path in folder.iterdir():
        flip(path)
    assert load_checkpoint(folder, state) == RunHistory()
    assert state.step == 0
    assert equal(bits(state), seen[0])
    assert capsys.readouterr().err.count("is damaged and passed over") == 2


def test_a_fresh_start_after_damage_can_be_resumed(two: Any) -> None:
    # What is damaged must not count among the two that are kept: else each new checkpoint is removed at once.
    folder, state, _ = two
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("step-0000000", "step-0000001"))
    for path in folder.iterdir():
        flip(path)
    load_checkpoint(folder, state)
    for _ in zip(range(2), train(state, IMAGES, LOSSES["hinge"], recipe_of(), BUDGET), strict=False):
        assert save_checkpoint(folder, state, RunHistory()).exists()
    resumed = start(recipe_of())
    load_checkpoint(folder, resumed)
    assert resumed.step == 2


def test_what_is_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "step-00000003-0123456789abcdef.safetensors")  # who reads it waits for ever
    (tmp_path / "step-00000002-0123456789abcdef.safetensors").mkdir()
    (tmp_path / "step-00000001-0123456789abcdef.safetensors").symlink_to("nothing")
    assert checkpoints(tmp_path) == []


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    state = start(recipe_of())
    kept = []
    for step in (2, 9, 10, 100, 99_999_999):
        state.step = step
        save_checkpoint(tmp_path, state, RunHistory())
        kept.append(sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()))
    assert kept == [[2], [2, 9], [9, 10], [10, 100], [100, 99_999_999]]


@pytest.mark.parametrize(
    "changes", [{"width_g": 8}, {"latent_dim": 6}, {"norm_d": "none"}, {"ema_decay": None}, {"network": "resnet"}]
)
def test_another_recipes_checkpoint_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    state = start(recipe_of())
    save_checkpoint(tmp_path, state, RunHistory())
    other = start(recipe_of(**changes))
    before = bits(other)
    with pytest.raises(PipelineError, match=r"safetensors is not of this recipe: delete the folder .* to train"):
        load_checkpoint(tmp_path, other)
    assert other.step == 0
    assert equal(bits(other), before)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def hostile(target: Path, kind: str) -> bytes:
    if kind == "pickle":
        return pickle.dumps(Bomb(target))
    buffer = io.BytesIO()
    torch.save({"g": Bomb(target)}, buffer)
    return buffer.getvalue()


@pytest.fixture(params=["pickle", "torch"])
def hostile_newest(request: pytest.FixtureRequest, two: Any) -> Any:
    """`two`, and a pickle that calls itself the whole checkpoint of step 9; the path that it would create."""
    folder = two[0]
    target = folder.parent / f"{folder.name}-executed"
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()  # the bomb works
    target.unlink()
    content = hostile(target, request.param)
    (folder / f"step-00000009-{hashlib.sha256(content).hexdigest()[:16]}.safetensors").write_bytes(content)
    return *two, target


def test_a_pickle_with_the_right_name_is_never_executed(hostile_newest: Any) -> None:
    folder, state, _, target = hostile_newest
    with contextlib.suppress(PipelineError, SafetensorError):
        load_checkpoint(folder, state)
    assert not target.exists()


def test_a_pickle_with_the_right_name_is_passed_over_or_refused_in_a_sentence(hostile_newest: Any) -> None:
    folder, state, seen, _ = hostile_newest
    try:
        load_checkpoint(folder, state)
    except PipelineError:
        assert equal(bits(state), seen[0])
    else:
        assert state.step == 2
        assert equal(bits(state), seen[2])


def exported(folder: Path, network: str = "dcgan", **changes: Any) -> TrainState:
    recipe = recipe_of(network=network, **changes)
    state = start(recipe)
    continued(recipe, state, RunHistory())
    info = {"recipe": recipe.model_dump(), "image_shape": SHAPE, "n_classes": 3, "model": "m"}
    best = {name: tensor + 1 for name, tensor in generator_tensors(state).items()}
    export_networks(folder, state, best, info)
    return state


@pytest.mark.parametrize("network", ADVERSARIAL)
@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.slow
def test_an_exported_generator_comes_back(network: str, weights: str, tmp_path: Path) -> None:
    state = exported(tmp_path, network)
    networks = {"raw": state.gan.generator.eval(), "ema": state.ema.eval()}
    loaded, info = load_generator(tmp_path, weights)
    best, _ = load_generator(tmp_path, weights, "best")
    assert equal(best.state_dict(), {name: tensor + 1 for name, tensor in networks[weights].state_dict().items()})
    assert info["model"] == "m"
    assert not loaded.training
    assert equal(loaded.state_dict(), networks[weights].state_dict())
    latents, labels = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    with torch.no_grad():
        outputs = {name: network(latents, labels) for name, network in networks.items()}
        torch.testing.assert_close(loaded(latents, labels), outputs[weights], rtol=0, atol=1e-5)
    assert (outputs["raw"] - outputs["ema"]).abs().max() > 1e-3  # so that the one cannot pass for the other


def test_each_network_has_its_own_export(tmp_path: Path) -> None:
    state = exported(tmp_path)
    names = list(state.gan.generator.state_dict())
    assert set(load_file(tmp_path / "generator.safetensors")) == {f"{p}.{n}" for p in ("raw", "ema") for n in names}
    assert equal(load_file(tmp_path / "discriminator.safetensors"), state.gan.discriminator.state_dict())


def test_missing_ema_weights_are_said_in_a_sentence(tmp_path: Path) -> None:
    exported(tmp_path, ema_decay=None)
    assert load_generator(tmp_path, "raw")[1]["n_classes"] == 3
    with pytest.raises(PipelineError, match=r"holds no ema weights: set generate\.weights, or the recipe's ema_decay"):
        load_generator(tmp_path, "ema")


def test_an_export_of_before_a_field_was_new_is_loaded(tmp_path: Path) -> None:
    state, path = exported(tmp_path), tmp_path / "generator.json"
    info = json.loads(path.read_text())
    older = Recipe.model_validate(info["recipe"]).effective()
    assert {"reuse_fakes", "sampling_steps", "augment"} <= set(info["recipe"]) - set(older)
    path.write_text(json.dumps(info | {"recipe": older}))
    assert equal(load_generator(tmp_path, "raw")[0].state_dict(), state.gan.generator.state_dict())
    del older["loss"]
    path.write_text(json.dumps(info | {"recipe": older}))
    with pytest.raises(PipelineError, match="do not go together"):  # a field that is not neutral was always there
        load_generator(tmp_path, "raw")


@pytest.mark.parametrize("damage", ["halved", "truncated", "empty", "zeros"])
def test_a_damaged_export_is_said_in_a_sentence(damage: str, tmp_path: Path) -> None:
    exported(tmp_path)
    DAMAGES[damage](tmp_path / "generator.safetensors")
    with pytest.raises(PipelineError, match=r"generator.safetensors is damaged \(.*\): delete it and run `dvc repro`"):
        load_generator(tmp_path, "raw")


@pytest.mark.parametrize("name", ["generator.safetensors", "generator.json"])
def test_a_missing_export_is_said_in_a_sentence(name: str, tmp_path: Path) -> None:
    exported(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(PipelineError, match=rf"{name} does not exist: run `dvc repro`"):
        load_generator(tmp_path, "raw")


@pytest.mark.parametrize("info", [{}, [], {"recipe": {}}, "other size", "deep"])
def test_a_description_that_does_not_fit_is_said_in_a_sentence(info: Any, tmp_path: Path) -> None:
    exported(tmp_path)
    path = tmp_path / "generator.json"
    right = json.loads(path.read_text())
    text = {"other size": json.dumps(right | {"image_shape": [3, 64, 64]}), "deep": "[" * 100_000}.get(str(info))
    path.write_text(text or json.dumps(info))
    with pytest.raises(PipelineError, match=r"do not go together|is not valid JSON"):
        load_generator(tmp_path, "raw")


def test_a_hostile_export_is_never_executed(tmp_path: Path) -> None:
    exported(tmp_path)
    target = tmp_path / "executed"
    (tmp_path / "generator.safetensors").write_bytes(hostile(target, "torch"))
    with pytest.raises(PipelineError, match="is damaged"):
        load_generator(tmp_path, "raw")
    assert not target.exists()
