"""Losses against hand arithmetic, and what must hold for every entry of LOSSES."""

import math

import pytest
import torch

from pipeline.losses import LOSSES

REAL, FAKE = [0.0, 2.0], [-1.0, 3.0, 0.5]


def nll(logit: float) -> float:
    """-log sigmoid(logit)"""
    return -math.log(1 / (1 + math.exp(-logit)))


EXPECTED = {
    # name: (D's loss of REAL and FAKE, G's loss of FAKE)
    "bce": ((nll(0) + nll(2)) / 2 + (nll(1) + nll(-3) + nll(-0.5)) / 3, (nll(-1) + nll(3) + nll(0.5)) / 3),
    "hinge": ((1 + 0) / 2 + (0 + 4 + 1.5) / 3, -2.5 / 3),
    "wasserstein": (2.5 / 3 - 1, -2.5 / 3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values(name: str) -> None:
    loss, (discriminator, generator) = LOSSES[name], EXPECTED[name]
    assert loss.discriminator(torch.tensor(REAL), torch.tensor(FAKE)).item() == pytest.approx(discriminator, abs=1e-6)
    assert loss.generator(torch.tensor(FAKE)).item() == pytest.approx(generator, abs=1e-6)


def test_bce_by_numbers() -> None:
    # log 2 at an undecided D, and the formula above once more in plain numbers
    zero = torch.zeros(5)
    assert LOSSES["bce"].discriminator(zero, zero).item() == pytest.approx(1.386294, abs=1e-6)
    assert LOSSES["bce"].generator(zero).item() == pytest.approx(0.693147, abs=1e-6)
    assert EXPECTED["bce"][0] == pytest.approx(
        (0.693147 + 0.126928) / 2 + (0.313262 + 3.048587 + 0.974077) / 3, abs=1e-5
    )


def test_only_wasserstein_needs_a_bounded_slope() -> None:
    assert {name for name, loss in LOSSES.items() if loss.lipschitz} == {"wasserstein"}


@pytest.mark.parametrize("name", LOSSES)
def test_signs_of_the_gradients(name: str) -> None:
    real, fake = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True), torch.tensor([0.5, 0.0], requires_grad=True)
    value = LOSSES[name].discriminator(real, fake)
    assert value.shape == ()
    value.backward()
    assert (real.grad < 0).all()  # D's loss falls when real logits rise
    assert (fake.grad > 0).all()  # and rises with the fakes'
    fake.grad = None
    value = LOSSES[name].generator(fake)
    assert value.shape == ()
    value.backward()
    assert (fake.grad < 0).all()  # G's loss falls when fake logits rise


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_logits_stay_finite(name: str, extreme: float) -> None:
    real, fake = torch.full((3,), extreme, requires_grad=True), torch.full((3,), extreme, requires_grad=True)
    total = LOSSES[name].discriminator(real, fake) + LOSSES[name].generator(fake)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(real.grad).all()
    assert torch.isfinite(fake.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_means_not_sums(name: str) -> None:
    loss, real, fake = LOSSES[name], torch.tensor(REAL), torch.tensor(FAKE)
    once, thrice = loss.discriminator(real, fake), loss.discriminator(real.repeat(3), fake.repeat(5))
    assert thrice.item() == pytest.approx(once.item(), abs=1e-6)
    assert loss.generator(fake.repeat(4)).item() == pytest.approx(loss.generator(fake).item(), abs=1e-6)
