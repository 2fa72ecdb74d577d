"""Spectral normalisation beside torch's own, whose values and names of tensors it has."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from pipeline.models.spectral_norm import normalise_weight

LAYERS = {
    "linear": lambda: nn.Linear(5, 3),
    "embedding": lambda: nn.Embedding(4, 6),
    "convolution": lambda: nn.Conv2d(5, 4, 3),
    "convolution of one channel": lambda: nn.Conv2d(1, 4, 3),
    "convolution 1x1": lambda: nn.Conv2d(5, 4, 1),
    "transposed convolution": lambda: nn.ConvTranspose2d(5, 4, (2, 3)),
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def pair(name: str, layout: torch.memory_format) -> tuple[nn.Module, nn.Module]:
    """A layer of float64, normalised by ours, and the same by torch's."""
    torch.manual_seed(1)
    mine = LAYERS[name]().double().to(memory_format=layout)
    theirs = copy.deepcopy(mine)
    torch.manual_seed(2)
    normalise_weight(mine)
    torch.manual_seed(2)
    parametrizations.spectral_norm(theirs)
    return mine, theirs


def assert_alike(mine: nn.Module, theirs: nn.Module) -> None:
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], tensor, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_torch(name: str, layout: str) -> None:
    mine, theirs = pair(name, LAYOUTS[layout])
    assert_alike(mine, theirs)
    for training in (True, True, False, True):
        mine.train(training), theirs.train(training)
        weights = [layer.weight for layer in (mine, theirs)]
        torch.testing.assert_close(*weights, rtol=1e-12, atol=1e-14)
        assert weights[0].stride() == weights[1].stride()
        for layer, weight in zip((mine, theirs), weights, strict=True):
            layer.zero_grad()
            weight.backward(torch.linspace(-1, 2, weight.numel(), dtype=torch.float64).view(weight.shape) ** 3)
        torch.testing.assert_close(
            *[each.parametrizations.weight.original.grad for each in (mine, theirs)], rtol=1e-10, atol=1e-12
        )
        assert_alike(mine, theirs)
        with torch.no_grad():
            for layer in (mine, theirs):  # so that the next iteration has another matrix
                layer.parametrizations.weight.original.mul_(1.3).add_(0.1)


def diagonal() -> nn.Linear:
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([4.0, 1.0, 0.5])))
    normalise_weight(layer)
    return layer


def test_by_hand() -> None:
    # W = diag(4, 1, 0.5) has sigma = 4 with u = v = the first unit vector. For the gradient G of ones of W / 4, that of
    # W is (G - <G, W / 4> u v^T) / 4 with <G, W / 4> = 1 + 0.25 + 0.125.
    layer = diagonal()
    weight = layer.weight
    torch.testing.assert_close(weight, torch.diag(torch.tensor([1.0, 0.25, 0.125])))
    weight.backward(torch.ones(3, 3))
    expected = torch.full((3, 3), 0.25)
    expected[0, 0] = (1 - 1.375) / 4
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, expected)


def test_two_passes_before_the_gradient_have_each_their_own_vectors() -> None:
    # As D's real and fake images do where batch norm keeps them apart.
    mine, theirs = pair("convolution", torch.channels_last)
    for layer in (mine, theirs):
        first, second = layer.weight, layer.weight
        (first.pow(2).sum() + second.pow(3).sum()).backward()
    torch.testing.assert_close(
        *[each.parametrizations.weight.original.grad for each in (mine, theirs)], rtol=1e-10, atol=1e-12
    )


def test_a_pass_of_an_evaluated_layer_keeps_its_vectors_while_training_goes_on() -> None:
    layer, same = (diagonal() for _ in range(2))
    for each in (layer, same):
        each.eval()
    held = layer.weight
    layer.train()
    for _ in range(3):
        layer.weight  # noqa: B018  # an iteration
    held.sum().backward()
    same.weight.sum().backward()
    assert torch.equal(*[each.parametrizations.weight.original.grad for each in (layer, same)])


def test_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(6, 5, 3)]
    normalise_weight(layers[0])
    layers.append(copy.deepcopy(layers[0]))
    with torch.autocast("cpu", torch.bfloat16):
        under = layers[0].weight
    assert under.dtype == torch.float32 and torch.equal(under, layers[1].weight)


def test_zeros_stay_zeros() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    normalise_weight(layer)
    assert torch.equal(layer.weight, torch.zeros(2, 3))


def test_a_gradient_of_the_gradient_is_refused_not_wrong() -> None:
    layer = diagonal()
    original: Tensor = layer.parametrizations.weight.original
    (gradient,) = torch.autograd.grad(layer.weight.pow(2).sum(), original, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_gradient_penalty_passes_through() -> None:
    # Its second gradient is of the weight over sigma, once: as torch's.
    mine, theirs = pair("linear", torch.contiguous_format)
    x = torch.arange(5.0, dtype=torch.float64)[None]
    for layer in (mine, theirs):
        with parametrize.cached():
            inputs = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(layer(inputs).pow(2).sum(), inputs, create_graph=True)
            slope.pow(2).sum().backward()
    torch.testing.assert_close(
        *[each.parametrizations.weight.original.grad for each in (mine, theirs)], rtol=1e-10, atol=1e-12
    )
