"""Optimisers by name: OPTIMISERS. To add one, write its two functions and one entry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Parameters = list[nn.Parameter]


@dataclass(frozen=True)
class Optimiser:
    """build: (weights, beta1, beta2) -> torch's optimiser; set_betas: (a group of its weights, beta1, beta2)."""

    build: Callable[[Parameters, float, float], torch.optim.Optimizer]
    set_betas: Callable[[dict[str, Any], float, float], None]


def _group(parameters: Parameters) -> list[dict[str, Any]]:
    return [{"params": parameters}]  # a group may be empty, as where there is no D; a list of weights may not


def _adam(parameters: Parameters, beta1: float, beta2: float) -> torch.optim.Optimizer:
    fused = all(one.device.type in ("cpu", "cuda") for one in parameters)  # one kernel for all weights
    return torch.optim.Adam(_group(parameters), betas=(beta1, beta2), fused=fused)


def _set_adam(group: dict[str, Any], beta1: float, beta2: float) -> None:
    group["betas"] = (beta1, beta2)


def _rmsprop(parameters: Parameters, beta1: float, beta2: float) -> torch.optim.Optimizer:
    # torch's momentum is that of a heavy ball, without Adam's factor of 1 - beta1: 0.5 doubles the steps
    return torch.optim.RMSprop(_group(parameters), alpha=beta2, momentum=beta1)


def _set_rmsprop(group: dict[str, Any], beta1: float, beta2: float) -> None:
    group["alpha"], group["momentum"] = beta2, beta1


OPTIMISERS: dict[str, Optimiser] = {"adam": Optimiser(_adam, _set_adam), "rmsprop": Optimiser(_rmsprop, _set_rmsprop)}


def make_optimiser(name: str, network: nn.Module, lr: float, beta1: float, beta2: float) -> torch.optim.Optimizer:
    """The optimiser of a network's weights, with its state in place: all zeros, as a checkpoint wants it.

    beta1 is the largest that it will have: RMSprop keeps no momentum for 0.
    """
    optimiser = OPTIMISERS[name].build(list(network.parameters()), beta1, beta2)
    # Optimisers make their state at the first step. A checkpoint wants it before: take a step that changes nothing.
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad()
    for values in optimiser.state.values():
        for tensor in values.values():
            tensor.zero_()
    for group in optimiser.param_groups:
        group["lr"] = lr
    return optimiser
