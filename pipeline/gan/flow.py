"""Flow matching: a generator is trained by regression, without a discriminator (Lipman et al. 2023, arXiv:2210.02747).

Noise z and an image x are joined by a straight line, x_t = (1 - t) z + t x, which has the velocity x - z (Liu et al.
2023, arXiv:2209.03003, equation 1). The network learns the mean velocity of all lines that pass a point at a time;
whoever follows it from noise at t = 0 arrives at t = 1 at images that are distributed as the training images are.

To add a loss with another distribution of times, write its function and one entry in FLOW_LOSSES.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.bfloat16 import autocast
from pipeline.core.randomness import Draws, named_draws
from pipeline.core.world import World
from pipeline.data.batches import ImageSet, batch
from pipeline.gan.losses import LOSSES, AdversarialLoss
from pipeline.gan.state import TrainState
from pipeline.gan.terms import full
from pipeline.params import Recipe, TrainParams

LARGEST_NORM = 1.0  # of the gradient of all weights together, which is scaled down to it (as in torchcfm's CIFAR-10)


@dataclass(frozen=True)
class FlowLoss:
    """times: (random numbers, how many) -> the times of the images of a batch, float32 (N,), from 0 to 1."""

    times: Callable[[Draws, int], Tensor]


def _uniform(draws: Draws, count: int) -> Tensor:
    return draws.rand(count)


def _logit_normal(draws: Draws, count: int) -> Tensor:
    # Esser et al. 2024, arXiv:2403.03206, section 3.1, with location 0 and scale 1: more of the times halfway
    return draws.randn(count).sigmoid()


FLOW_LOSSES: dict[str, FlowLoss] = {
    "flow_matching": FlowLoss(_uniform),
    "flow_matching_logit_normal": FlowLoss(_logit_normal),
}


def loss_of(recipe: Recipe) -> AdversarialLoss | FlowLoss:
    """The loss that a recipe names, from LOSSES or FLOW_LOSSES."""
    return FLOW_LOSSES[recipe.loss] if recipe.loss in FLOW_LOSSES else LOSSES[recipe.loss]


def flow_matching(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor], images: Tensor, labels: Tensor, noise: Tensor, times: Tensor
) -> Tensor:
    """The mean of (velocity(x_t, t, labels) - (images - noise))^2 over a batch and its values, a scalar.

    Args:
        velocity: (images, times, labels) -> velocities.
        images, noise: float (N, C, S, S); labels: int64 (N,); times: float (N,).
    """
    t = times[:, None, None, None]
    told = full(velocity((1 - t) * noise + t * images, times, labels))
    return (told - (images - noise)).square().mean()


def update_flow(
    state: TrainState, images: ImageSet, loss: FlowLoss, recipe: Recipe, budget: TrainParams, world: World
) -> Tensor:
    """One update of the velocity of G by a batch of real images, each with noise and a time of its own.

    Returns:
        The curves `state.names`: the loss, float32 (1,), detached, on the device, the same on all ranks.
    """
    device, index, network = images.images.device, state.step, state.gan.generator
    velocity = network.velocity
    assert isinstance(velocity, nn.Module), "check lets no other network pass"
    rank = world.all_of(budget.accumulate)
    real, labels = batch(images, index, recipe.batch_size, state.seed, recipe.flip, recipe.dequantise, rank)
    draws = named_draws(device, rank, state.seed, "flow", index)
    times, noise = loss.times(draws, len(real)), draws.randn(*real.shape)
    parts = world.micro_batches(budget.accumulate)

    def gradients(_: int, *inputs: Tensor) -> dict[str, Tensor]:
        values = []
        for part in parts:
            with autocast(budget.precision, device):
                value = flow_matching(velocity, *map(part.cut, inputs))
            value.backward(torch.full_like(value, 1 / len(parts)))
            values.append(value.detach().float())
        return {"loss/g": torch.stack(values).mean()}

    state.optimiser_g.zero_grad()
    found = state.gradients(("generator",), network, index, gradients, (real, labels, noise, times))
    world.average_gradients(network.parameters())
    nn.utils.clip_grad_norm_(network.parameters(), LARGEST_NORM)
    state.optimiser_g.step()
    return world.mean(found["loss/g"][None])
