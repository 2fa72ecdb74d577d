"""Adversarial losses as values: a pair of functions of logits (N,), one for D and one for G, each a mean.

To add one, write its two functions and one entry in LOSSES.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class AdversarialLoss:
    """What D and G minimise.

    discriminator: (logits of real images (N,), logits of fakes (N,)) -> scalar
    generator: (logits of fakes (N,)) -> scalar; if `paired`: (logits of fakes (N,), logits of real images (N,))
    paired: whether a fake is compared with the real image at its place in the batch. G's step then shows D real images
        too, and fakes have the labels of their real images, in both steps.
    needs_lipschitz: whether the loss means anything only if D's input gradient is bounded
    cross_entropy: whether D's side is the cross-entropy of labels, which can be smoothed
    whole_batch: whether it needs all logits of a batch at once, since it is no mean over images, or pairs of them
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    paired: bool = False
    needs_lipschitz: bool = False
    cross_entropy: bool = False
    whole_batch: bool = False


def smoothed(loss: AdversarialLoss, smoothing: float) -> AdversarialLoss:
    """`loss` with 1 - `smoothing` as D's label of real images (one-sided: Salimans et al. 2016, section 3.4).

    The cross-entropy of a logit x and the label 1 - s is (1 - s) softplus(-x) + s softplus(x) = softplus(-x) + s x:
    smoothing adds s times the mean logit of real images. With 0 the loss is returned as it is.
    """
    assert loss.cross_entropy or not smoothing, "only labels can be smoothed"
    if not smoothing:
        return loss
    return replace(loss, discriminator=lambda real, fake: loss.discriminator(real, fake) + smoothing * real.mean())


def _bce_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # -log sigmoid(real) - log(1 - sigmoid(fake)), Goodfellow et al. 2014, equation 1
    return softplus(-real).mean() + softplus(fake).mean()


def _bce_generator(fake: Tensor) -> Tensor:
    # non-saturating: -log sigmoid(fake), Goodfellow et al. 2014, section 3
    return softplus(-fake).mean()


def _bce_saturating_generator(fake: Tensor) -> Tensor:
    # the other side of D's game: log(1 - sigmoid(fake)), Goodfellow et al. 2014, equation 1
    return -softplus(fake).mean()


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # Miyato et al. 2018, equation 16
    return relu(1 - real).mean() + relu(1 + fake).mean()


def _wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # Arjovsky et al. 2017, equation 2, with the sign of a loss
    return fake.mean() - real.mean()


def _minus_mean(fake: Tensor) -> Tensor:
    # the generator's side of hinge (Miyato et al. 2018, equation 17) and Wasserstein
    return -fake.mean()


def _least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # Mao et al. 2017, equation 2, with the labels a = 0 of fakes and b = 1 of real images (equation 9)
    return (real - 1).square().mean() / 2 + fake.square().mean() / 2


def _least_squares_generator(fake: Tensor) -> Tensor:
    # Mao et al. 2017, equation 2, with c = 1 (equation 9)
    return (fake - 1).square().mean() / 2


def _rpgan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # Jolicoeur-Martineau 2019, section 4.1: -log sigmoid(D(x) - D(y)) of each pair, not of means
    return softplus(fake - real).mean()


def _rpgan_generator(fake: Tensor, real: Tensor) -> Tensor:
    # the roles exchanged
    return softplus(real - fake).mean()


def _ragan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # Jolicoeur-Martineau 2019, section 4.2: each logit against the mean of the other side; half the sum, as in her code
    return (softplus(fake.mean() - real).mean() + softplus(fake - real.mean()).mean()) / 2


def _ragan_generator(fake: Tensor, real: Tensor) -> Tensor:
    # the labels exchanged
    return (softplus(real - fake.mean()).mean() + softplus(real.mean() - fake).mean()) / 2


LOSSES: dict[str, AdversarialLoss] = {
    "bce": AdversarialLoss(_bce_discriminator, _bce_generator, cross_entropy=True),
    "bce_saturating": AdversarialLoss(_bce_discriminator, _bce_saturating_generator, cross_entropy=True),
    "hinge": AdversarialLoss(_hinge_discriminator, _minus_mean),
    "wasserstein": AdversarialLoss(_wasserstein_discriminator, _minus_mean, needs_lipschitz=True),
    "least_squares": AdversarialLoss(_least_squares_discriminator, _least_squares_generator),
    "rpgan": AdversarialLoss(_rpgan_discriminator, _rpgan_generator, paired=True),
    "ragan": AdversarialLoss(_ragan_discriminator, _ragan_generator, paired=True, whole_batch=True),
}
