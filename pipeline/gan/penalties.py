"""Gradient penalties on the discriminator, other terms beside the adversarial loss, and weight clipping.

To add a penalty, write its function of `Update` and one entry in PENALTIES.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

Critic = Callable[[Tensor, Tensor], Tensor]  # images (N, C, S, S), labels (N,) -> logits (N,)


@dataclass(frozen=True)
class Update:
    """What a penalty may look at in one update of D, or of G. Images are float (N, C, S, S), labels int64 (N,).

    real, fake: the images as D was shown them: augmented and noisy; real_labels, fake_labels: their labels.
    real_images, fake_images: the same images before that.
    real_logits, fake_logits: what D said of them, float32 (N,).
    latents: of the fakes, float32 (N, Z).
    show: the augmentation of this update, differentiable; it draws afresh, by the name that it is given.
    draws: a random source of the penalty's own.
    own: the penalty's own tensors, to be changed in place.

    In G's update the real side is None unless the loss is paired.
    """

    generator: Critic
    discriminator: Critic
    real: Tensor | None
    real_labels: Tensor | None
    fake: Tensor
    fake_labels: Tensor
    draws: torch.Generator
    real_images: Tensor | None = None
    fake_images: Tensor | None = None
    real_logits: Tensor | None = None
    fake_logits: Tensor | None = None
    latents: Tensor | None = None
    show: Callable[[Tensor, str], Tensor] = lambda images, name: images
    own: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Penalty:
    """A term of the loss of D or of G, before its weight.

    value: what is added, a scalar; None = nothing.
    of: whose loss it is added to.
    own: makes the tensors that it keeps from step to step, by name, on the CPU; checkpoints hold them.
    reported: names of `own` scalars that stand in the curves.
    enforces_lipschitz: whether it bounds D's input gradient between real images and fakes, as Wasserstein losses need.
    needs_independent_logits: whether it takes a logit for a function of its own image alone, which batch norm in D
        does not give.
    """

    value: Callable[[Update], Tensor] | None
    of: Literal["discriminator", "generator"] = "discriminator"
    own: Callable[[], dict[str, Tensor]] = dict
    reported: tuple[str, ...] = ()
    enforces_lipschitz: bool = False
    needs_independent_logits: bool = False


def input_gradients(critic: Critic, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each logit by its own image, float (N, C * S * S), itself differentiable by D's weights."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
    return gradients.flatten(1)


def _gradient(update: Update) -> Tensor:
    # WGAN-GP (Gulrajani et al. 2017, equation 3) at points between a real image and a fake, with the real one's label
    real, labels = update.real, update.real_labels
    assert real is not None and labels is not None
    place = torch.rand(len(real), 1, 1, 1, generator=update.draws, device=real.device)
    norms = input_gradients(update.discriminator, place * real + (1 - place) * update.fake, labels).norm(dim=1)
    penalty: Tensor = (norms - 1).square().mean()
    return penalty


def _r1(update: Update) -> Tensor:
    # Mescheder et al. 2018, equation 9, of which the weight is gamma
    assert update.real is not None and update.real_labels is not None
    return input_gradients(update.discriminator, update.real, update.real_labels).square().sum(dim=1).mean() / 2


PENALTIES: dict[str, Penalty] = {
    "none": Penalty(None),
    "gradient": Penalty(_gradient, enforces_lipschitz=True, needs_independent_logits=True),
    "r1": Penalty(_r1, needs_independent_logits=True),  # flattens D at real images only
}


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Clamp every parameter, biases too, to [-bound, bound] (Arjovsky et al. 2017, algorithm 1, line 7)."""
    for parameter in network.parameters():
        parameter.clamp_(-bound, bound)
