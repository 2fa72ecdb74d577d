"""Optimisers by name: OPTIMISERS. To add one, write its function and one entry."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

Parameters = list[nn.Parameter]


def _adam(parameters: Parameters, beta1: float, beta2: float) -> Optimizer:
    fused = parameters[0].device.type in ("cpu", "cuda")  # one kernel for all weights
    return torch.optim.Adam(parameters, betas=(beta1, beta2), fused=fused)


def _rmsprop(parameters: Parameters, beta1: float, beta2: float) -> Optimizer:
    # torch's momentum is that of a heavy ball, without Adam's factor of 1 - beta1: 0.5 doubles the steps
    return torch.optim.RMSprop(parameters, alpha=beta2, momentum=beta1)


OPTIMISERS: dict[str, Callable[[Parameters, float, float], Optimizer]] = {"adam": _adam, "rmsprop": _rmsprop}


def make_optimiser(name: str, network: nn.Module, lr: float, beta1: float, beta2: float) -> Optimizer:
    """The optimiser of a network's weights, with its state in place: all zeros, as a checkpoint wants it."""
    optimiser = OPTIMISERS[name](list(network.parameters()), beta1, beta2)
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
