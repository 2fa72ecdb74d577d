"""Tiny training states: made, trained, copied and compared bit for bit."""

import torch
from torch import Tensor, nn

from pipeline.gan.losses import LOSSES
from pipeline.gan.step import StepReport, TrainState, create_state, train
from pipeline.params import Recipe, TrainParams
from tests.recipes import CLASSES, SHAPE, image_set, tiny_budget


def start(recipe: Recipe, budget: TrainParams | None = None, seed: int = 0, device: str = "cpu") -> TrainState:
    """An untrained state for the images of `image_set`."""
    return create_state(recipe, budget or tiny_budget(), SHAPE, CLASSES, seed, torch.device(device))


def run(recipe: Recipe, budget: TrainParams, seed: int = 0) -> tuple[TrainState, list[StepReport]]:
    """A state trained to the end, and the reports on the way."""
    state = start(recipe, budget, seed)
    return state, list(train(state, image_set(), LOSSES[recipe.loss], recipe, budget))


def copied(network: nn.Module | None) -> dict[str, Tensor]:
    """A network's weights by name, as they are now."""
    assert network is not None
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters()}


def bits(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of a state by name, as it is now."""
    return {name: tensor.detach().clone() for name, tensor in state.tensors().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two sets of named tensors are the same, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
