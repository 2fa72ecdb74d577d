"""What a method of today needs of the step, each as one registry entry, without a line changed in the step itself."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pipeline.data.batches import ImageSet, batch
from pipeline.gan import schedules
from pipeline.gan.augment import AUGMENTATIONS, Augmentation, augment_for_discriminator
from pipeline.gan.checkpoint import RunHistory, load_checkpoint, save_checkpoint
from pipeline.gan.losses import LOSSES, AdversarialLoss
from pipeline.gan.penalties import PENALTIES, Penalty, Update
from pipeline.gan.step import TrainState, create_state, train, train_step
from pipeline.params import Params, Schedule, load

ROOT = Path(__file__).resolve().parents[2]
SHAPE, CLASSES, STEPS, SEED = (1, 16, 16), 3, 6, 5
SMALL = {"width_g": 4, "width_d": 4, "latent_dim": 5, "batch_size": 4, "norm_d": "none"}
IMAGES = torch.randint(256, (24, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def params_of(**changes: Any) -> Params:
    recipe = {f"models.dcgan.{name}": value for name, value in {**SMALL, **changes}.items()}
    return load(ROOT / "params.yaml").override(recipe | {"train.steps": STEPS, "train.report_every": 3})


def image_set(device: str = "cpu") -> ImageSet:
    return ImageSet(IMAGES.to(device), (torch.arange(24) % CLASSES).to(device), CLASSES)


def start(params: Params, device: str = "cpu") -> TrainState:
    return create_state(params.models["dcgan"], params.train, SHAPE, CLASSES, SEED, torch.device(device))


def one_step(state: TrainState, params: Params, device: str = "cpu") -> dict[str, Tensor]:
    recipe = params.models["dcgan"]
    curves = train_step(state, image_set(device), LOSSES[recipe.loss], recipe, params.train)
    return dict(zip(state.names, curves, strict=True))


def relativistic(fake: Tensor, real: Tensor) -> Tensor:
    return softplus(real - fake).mean()


def smoothness(update: Update) -> Tensor:
    """How far G's images move for a small step of the latents, beside its running mean, which it keeps."""
    assert update.latents is not None and update.fake_images is not None
    moved = update.latents + 0.1 * update.draws.randn(*update.latents.shape)
    value = update.world.mean((update.generator(moved, update.fake_labels) - update.fake_images).square().mean())
    update.own["mean"].lerp_(value.detach(), 0.5)
    return (value - update.own["mean"]).square() + value


def follow_logits(own: dict[str, Tensor], real_logits: Tensor) -> None:
    own["strength"].add_(0.125 * real_logits.mean()).clamp_(0, 1)


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relativistic loss, a lazy penalty on G with its own noise, an augmentation that adapts its strength."""
    paired = AdversarialLoss(lambda real, fake: softplus(fake - real).mean(), relativistic, paired=True)
    monkeypatch.setitem(LOSSES, "relativistic", paired)
    smooth = Penalty(smoothness, of="generator", own=lambda: {"mean": torch.zeros(())}, reported=("mean",))
    monkeypatch.setitem(PENALTIES, "smooth", smooth)
    mirrored = Augmentation(
        lambda images, draws: images.flip(-1), follow_logits, lambda: {"strength": torch.full((), 0.5)}, ("strength",)
    )
    monkeypatch.setitem(AUGMENTATIONS, "mirrored", mirrored)


METHODS = {"loss": "relativistic", "penalty": "smooth", "penalty_weight": 3.0, "penalty_every": 2,
           "augment": ["mirrored"]}  # fmt: skip


def test_a_paired_loss_sees_the_logits_of_the_real_images_at_the_same_places(methods: None) -> None:
    params = params_of(loss="relativistic", network="dcgan_conditional", norm_d="none")
    recipe, state, seen = params.models["dcgan"], start(params), []
    discriminator = state.gan.discriminator
    discriminator.register_forward_hook(lambda _, inputs, logits: seen.append((*inputs, logits.detach())))
    curves = one_step(state, params)
    both, *of_g = seen  # D sees its real and fake images in one batch
    (real, _), (real_labels, fake_labels), (real_logits, fake_logits) = (part.chunk(2) for part in both)
    expected, labels = batch(image_set(), 0, 4, SEED, flip=False, dequantise=False)
    assert torch.equal(real, expected) and torch.equal(real_labels, labels) and torch.equal(fake_labels, labels)
    assert curves["loss/d"].item() == pytest.approx(softplus(fake_logits - real_logits).mean().item(), abs=1e-6)
    (_, g_labels, g_fake), (g_real, g_real_labels, g_reals) = of_g
    assert torch.equal(g_labels, g_real_labels) and not torch.equal(g_real, real)  # a batch of its own
    assert curves["loss/g"].item() == pytest.approx(softplus(g_reals - g_fake).mean().item(), abs=1e-6)
    assert recipe.batch_size == 4 == len(g_reals)


def test_a_penalty_on_g_is_lazy_and_stands_apart_from_the_loss(methods: None) -> None:
    params = params_of(**{**METHODS, "loss": "hinge", "augment": []})
    state = start(params)
    assert state.names == ("loss/d", "loss/g", "penalty/smooth", "penalty/smooth/mean")
    plain, free = start(params_of(loss="hinge")), params_of(loss="hinge")
    first, without = one_step(state, params), one_step(plain, free)
    mean = 2 * first["penalty/smooth/mean"].item()  # it began at 0 and moved half way to the first value
    own = mean - first["penalty/smooth/mean"].item()
    assert first["penalty/smooth"].item() == pytest.approx(3.0 * 2 * (own**2 + mean), rel=1e-5)
    assert torch.equal(first["loss/g"], without["loss/g"]) and torch.equal(first["loss/d"], without["loss/d"])
    weights = [next(one.gan.generator.parameters()) for one in (state, plain)]
    assert not torch.equal(*weights)
    state.step = plain.step = 1
    second = one_step(state, params)
    assert second["penalty/smooth"].item() == 0  # not due: every second update
    assert torch.equal(second["penalty/smooth/mean"], first["penalty/smooth/mean"])


def test_an_augmentation_adapts_its_strength_after_each_update_of_d(methods: None) -> None:
    params = params_of(augment=["mirrored"])
    state, seen = start(params), []
    hook = state.gan.discriminator.register_forward_hook(lambda _, inputs, logits: seen.append(logits.detach()))
    curves = one_step(state, params)
    hook.remove()
    assert state.names[-1] == "augment/mirrored/strength"
    expected = 0.5 + 0.125 * seen[0][:4].mean().item()  # of the real images
    assert curves["augment/mirrored/strength"].item() == pytest.approx(expected, abs=1e-6) != 0.5
    assert state.own["augment/mirrored/strength"].item() == pytest.approx(expected, abs=1e-6)


def test_killed_after_any_step_it_ends_bit_for_bit_as_if_it_had_not_been(methods: None, tmp_path: Path) -> None:
    params = params_of(**METHODS)
    recipe, whole = params.models["dcgan"], start(params)
    reports = list(train(whole, image_set(), LOSSES[recipe.loss], recipe, params.train))
    state = start(params)
    for _ in range(STEPS):
        next(train(state, image_set(), LOSSES[recipe.loss], recipe, params.train))
        save_checkpoint(tmp_path, state, RunHistory())
        state = start(params)  # all that was in memory is gone
        load_checkpoint(tmp_path, state)
    first, second = whole.tensors(), state.tensors()
    assert first.keys() == second.keys() and "own.augment/mirrored/strength" in first
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.own["penalty/smooth/mean"].item() != 0
    told = reports[-1].losses
    assert told is not None and set(told) == set(whole.names) and told["penalty/smooth"] > 0


def test_nothing_leaves_the_device(methods: None) -> None:
    params = params_of(**METHODS)
    curves = one_step(start(params, "meta"), params, "meta")
    assert all(value.device.type == "meta" for value in curves.values())


# Schedules.


@pytest.mark.parametrize(
    ("shape", "step", "value"),
    [
        ("linear", 0, 1.0), ("linear", 25, 0.6), ("linear", 50, 0.2), ("linear", 99, 0.2),
        ("cosine", 0, 1.0), ("cosine", 25, 0.6), ("cosine", 50, 0.2), ("cosine", 80, 0.2),
        ("cosine", 10, 0.2 + 0.8 * (1 + math.cos(math.pi / 5)) / 2),
    ],
)  # fmt: skip
def test_a_schedule_by_hand(shape: Any, step: int, value: float) -> None:
    schedule = Schedule(start=1.0, end=0.2, shape=shape, until=0.5)
    assert schedules.value_at(schedule, step, 100) == pytest.approx(value, abs=1e-12)
    assert schedules.value_at(0.3, step, 100) == 0.3


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
def test_learning_rates_and_betas_follow_their_schedules(optimiser: str) -> None:
    rising = {"start": 0.0, "end": 0.4, "shape": "linear", "until": 1.0}
    lr = {"start": 4e-4, "end": 1e-4, "shape": "linear", "until": 0.5}
    params = params_of(lr_g=lr, lr_d=2e-4, beta1=rising, beta2=0.9, lr_decay="cosine", optimiser=optimiser)
    recipe, state, seen = params.models["dcgan"], start(params), []
    for _ in train(state, image_set(), LOSSES["hinge"], recipe, params.train):
        g, d = (one.param_groups[0] for one in (state.optimiser_g, state.optimiser_d))
        betas = g["betas"] if optimiser == "adam" else (g["momentum"], g["alpha"])
        seen.append((g["lr"], d["lr"], *betas))
    for step, (lr_g, lr_d, beta1, beta2) in enumerate(seen):
        decay = (1 + math.cos(math.pi * step / STEPS)) / 2
        assert lr_g == pytest.approx(max(1e-4, 4e-4 - 1e-4 * step) * decay, rel=1e-9)
        assert lr_d == pytest.approx(2e-4 * decay, rel=1e-9)
        assert (beta1, beta2) == pytest.approx((0.4 * step / STEPS, 0.9), abs=1e-12)


def test_the_weight_of_a_penalty_follows_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PENALTIES, "one", Penalty(lambda update: update.real.new_ones(())))  # type: ignore[union-attr]
    falling = {"start": 6.0, "end": 3.0, "shape": "linear", "until": 1.0}
    params = params_of(penalty="one", penalty_weight=falling)
    recipe, state = params.models["dcgan"], start(params)
    reports = [one.losses for one in train(state, image_set(), LOSSES["hinge"], recipe, params.train) if one.losses]
    assert [one["penalty/one"] for one in reports] == pytest.approx([5.5, 4.0])  # means of 6, 5.5, 5 and 4.5, 4, 3.5


def test_the_strength_is_the_share_of_augmented_images() -> None:
    images = torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for strength in (0.0, 0.25, torch.tensor(0.25), 1.0):
        shown = augment_for_discriminator(images, {"colour": strength}, 0.0, 0, "real", 0)
        share = (shown != images).flatten(1).any(1).float().mean().item()
        assert share == pytest.approx(float(strength), abs=0.03)
    all_of_them = augment_for_discriminator(images, {"colour": 1.0}, 0.0, 0, "real", 0)
    some = augment_for_discriminator(images, {"colour": 0.25}, 0.0, 0, "real", 0)
    changed = (some != images).flatten(1).any(1)
    assert torch.equal(some[changed], all_of_them[changed])  # those that are changed are changed as ever


def test_a_lazy_penalty_on_d_counts_its_updates() -> None:
    """With n_critic 3 and penalty_every 2 the updates 0, 2 | 4 | 6, 8 | 10 have it, each at twice the weight."""
    params = params_of(penalty="r1", penalty_weight=2.0, penalty_every=2, n_critic=3)
    state, calls = start(params), []
    value = PENALTIES["r1"].value
    assert value is not None
    counted = Penalty(lambda update: calls.append(state.step) or value(update))  # type: ignore[func-returns-value]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PENALTIES, "r1", counted)
        list(train(state, image_set(), LOSSES["hinge"], params.models["dcgan"], params.train))
    assert calls == [0, 0, 1, 2, 2, 3, 4, 4, 5]


def test_neutral_fields_do_nothing() -> None:
    """Whatever the weight of no penalty or the strength of no augmentation, every bit is the same."""
    tensors = []
    for changes in ({}, {"penalty_every": 3, "penalty_weight": 7.0, "augment_strength": 0.5}):
        params = params_of(**changes)
        state = start(params)
        list(train(state, image_set(), LOSSES["hinge"], params.models["dcgan"], params.train))
        tensors.append(state.tensors())
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
