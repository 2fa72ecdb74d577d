"""What a penalty is, and what it may look at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pipeline.core.randomness import Draws
from pipeline.core.world import ALONE, World

Critic = Callable[[Tensor, Tensor], Tensor]  # images (N, C, S, S), labels (N,) -> logits (N,)


def full(values: Tensor) -> Tensor:
    """What autocast made half precision as float32; all else as it is."""
    return values.float() if values.dtype == torch.bfloat16 else values


@dataclass(frozen=True)
class Update:
    """What a penalty may look at in one update of D, or of G. Images are float (N, C, S, S), labels int64 (N,).

    real, fake: the images as D was shown them: augmented and noisy; real_labels, fake_labels: their labels.
    real_images, fake_images: the same images before that.
    real_logits, fake_logits: what D said of them, float32 (N,).
    latents: of the fakes, float32 (N, Z).
    show: the augmentation of this update, differentiable; it draws afresh, by the name that it is given.
    draws: random numbers of the penalty's own.
    own: the penalty's own tensors, to be changed in place, the same on all ranks.
    world: the ranks that share the batch, whose `mean` of a value is that over the whole batch.

    In G's update the real side is None unless the loss is paired.
    """

    generator: Critic
    discriminator: Critic
    real: Tensor | None
    real_labels: Tensor | None
    fake: Tensor
    fake_labels: Tensor
    draws: Draws
    real_images: Tensor | None = None
    fake_images: Tensor | None = None
    real_logits: Tensor | None = None
    fake_logits: Tensor | None = None
    latents: Tensor | None = None
    show: Callable[[Tensor, str], Tensor] = lambda images, name: images
    own: dict[str, Tensor] = field(default_factory=dict)
    world: World = ALONE


@dataclass(frozen=True)
class Penalty:
    """A term of the loss of D or of G, before its weight.

    value: what is added, the mean over the images of the update, a scalar; None = nothing.
    of: whose loss it is added to.
    own: makes the tensors that it keeps from step to step, by name, on the CPU; checkpoints hold them.
    reported: names of `own` scalars that stand in the curves.
    enforces_lipschitz: whether it bounds D's input gradient between real images and fakes, as Wasserstein losses need.
    needs_independent_logits: whether it takes a logit for a function of its own image alone, which batch norm in D
        does not give.
    needs_styles: whether it asks G for its `styles` of latents and its `synthesise` of them, as stylegan2 has both.
    every: as a regulariser it is added at every so many updates, with so many times its weight.
    whole_batch: whether it is no mean over images, but asks `world` for more of the batch. What keeps tensors of its
        own needs the whole batch too, so that they move once an update.
    """

    value: Callable[[Update], Tensor] | None
    of: Literal["discriminator", "generator"] = "discriminator"
    own: Callable[[], dict[str, Tensor]] = dict
    reported: tuple[str, ...] = ()
    enforces_lipschitz: bool = False
    needs_independent_logits: bool = False
    needs_styles: bool = False
    every: int = 1
    whole_batch: bool = False
