"""Regularisers against hand arithmetic, and the fields beside them: packing, top-k, half-life of the average."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import check
from pipeline.core.randomness import Draws
from pipeline.gan import regularisers
from pipeline.gan.checkpoint import RunHistory, load_checkpoint, save_checkpoint
from pipeline.gan.losses import LOSSES
from pipeline.gan.penalties import PENALTIES, Update
from pipeline.gan.rates import decay_at
from pipeline.gan.step import train, train_step
from pipeline.models.build import Packed
from pipeline.params import Schedule
from tests.gan.states import bits, equal, run, start
from tests.recipes import image_set, tiny_budget, tiny_params, tiny_recipe

Critic = Callable[[Tensor, Tensor], Tensor]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def update_of(critic: Critic, real: Tensor, fake: Tensor, seed: int = 0, **more: Any) -> Update:
    labels = torch.arange(len(real))
    return Update(
        more.pop("generator", critic), critic, real, labels, fake, labels, Draws(torch.Generator().manual_seed(seed)),
        real_images=real, fake_images=fake, real_logits=critic(real, labels), fake_logits=critic(fake, labels), **more,
    )  # fmt: skip


def mean_pixel(images: Tensor, labels: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


# LeCam.


def test_lecam_by_hand() -> None:
    own = regularisers.lecam_means()
    first = {"real": [1.0, 3.0], "fake": [-1.0, 0.0]}  # means 2 and -0.5
    second = {"real": [0.0, 0.0], "fake": [4.0, -2.0]}  # means 0 and 1
    expected = [
        ((1 + 0.5) ** 2 + (3 + 0.5) ** 2) / 2 + ((2 + 1) ** 2 + (2 - 0) ** 2) / 2,
        None,
    ]
    # bias-corrected means after both: weights 0.01 * 0.99 and 0.01 over 1 - 0.99**2
    a_real = (0.0099 * 2 + 0.01 * 0) / 0.0199
    a_fake = (0.0099 * -0.5 + 0.01 * 1) / 0.0199
    expected[1] = max(0 - a_fake, 0) ** 2 + (max(a_real - 4, 0) ** 2 + max(a_real + 2, 0) ** 2) / 2
    for logits, value in zip((first, second), expected, strict=True):
        real, fake = (torch.tensor(logits[name]).view(2, 1, 1, 1) for name in ("real", "fake"))
        found = regularisers.lecam(update_of(mean_pixel, real, fake, own=own))
        assert found.item() == pytest.approx(value, rel=1e-5)
    assert own["real"].item() == pytest.approx(0.0198) and own["seen"].item() == 2


def test_lecam_has_no_gradient_through_its_means() -> None:
    real, fake = (torch.tensor([value], requires_grad=True) for value in (2.0, -1.0))
    update = Update(
        None, None, None, None, None, None, None, real_logits=real, fake_logits=fake,  # type: ignore[arg-type]
        own=regularisers.lecam_means(),
    )  # fmt: skip
    regularisers.lecam(update).backward()
    # (2 + 1)^2 + (2 + 1)^2, each by one logit alone
    assert (real.grad.item(), fake.grad.item()) == pytest.approx((6.0, -6.0), rel=1e-5)


# Consistency.


def corner(images: Tensor, labels: Tensor) -> Tensor:
    """The pixel that a shift or a flip replaces."""
    return images[:, 0, 0, 0]


@pytest.mark.parametrize("size", [(1, 16, 16), (3, 8, 12)])
def test_images_are_mirrored_and_shifted_with_mirrored_edges(size: tuple[int, int, int]) -> None:
    count, (_, height, width) = 600, size
    images = drawn(1, *size).expand(count, *size)
    changed = regularisers._flipped_and_shifted(images, Draws(torch.Generator().manual_seed(0)))
    reach = (height // 8, width // 8)
    padded = torch.nn.functional.pad(images[:1], (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    mirrored = torch.nn.functional.pad(images[:1].flip(-1), (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    seen = {}
    for top in range(2 * reach[0] + 1):
        for left in range(2 * reach[1] + 1):
            for flip, whole in enumerate((padded, mirrored)):
                window = whole[:, :, top : top + height, left : left + width]
                seen[top, left, flip] = int((changed == window).flatten(1).all(1).sum())
    assert sum(seen.values()) == count  # each is one of them
    assert min(seen.values()) > 0.3 * count / len(seen)  # and all of them come


def test_consistency_by_hand() -> None:
    real, fake = drawn(4, 1, 16, 16), drawn(4, 1, 16, 16, seed=1)
    draws = Draws(torch.Generator().manual_seed(3))
    moved = [regularisers._flipped_and_shifted(images.float(), draws) for images in (real, fake)]
    apart = [(corner(a, None) - corner(b, None)).square().mean() for a, b in zip((real, fake), moved, strict=True)]
    assert min(apart) > 0.1
    assert PENALTIES["cr"].value(update_of(corner, real, fake, seed=3)).item() == pytest.approx(
        apart[0].item(), rel=1e-5
    )
    both = PENALTIES["bcr"].value(update_of(corner, real, fake, seed=3))
    assert both.item() == pytest.approx(sum(apart).item(), rel=1e-5)
    # Of a critic that no flip or shift can tell apart nothing is asked.
    flat = torch.full((4, 1, 16, 16), 0.3)
    assert PENALTIES["bcr"].value(update_of(corner, flat, flat)).item() == 0


def test_latent_consistency_by_hand() -> None:
    latents = drawn(500, 3)

    def generator(latents: Tensor, labels: Tensor) -> Tensor:
        return latents[:, :2, None, None]  # two pixels are the first two latents

    def critic(images: Tensor, labels: Tensor) -> Tensor:
        return 3 * images[:, 0, 0, 0]

    fake = generator(latents, None)
    step = regularisers.RADIUS * torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))
    given = {"generator": generator, "latents": latents, "seed": 7}
    found = PENALTIES["zcr"].value(update_of(critic, fake, fake, **given)).item()
    assert found == pytest.approx((3 * step[:, 0]).square().mean().item(), rel=1e-5)
    assert found == pytest.approx(9 * 0.05**2, rel=0.2)
    found = PENALTIES["zcr_g"].value(update_of(critic, fake, fake, **given)).item()
    assert found == pytest.approx(-step[:, :2].square().mean().item(), rel=1e-5)
    assert found == pytest.approx(-(0.05**2), rel=0.2)


@pytest.mark.parametrize("name", ["cr", "bcr", "zcr", "dragan", "r2", "r1_r2"])
def test_gradients_of_the_critics_weights(name: str) -> None:
    """In float64 against finite differences, as a function of D's weights."""
    real, fake, value = drawn(3, 1, 8, 8), drawn(3, 1, 8, 8, seed=1), PENALTIES[name].value

    def of_weights(weights: Tensor) -> Tensor:
        def critic(images: Tensor, labels: Tensor) -> Tensor:
            return torch.tanh(images.double().flatten(1) @ weights.T).sum(dim=1)

        def generator(latents: Tensor, labels: Tensor) -> Tensor:
            return fake * (1 + latents.sum(dim=1).view(-1, 1, 1, 1))

        return value(update_of(critic, real, fake, generator=generator, latents=fake.new_zeros(3, 2)))

    weights = (drawn(2, 64, seed=2) / 8).requires_grad_()
    assert torch.autograd.gradcheck(of_weights, (weights,), eps=1e-5, atol=1e-4 if "cr" in name else 1e-6)


def test_slopes_are_taken_before_the_augmentation() -> None:
    """An augmentation that halves images halves the slope; the penalty of what D is shown would be four times this."""
    real = drawn(4, 1, 4, 4)

    def critic(images: Tensor, labels: Tensor) -> Tensor:
        return images.sum(dim=(1, 2, 3))

    def show(images: Tensor, name: str) -> Tensor:
        return images * {"real": 0.5, "fake": 0.25}[name]

    update = update_of(critic, real, real, show=show)
    found = {name: PENALTIES[name].value(update).item() for name in ("r1", "r2", "r1_r2")}
    assert found == pytest.approx({"r1": 16 / 4 / 2, "r2": 16 / 16 / 2, "r1_r2": 2.5})


# Several at once, in the step.


def test_regularisers_stand_beside_the_penalty() -> None:
    recipe = tiny_recipe(penalty="r1", regularisers={"lecam": 0.3, "zcr": 2.0, "zcr_g": 0.5})
    state, reports = run(recipe, tiny_budget(steps=2))
    curves = ("penalty/r1", "penalty/lecam", "penalty/zcr", "penalty/zcr_g")
    assert state.names == ("loss/d", "loss/g", *curves, "penalty/lecam/real", "penalty/lecam/fake")
    told = reports[-1].losses
    assert told["penalty/r1"] > 0 and told["penalty/zcr"] > 0 > told["penalty/zcr_g"]
    assert state.own["penalty/lecam/seen"].item() == 2
    twice = run(tiny_recipe(penalty="r1", regularisers={"zcr": 4.0}), tiny_budget(steps=1, report_every=1))[1]
    once = run(tiny_recipe(penalty="r1", regularisers={"zcr": 2.0}), tiny_budget(steps=1, report_every=1))[1]
    assert twice[0].losses["penalty/zcr"] == pytest.approx(2 * once[0].losses["penalty/zcr"], rel=1e-5)
    assert twice[0].losses["penalty/r1"] == once[0].losses["penalty/r1"]


# Top-k.


def test_g_learns_from_the_best_fakes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    loss = LOSSES["bce"]
    watched = type(loss)(loss.discriminator, lambda *logits: seen.append(logits) or loss.generator(*logits))
    share = {"start": 1.0, "end": 0.5, "shape": "linear", "until": 1.0}
    recipe = tiny_recipe(top_k=share)
    budget = tiny_budget(steps=4)
    list(train(start(recipe, budget), image_set(), watched, recipe, budget))
    assert [len(logits[0]) for logits in seen] == [4, 4, 3, 3]  # of 4, 3.5, 3 and 2.5
    state, kept = start(tiny_recipe(top_k=0.5)), []
    state.gan.discriminator.register_forward_hook(lambda _, inputs, logits: kept.append(logits.detach()))
    train_step(state, image_set(), watched, tiny_recipe(top_k=0.5), budget)
    best = kept[-1].sort(descending=True).values[:2]
    assert torch.equal(seen[-1][0].detach().sort(descending=True).values, best) and kept[-1].min() < best.min()


def test_top_k_of_a_paired_loss_keeps_the_pairs() -> None:
    seen = []
    loss = LOSSES["rpgan"]
    watched = type(loss)(
        loss.discriminator, lambda *logits: seen.append(logits) or loss.generator(*logits), paired=True
    )
    recipe, kept = tiny_recipe(loss="rpgan", top_k=0.5), []
    state = start(recipe)
    state.gan.discriminator.register_forward_hook(lambda _, inputs, logits: kept.append(logits.detach()))
    train_step(state, image_set(), watched, recipe, tiny_budget())
    ((fake, real),) = seen
    pairs = set(zip(kept[-2].tolist(), kept[-1].tolist(), strict=True))
    assert set(zip(fake.tolist(), real.tolist(), strict=True)) < pairs and len(fake) == 2


# Packing.


def test_packed_images_are_channels_of_one() -> None:
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            seen.append((images, labels))
            return images.mean(dim=(1, 2, 3))

    images = drawn(6, 2, 4, 4)
    logits = Packed(Watched(), 3)(images, torch.arange(6))
    ((stacked, labels),) = seen
    assert stacked.shape == (2, 6, 4, 4) and labels.tolist() == [0, 1]
    assert torch.equal(stacked[1, 2:4], images[3])
    assert torch.allclose(logits, images.unflatten(0, (3, 2)).mean(dim=(0, 2, 3, 4)))


def test_a_packed_recipe_trains_a_wider_first_layer() -> None:
    recipe = tiny_recipe(pack=2, loss="hinge", batch_size=4)
    state, reports = run(recipe, tiny_budget(steps=2))
    first = next(state.gan.discriminator.parameters())
    assert first.shape[1] == 2  # two grey images
    assert math.isfinite(reports[-1].losses["loss/d"])
    assert next(start(tiny_recipe()).gan.discriminator.parameters()).shape[1] == 1


# The average's half-life.


def test_half_life_by_hand() -> None:
    recipe = tiny_recipe(ema_decay=None, ema_half_life=1000.0, batch_size=50, n_critic=2)  # 100 images a step
    assert decay_at(recipe, 7, 100) == pytest.approx(0.5**0.1)
    ramp = tiny_recipe(ema_decay=None, ema_half_life=1000.0, ema_ramp_up=0.5, batch_size=50, n_critic=2)
    assert decay_at(ramp, 0, 100) == 0  # nothing seen: the average is G itself
    assert decay_at(ramp, 4, 100) == pytest.approx(0.5 ** (100 / 200))  # half of 400
    assert decay_at(ramp, 19, 100) == pytest.approx(0.5 ** (100 / 950))
    assert decay_at(ramp, 21, 100) == pytest.approx(0.5**0.1)
    rising = Schedule(start=0.0, end=1000.0, shape="linear", until=0.5)
    assert decay_at(tiny_recipe(ema_decay=None, ema_half_life=rising.model_dump(), batch_size=100), 25, 100) == (
        pytest.approx(0.5 ** (100 / 500))
    )
    assert decay_at(tiny_recipe(ema_decay=0.9, ema_warmup=True), 0, 100) == 0.1
    # R3GAN's CIFAR-10: batches of 512 and 5e6 images are a decay of 0.9999
    r3gan = tiny_recipe(ema_decay=None, ema_half_life=5e6, batch_size=512)
    assert decay_at(r3gan, 0, 100) == pytest.approx(0.999929, abs=1e-6)


def test_an_average_by_half_life_is_kept() -> None:
    state, _ = run(tiny_recipe(ema_decay=None, ema_half_life=4.0), tiny_budget(steps=1))  # half after one batch
    first = start(tiny_recipe(ema_decay=None, ema_half_life=4.0))
    for old, new, mean in zip(
        *(list(n.parameters()) for n in (first.ema, state.gan.generator, state.ema)), strict=True
    ):
        torch.testing.assert_close(mean, (old + new) / 2)


# Killed and resumed.

MODERN: dict[str, dict[str, Any]] = {
    "r3gan's": {"loss": "rpgan", "penalty": "r1_r2", "penalty_weight": 0.1, "ema_decay": None,
                "ema_half_life": {"start": 0.0, "end": 100.0, "shape": "cosine", "until": 0.5}},
    "few images": {"loss": "hinge", "regularisers": {"lecam": 0.3, "bcr": 10.0, "zcr": 20.0, "zcr_g": 0.5},
                   "reuse_fakes": True},
    "packed": {"loss": "ragan", "penalty": "dragan", "penalty_every": 2, "pack": 2, "top_k": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", MODERN)
def test_killed_after_any_step_it_ends_bit_for_bit_the_same(name: str, tmp_path: Path) -> None:
    recipe, budget = tiny_recipe(**MODERN[name]), tiny_budget(steps=4)
    whole, _ = run(recipe, budget)
    state = start(recipe, budget)
    for _ in range(budget.steps):
        next(train(state, image_set(), LOSSES[recipe.loss], recipe, budget))
        save_checkpoint(tmp_path, state, RunHistory())
        state = start(recipe, budget)
        load_checkpoint(tmp_path, state)
    assert equal(bits(whole), bits(state))


# What is refused.


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"regularisers": {"lecm": 0.3}}, "regularisers: unknown name 'lecm'; did you mean 'lecam'?"),
        ({"penalty": "r1", "regularisers": {"r1": 1.0}}, "regularisers: r1 must not be among them, since it is the"),
        ({"regularisers": {"none": 1.0}}, "regularisers: none must not be among them, which is no regulariser"),
        ({"pack": 3}, "pack: must divide batch_size, 4, got 3"),
        ({"pack": 2, "network": "projection"}, "pack: must be 1 with the network projection, which takes a label"),
        ({"minibatch_std": 4}, "minibatch_std: must be 0 with the network dcgan; networks with it: "),
        ({"ema_half_life": 100.0}, "ema_decay: must be null with ema_half_life, which gives the decay"),
        ({"ema_ramp_up": 0.05}, "ema_ramp_up: must be null without ema_half_life, which it limits"),
        (
            {"ema_half_life": 100.0, "ema_decay": None, "ema_warmup": True},
            "ema_warmup: must be false with ema_half_life, which has ema_ramp_up instead",
        ),
        ({"norm_d": "batch", "regularisers": {"r2": 1.0}}, "norm_d: must not be batch with penalty r2, which needs"),
    ],
)
def test_what_does_not_go_together_is_said(changes: dict[str, Any], sentence: str) -> None:
    faults = list(check.problems(tiny_params(toy=changes)))
    assert len(faults) == 1 and faults[0].startswith(f"models.toy.{sentence}"), faults


@pytest.mark.parametrize("name", MODERN)
def test_what_goes_together_is_sound(name: str) -> None:
    assert list(check.problems(tiny_params(toy=MODERN[name]))) == []
