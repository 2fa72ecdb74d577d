"""What D pays for its slope beside its loss: values in PENALTIES; and the clipping of its weights.

To add a penalty, write its function and one entry in PENALTIES.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Critic = Callable[[Tensor, Tensor], Tensor]  # images (N, C, S, S), labels (N,) -> logits (N,)


@dataclass(frozen=True)
class Penalty:
    """A term of D's loss, before its weight.

    value: (critic, real images (N, C, S, S), their labels (N,), fakes (N, C, S, S), random draws) -> scalar; the
        images as D was shown them in this update
    bounds_slope: whether it bounds D's slope from real images to fakes, as a Wasserstein loss needs it
    per_image: whether it takes a logit for a function of its own image alone, which batch norm in D is not
    """

    value: Callable[[Critic, Tensor, Tensor, Tensor, torch.Generator], Tensor]
    bounds_slope: bool = False
    per_image: bool = True


def input_gradients(critic: Critic, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each logit by its own image, float (N, C * S * S), itself differentiable by D's weights."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
    return gradients.flatten(1)


def _none(critic: Critic, real: Tensor, labels: Tensor, fake: Tensor, source: torch.Generator) -> Tensor:
    return real.new_zeros(())


def _gradient(critic: Critic, real: Tensor, labels: Tensor, fake: Tensor, source: torch.Generator) -> Tensor:
    # WGAN-GP (Gulrajani et al. 2017, equation 3) at points between a real image and a fake, with the real one's label
    place = torch.rand(len(real), 1, 1, 1, generator=source, device=real.device)
    norms = input_gradients(critic, place * real + (1 - place) * fake, labels).norm(dim=1)
    return (norms - 1).square().mean()


def _r1(critic: Critic, real: Tensor, labels: Tensor, fake: Tensor, source: torch.Generator) -> Tensor:
    # Mescheder et al. 2018, equation 9, of which the weight is gamma
    return input_gradients(critic, real, labels).square().sum(dim=1).mean() / 2


PENALTIES: dict[str, Penalty] = {
    "none": Penalty(_none, per_image=False),
    "gradient": Penalty(_gradient, bounds_slope=True),
    "r1": Penalty(_r1),  # flattens D at real images only
}


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Clamp every parameter, biases too, to [-bound, bound] (Arjovsky et al. 2017, algorithm 1, line 7)."""
    parameters: list[Tensor] = [*network.parameters()]
    torch._foreach_clamp_min_(parameters, -bound)
    torch._foreach_clamp_max_(parameters, bound)
