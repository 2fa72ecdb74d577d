"""Adversarial losses as values: a pair of functions of logits (N,), one for D and one for G, each a mean.

To add one, write its two functions and one entry in LOSSES.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class AdversarialLoss:
    """What D and G minimise.

    discriminator: (logits of real images (N,), logits of fakes (M,)) -> scalar
    generator: (logits of fakes (M,)) -> scalar
    lipschitz: whether the loss means anything only where D's slope is bounded
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    lipschitz: bool = False


def _bce_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # -log sigmoid(real) - log(1 - sigmoid(fake)), Goodfellow et al. 2014, equation 1
    return softplus(-real).mean() + softplus(fake).mean()


def _bce_generator(fake: Tensor) -> Tensor:
    # non-saturating: -log sigmoid(fake), Goodfellow et al. 2014, section 3
    return softplus(-fake).mean()


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # Miyato et al. 2018, equation 16
    return relu(1 - real).mean() + relu(1 + fake).mean()


def _wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # Arjovsky et al. 2017, equation 2, with the sign of a loss
    return fake.mean() - real.mean()


def _minus_mean(fake: Tensor) -> Tensor:
    # the generator's side of hinge (Miyato et al. 2018, equation 17) and Wasserstein
    return -fake.mean()


LOSSES: dict[str, AdversarialLoss] = {
    "bce": AdversarialLoss(_bce_discriminator, _bce_generator),
    "hinge": AdversarialLoss(_hinge_discriminator, _minus_mean),
    "wasserstein": AdversarialLoss(_wasserstein_discriminator, _minus_mean, lipschitz=True),
}
