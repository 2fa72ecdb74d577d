"""The rates of a step: learning rates and betas of the optimisers, and the average of G with its decay."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline.gan.optimisers import OPTIMISERS
from pipeline.gan.schedules import SHAPES, value_at
from pipeline.gan.state import TrainState
from pipeline.params import Recipe, TrainParams


def set_optimisers(state: TrainState, recipe: Recipe, budget: TrainParams) -> None:
    """The learning rates and betas of this step."""
    step, steps = state.step, budget.steps
    factor = SHAPES[recipe.lr_decay](step / steps) * state.lr_scale
    betas = value_at(recipe.beta1, step, steps), value_at(recipe.beta2, step, steps)
    for optimiser, lr in ((state.optimiser_g, recipe.lr_g), (state.optimiser_d, recipe.lr_d)):
        for group in optimiser.param_groups:
            group["lr"] = value_at(lr, step, steps) * factor
            OPTIMISERS[recipe.optimiser].set_betas(group, *betas)


def decay_at(recipe: Recipe, step: int, steps: int) -> float:
    """The decay of G's average at a step, counted from 0: from the recipe's half-life, if it has one, or its decay.

    An average with a half-life of H images decays by 0.5 ** (images of a step / H). With a ramp-up r, H is at most r
    times the images seen before (Karras et al. 2020, arXiv:2006.06676, as in their code). A half-life of 0 copies G.
    """
    if recipe.ema_half_life is None:
        assert recipe.ema_decay is not None
        return ema_decay(recipe.ema_decay, recipe.ema_warmup, step)
    images, half_life = recipe.n_critic * recipe.batch_size, value_at(recipe.ema_half_life, step, steps)
    if recipe.ema_ramp_up is not None:
        half_life = min(half_life, recipe.ema_ramp_up * step * images)
    return 0.5 ** (images / half_life) if half_life else 0.0


def ema_decay(decay: float, warmup: bool, step: int) -> float:
    """The decay at a step, counted from 0: with `warmup` min(decay, (1 + step) / (10 + step)).

    So the first average forgets the untrained weights at once. (The idea: TensorFlow's ExponentialMovingAverage.)
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network, for weights and batch norm's statistics.

    Other buffers, such as the singular vectors of spectral norm, are unit vectors and are copied.
    """
    blend = get_ema_multi_avg_fn(decay)
    blend(tuple(average.parameters()), tuple(network.parameters()), 0)
    for (name, old), new in zip(average.named_buffers(), network.buffers(), strict=True):
        if name.endswith(("running_mean", "running_var")):
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
