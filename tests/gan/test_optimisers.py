"""Optimisers: their state before the first step, and their steps against hand arithmetic and torch's own."""

import math

import pytest
import torch
from torch import nn

from pipeline.gan.optimisers import OPTIMISERS, make_optimiser


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("beta1", [0.0, 0.5])
def test_the_state_is_there_and_zero_before_the_first_step(name: str, beta1: float) -> None:
    net, untouched = network(), network()
    optimiser = make_optimiser(name, net, 1e-3, beta1, 0.9)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), untouched.parameters(), strict=True))
    assert len(optimiser.state) == 4
    before = {name: t.shape for values in optimiser.state.values() for name, t in values.items()}
    assert all((t == 0).all() for values in optimiser.state.values() for t in values.values())
    assert [group["lr"] for group in optimiser.param_groups] == [1e-3]
    assert all(parameter.grad is None for parameter in net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert {name: t.shape for values in optimiser.state.values() for name, t in values.items()} == before


@pytest.mark.parametrize("name", OPTIMISERS)
def test_on_the_meta_device(name: str) -> None:
    net = network().to("meta")
    optimiser = make_optimiser(name, net, 1e-3, 0.5, 0.9)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()


def one_weight(name: str, beta1: float, beta2: float) -> list[float]:
    """A weight of 1 after each of three steps at lr 0.1 with the gradients 1, -2, 3."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    optimiser, seen = make_optimiser(name, net, 0.1, beta1, beta2), []
    for gradient in (1.0, -2.0, 3.0):
        net.weight.grad = torch.full_like(net.weight, gradient)
        optimiser.step()
        seen.append(net.weight.item())
    return seen


@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.99), (0.5, 0.9), (0.9, 0.0)])
def test_rmsprop_by_hand(beta1: float, beta2: float) -> None:
    # v = alpha v + (1 - alpha) g^2;  m = momentum m + g / (sqrt v + eps);  w -= lr m
    weight, v, m, expected = 1.0, 0.0, 0.0, []
    for gradient in (1.0, -2.0, 3.0):
        v = beta2 * v + (1 - beta2) * gradient**2
        m = beta1 * m + gradient / (math.sqrt(v) + 1e-8)
        weight -= 0.1 * m
        expected.append(weight)
    assert one_weight("rmsprop", beta1, beta2) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.9), (0.5, 0.999)])
def test_adam_by_hand(beta1: float, beta2: float) -> None:
    # Kingma and Ba 2015, algorithm 1
    weight, v, m, expected = 1.0, 0.0, 0.0, []
    for step, gradient in enumerate((1.0, -2.0, 3.0), start=1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        weight -= 0.1 * (m / (1 - beta1**step)) / (math.sqrt(v / (1 - beta2**step)) + 1e-8)
        expected.append(weight)
    assert one_weight("adam", beta1, beta2) == pytest.approx(expected, abs=1e-6)


def test_momentum_of_rmsprop_lengthens_steps_as_told_in_params_yaml() -> None:
    def travelled(beta1: float) -> float:
        net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(net.weight)
        optimiser = make_optimiser("rmsprop", net, 0.01, beta1, 0.9)
        for _ in range(200):
            net.weight.grad = torch.ones_like(net.weight)
            optimiser.step()
        return -net.weight.item()

    assert travelled(0.5) / travelled(0.0) == pytest.approx(2, rel=0.01)
