"""ADA by hand: its strength, each transform, differentiated twice; killed and resumed."""

import functools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline import check
from pipeline.core.randomness import Draws
from pipeline.gan import ada
from pipeline.gan.augment import AUGMENTATIONS, augment_for_discriminator
from pipeline.gan.checkpoint import RunHistory, load_checkpoint, save_checkpoint
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import train
from tests.gan.states import bits, equal, run, start
from tests.recipes import image_set, tiny_budget, tiny_params, tiny_recipe


def source(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def images(count: int = 3, channels: int = 3, side: int = 8) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# The strength.


def test_the_strength_by_hand() -> None:
    own, step = ada.own(), 10 * 4 / 500_000
    sure, unsure = torch.ones(10), torch.tensor([1.0] * 7 + [-1.0] * 3)  # mean signs 1 and 0.4
    seen = []
    for logits in [sure] * 8 + [unsure] * 4 + [sure, sure, unsure, unsure] + [unsure] * 8:
        ada.adapt(own, logits)
        seen.append(own["strength"].item())
    # up twice; down at 0.4; up at (2 + 0.8) / 4 = 0.7; down, and not below 0
    expected = [0.0] * 3 + [1.0] * 4 + [2.0] * 4 + [1.0] * 4 + [2.0] * 4 + [1.0] * 4 + [0.0]
    assert seen == pytest.approx([value * step for value in expected], abs=1e-9)
    ada.adapt(own, -sure)
    own["seen"].fill_(3)
    ada.adapt(own, -sure)
    assert own["strength"].item() == 0
    own["strength"].fill_(1.0)
    for _ in range(8):
        ada.adapt(own, sure)
    assert own["strength"].item() == 1


# The transforms.


def only(place: int, count: int = 3) -> Tensor:
    """Which act: one of them, on every image."""
    acts = torch.zeros(13, count, dtype=torch.bool)
    acts[place] = True
    return acts


def warped(place: int, uniform: float = 0.0, normal: float = 0.0, x: Tensor | None = None) -> Tensor:
    x = images() if x is None else x
    numbers = torch.full((8, len(x)), uniform), torch.full((7, len(x)), normal)
    inverse = ada._inverse(only(place, len(x)), *numbers, x.shape[2])
    return ada.warp(x, inverse.to(x.dtype))


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_mirrors_and_quarter_turns() -> None:
    x = images()
    close(warped(0, 0.6), x.flip(-1))
    close(warped(0, 0.4), x)
    for quarter in range(4):
        close(warped(1, quarter / 4 + 0.1), torch.rot90(x, -quarter, dims=(2, 3)))


def test_whole_shifts_mirror_the_edges() -> None:
    x = images(side=16)
    shifted = warped(2, 0.75, x=x)  # half of an eighth of 16 pixels, to the right and down
    expected = torch.nn.functional.pad(x, (1, 0, 1, 0), mode="reflect")[:, :, :16, :16]
    close(shifted, expected)


def test_scales_turns_and_stretches() -> None:
    ramp = torch.arange(9.0, dtype=torch.float64) - 4
    x = ramp.expand(1, 1, 9, 9)  # each pixel is its own column, from the centre
    centre = slice(3, 6)
    close(warped(3, normal=1.0, x=x)[..., centre, centre], (x * 2**-0.2)[..., centre, centre])
    close(warped(5, normal=1.0, x=x)[..., centre, centre], (x * 2**-0.2)[..., centre, centre])
    close(warped(5, normal=1.0, x=x.mT)[..., centre, centre], (x.mT * 2**0.2)[..., centre, centre])
    for place in (4, 6):
        angle = 0.3
        turned = warped(place, (angle / math.pi + 1) / 2, x=x)
        expected = math.cos(angle) * x + math.sin(angle) * x.mT
        close(turned[..., centre, centre], expected[..., centre, centre])
    moved = warped(7, normal=0.1, x=x)  # an eighth of 0.9 pixels
    close(moved[..., centre, centre], (x - 0.1125)[..., centre, centre])


def test_the_warps_act_in_the_published_order() -> None:
    """Mirror, quarter turns, whole shift, size, first turn, stretch, second turn, part of a shift; each once."""
    count, side = 3, 16
    draws = source(2)
    numbers = draws.rand(8, count), draws.randn(7, count)
    together = ada._inverse(torch.ones(13, count, dtype=torch.bool), *numbers, side)
    apart = [ada._inverse(only(place, count), *numbers, side) for place in range(8)]
    close(together, functools.reduce(torch.matmul, apart))


def recoloured(place: int, uniform: float = 0.0, normal: float = 0.0, x: Tensor | None = None) -> Tensor:
    x = images() if x is None else x
    return ada._recolour(x, only(place)[:5], torch.full((2, 3), uniform), torch.full((3, 3), normal))


def test_colours_by_hand() -> None:
    x = images()
    grey = x.mean(dim=1, keepdim=True)
    close(recoloured(0, normal=1.5), x + 0.3)
    close(recoloured(1, normal=2.0), x * 2)
    close(recoloured(2, 0.4), x)
    close(recoloured(2, 0.6), x - 2 * grey)
    # a third of a turn about the grey axis takes red to green, green to blue and blue to red
    close(recoloured(3, 0.5 + 1 / 3), x.roll(1, dims=1))
    close(recoloured(4, normal=1.0), grey + 2 * (x - grey))
    one = x[:, :1]
    close(recoloured(0, normal=1.5, x=one), one + 0.3)
    close(recoloured(2, 0.6, x=one), -one)
    close(recoloured(3, 0.7, x=one), one)
    close(recoloured(4, normal=1.0, x=one), one)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_transform_acts_with_the_strength(channels: int) -> None:
    x = images(1, channels).float().expand(4000, -1, -1, -1)
    assert torch.equal(ada.transform(x, source(), 0.0), x)
    assert torch.equal(ada.transform(x, source(), torch.zeros(())), x)
    strength = 0.05
    moved = (ada.transform(x, source(), strength) - x).abs().flatten(1).amax(dim=1) > 1e-4
    changed = moved.double().mean().item()
    # left alone: by the mirror and the luma flip with 1 - p / 2, by quarter turns and by shifts of up to a pixel with
    # 1 - 3 p / 4, by the others with 1 - p; two rotations count as one; on grey images hue and saturation do nothing
    others = 6 + (2 if channels == 3 else 0)
    alone = (1 - strength / 2) ** 2 * (1 - 3 / 4 * strength) ** 2 * (1 - strength) ** others
    assert changed == pytest.approx(1 - alone, abs=0.025)
    assert torch.equal(ada.transform(x, source(), strength), ada.transform(x, source(), torch.tensor(strength)))


def test_it_goes_through_the_registry_with_its_strength() -> None:
    x = images().float()
    shown = augment_for_discriminator(x, {"ada_fixed": 0.7}, 0.0, 5, "real", 3)
    again = augment_for_discriminator(x, {"ada_fixed": torch.tensor(0.7)}, 0.0, 5, "real", 3)
    assert torch.equal(shown, again) and not torch.equal(shown, x)
    assert torch.equal(augment_for_discriminator(x, {"ada_fixed": 0.0}, 0.0, 5, "real", 3), x)
    assert augment_for_discriminator(x.to("meta"), {"ada": torch.zeros(())}, 0.0, 5, "real", 3).device.type == "meta"


def test_it_is_differentiated_twice() -> None:
    x = images(2, side=6).requires_grad_()

    def curved(x: Tensor) -> Tensor:
        return ada.transform(x, source(4), 0.9).pow(3)

    assert not torch.equal(ada.transform(x, source(4), 0.9), x)
    assert torch.autograd.gradcheck(curved, (x,), atol=1e-4)
    assert torch.autograd.gradgradcheck(curved, (x,), atol=1e-4)


def test_half_precision_is_not_its_own() -> None:
    x = images(4).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ada.transform(x, source(), 0.8), ada.transform(x, source(), 0.8).float())
        mixed = ada.transform(x, source(), 0.8)
    torch.testing.assert_close(mixed, ada.transform(x, source(), 0.8), rtol=0, atol=0)


# In the step.

ADA = {"loss": "bce", "penalty": "r1", "penalty_every": 2, "augment": ["ada"], "norm_d": "none"}


def test_the_strength_is_in_the_state_and_in_the_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ada, "IMAGES", 100)
    state, reports = run(tiny_recipe(**ADA), tiny_budget(steps=8))
    assert state.own["augment/ada/seen"].item() == 8
    strength = state.own["augment/ada/strength"].item()
    assert round(strength / 0.16) * 0.16 == pytest.approx(strength)
    assert "augment/ada/strength" in state.names and 0 <= reports[-1].losses["augment/ada/strength"] <= 0.32


@pytest.mark.parametrize("steps", [3, 6])
def test_killed_and_resumed_bit_for_bit(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ada, "IMAGES", 50)
    monkeypatch.setattr(ada, "TARGET", -1.1)  # so that it rises, by 0.32
    recipe, budget = tiny_recipe(**ADA), tiny_budget(steps=9)
    whole, _ = run(recipe, budget)
    assert whole.own["augment/ada/strength"].item() == pytest.approx(0.64)
    state = start(recipe, budget)
    for report in train(state, image_set(), LOSSES["bce"], recipe, budget):
        if report.step == steps:
            break
    save_checkpoint(tmp_path, state, RunHistory())
    resumed = start(recipe, budget)
    load_checkpoint(tmp_path, resumed)
    list(train(resumed, image_set(), LOSSES["bce"], recipe, budget))
    assert equal(bits(whole), bits(resumed))


def test_it_needs_a_loss_whose_logits_have_a_sign() -> None:
    assert list(check.problems(tiny_params(toy={"augment": ["ada"], "loss": "rpgan"}))) == [
        "models.toy.augment: must not hold ada with loss rpgan: it follows the signs of logits, but this loss "
        "uses only their differences; use ada_fixed with a value or schedule as augment_strength"
    ]
    assert list(check.problems(tiny_params(toy={"augment": ["ada_fixed"], "loss": "rpgan"}))) == []
    assert [name for name, entry in AUGMENTATIONS.items() if entry.graded] == ["ada", "ada_fixed"]
