"""Losses against hand arithmetic, and what must hold for every entry of LOSSES."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.gan.losses import LOSSES, smoothed

REAL, FAKE = [0.0, 2.0], [-1.0, 3.0, 0.5]


def nll(logit: float) -> float:
    """-log sigmoid(logit)"""
    return -math.log(1 / (1 + math.exp(-logit)))


def of_generator(name: str, fake: Tensor, real: Tensor) -> Tensor:
    """G's loss, with the logits of real images where it wants them."""
    loss = LOSSES[name]
    return loss.generator(fake, real) if loss.paired else loss.generator(fake)


EXPECTED = {
    # name: (D's loss of REAL and FAKE, G's loss of FAKE)
    "bce": ((nll(0) + nll(2)) / 2 + (nll(1) + nll(-3) + nll(-0.5)) / 3, (nll(-1) + nll(3) + nll(0.5)) / 3),
    "bce_saturating": ((nll(0) + nll(2)) / 2 + (nll(1) + nll(-3) + nll(-0.5)) / 3, -(nll(1) + nll(-3) + nll(-0.5)) / 3),
    "hinge": ((1 + 0) / 2 + (0 + 4 + 1.5) / 3, -2.5 / 3),
    "wasserstein": (2.5 / 3 - 1, -2.5 / 3),
    "rpgan": ((nll(1) + nll(-1)) / 2, (nll(-1) + nll(1)) / 2),  # of the first two fakes: pairs (0, -1) and (2, 3)
    "ragan": (
        (nll(0 - 1) + nll(2 - 1) + nll(1 - -1) + nll(1 - 3)) / 4,  # both means are 1
        (nll(-1 - 1) + nll(3 - 1) + nll(1 - 0) + nll(1 - 2)) / 4,
    ),
    "least_squares": ((1 + 1) / 4 + (1 + 9 + 0.25) / 6, (4 + 4 + 0.25) / 6),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values(name: str) -> None:
    loss, (discriminator, generator) = LOSSES[name], EXPECTED[name]
    real, fake = torch.tensor(REAL), torch.tensor(FAKE[: 2 if loss.paired else 3])
    assert loss.discriminator(real, fake).item() == pytest.approx(discriminator, abs=1e-6)
    assert of_generator(name, fake, real).item() == pytest.approx(generator, abs=1e-6)


def test_relativistic_losses_by_numbers() -> None:
    # log 2 where no image is taken for more real than another; and only differences count
    zero, real, fake = torch.zeros(2), torch.tensor(REAL), torch.tensor(FAKE[:2])
    for name in ("rpgan", "ragan"):
        loss = LOSSES[name]
        assert loss.discriminator(zero, zero).item() == pytest.approx(0.693147, abs=1e-6)
        assert loss.generator(zero, zero).item() == pytest.approx(0.693147, abs=1e-6)
        assert loss.discriminator(real + 7, fake + 7).item() == pytest.approx(EXPECTED[name][0], abs=1e-6)
        assert loss.generator(fake, real).item() == pytest.approx(loss.discriminator(fake, real).item(), abs=1e-7)
    assert EXPECTED["rpgan"][0] == pytest.approx((0.313262 + 1.313262) / 2, abs=1e-6)
    swapped = LOSSES["rpgan"].discriminator(real, fake.flip(0))  # another pairing is another loss, its means are not
    assert swapped.item() == pytest.approx((nll(-3) + nll(3)) / 2, abs=1e-6)
    assert LOSSES["ragan"].discriminator(real, fake.flip(0)).item() == pytest.approx(EXPECTED["ragan"][0], abs=1e-6)


@pytest.mark.parametrize("name", ["rpgan", "ragan"])
def test_gradients_of_relativistic_losses(name: str) -> None:
    real, fake = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (REAL, FAKE[:2]))
    assert torch.autograd.gradcheck(LOSSES[name].discriminator, (real, fake))
    assert torch.autograd.gradcheck(LOSSES[name].generator, (fake, real))


def test_bce_by_numbers() -> None:
    # log 2 at an undecided D, and the formula above once more in plain numbers
    zero = torch.zeros(5)
    assert LOSSES["bce"].discriminator(zero, zero).item() == pytest.approx(1.386294, abs=1e-6)
    assert LOSSES["bce"].generator(zero).item() == pytest.approx(0.693147, abs=1e-6)
    assert EXPECTED["bce"][0] == pytest.approx(
        (0.693147 + 0.126928) / 2 + (0.313262 + 3.048587 + 0.974077) / 3, abs=1e-5
    )


def test_the_saturating_generator_by_numbers() -> None:
    # log(1 - D) = -log 2 at an undecided D; its slope dies where D is sure of the fake, the non-saturating one does not
    assert LOSSES["bce_saturating"].generator(torch.zeros(5)).item() == pytest.approx(-0.693147, abs=1e-6)
    slopes = {}
    for name in ("bce", "bce_saturating"):
        fake = torch.tensor([-6.0], requires_grad=True)
        LOSSES[name].generator(fake).backward()
        slopes[name] = fake.grad.item()
    assert slopes == pytest.approx({"bce": -1 / (1 + math.exp(-6)), "bce_saturating": -1 / (1 + math.exp(6))}, rel=1e-5)


def test_least_squares_by_numbers() -> None:
    perfect, wrong = (torch.ones(2), torch.zeros(3)), (torch.zeros(2), torch.ones(3))
    assert LOSSES["least_squares"].discriminator(*perfect).item() == 0
    assert LOSSES["least_squares"].discriminator(*wrong).item() == 1
    assert LOSSES["least_squares"].generator(torch.tensor([1.0, 1.0])).item() == 0
    assert LOSSES["least_squares"].generator(torch.tensor([-1.0, 3.0])).item() == 2


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.cross_entropy])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.25])
def test_label_smoothing_is_the_cross_entropy_of_the_smoothed_label(name: str, smoothing: float) -> None:
    real, fake, loss = torch.tensor(REAL), torch.tensor(FAKE), LOSSES[name]
    smooth = smoothed(loss, smoothing)
    label = 1 - smoothing  # by hand: -(label log D + (1 - label) log(1 - D)) of real images; fakes keep the label 0
    expected = sum(label * nll(x) + (1 - label) * nll(-x) for x in REAL) / 2 + sum(nll(-x) for x in FAKE) / 3
    assert smooth.discriminator(real, fake).item() == pytest.approx(expected, abs=1e-6)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    reference = bce(real, torch.full_like(real, label)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(smooth.discriminator(real, fake), reference, rtol=0, atol=1e-6)
    assert smooth.generator is loss.generator
    if smoothing:  # D gains nothing beyond the logit of the label
        best = torch.tensor([math.log(label / smoothing)], requires_grad=True)
        smooth.discriminator(best, fake).backward()
        assert best.grad.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_only_labels_can_be_smoothed(name: str) -> None:
    assert smoothed(LOSSES[name], 0.0) is LOSSES[name]
    assert LOSSES[name].cross_entropy == name.startswith("bce")
    if not LOSSES[name].cross_entropy:
        with pytest.raises(AssertionError, match="only labels"):
            smoothed(LOSSES[name], 0.1)


def test_only_wasserstein_needs_a_bounded_gradient() -> None:
    assert {name for name, loss in LOSSES.items() if loss.needs_lipschitz} == {"wasserstein"}


@pytest.mark.parametrize("name", LOSSES)
def test_signs_of_the_gradients(name: str) -> None:
    real, fake = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True), torch.tensor([0.5, 0.25, 0.1], requires_grad=True)
    value = LOSSES[name].discriminator(real, fake)
    assert value.shape == ()
    value.backward()
    assert (real.grad < 0).all()  # D's loss falls when real logits rise
    assert (fake.grad > 0).all()  # and rises with the fakes'
    fake.grad = None
    value = of_generator(name, fake, real.detach())
    assert value.shape == ()
    value.backward()
    assert (fake.grad < 0).all()  # G's loss falls when fake logits rise


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_logits_stay_finite(name: str, extreme: float) -> None:
    real, fake = torch.full((3,), extreme, requires_grad=True), torch.full((3,), extreme, requires_grad=True)
    total = LOSSES[name].discriminator(real, fake) + of_generator(name, fake, real)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(real.grad).all()
    assert torch.isfinite(fake.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_means_not_sums(name: str) -> None:
    loss = LOSSES[name]
    real, fake, often = torch.tensor(REAL), torch.tensor(FAKE[: 2 if loss.paired else 3]), 3 if loss.paired else 5
    once, thrice = loss.discriminator(real, fake), loss.discriminator(real.repeat(3), fake.repeat(often))
    assert thrice.item() == pytest.approx(once.item(), abs=1e-6)
    four = of_generator(name, fake.repeat(4), real.repeat(4))
    assert four.item() == pytest.approx(of_generator(name, fake, real).item(), abs=1e-6)
