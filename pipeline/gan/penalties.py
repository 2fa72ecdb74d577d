"""Gradient penalties on the discriminator, other terms beside the adversarial loss, and weight clipping.

To add a penalty, write its function of `Update` and one entry in PENALTIES. A recipe names one as its `penalty`, whose
weight can change and which can be lazy, and any number with their weights as its `regularisers`.
"""

import torch
from torch import Tensor, nn

from pipeline.gan import regularisers
from pipeline.gan.terms import Critic, Penalty, Update, full

__all__ = ["PENALTIES", "Critic", "Penalty", "Update", "clip_weights", "input_gradients"]


def input_gradients(critic: Critic, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each logit by its own image, float (N, C * S * S), itself differentiable by D's weights."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
    return gradients.flatten(1)


def _gradient(update: Update) -> Tensor:
    # WGAN-GP (Gulrajani et al. 2017, equation 3) at points between a real image and a fake, with the real one's label
    real, labels = update.real, update.real_labels
    assert real is not None and labels is not None
    place = update.draws.rand(len(real), 1, 1, 1)
    norms = input_gradients(update.discriminator, place * real + (1 - place) * update.fake, labels).norm(dim=1)
    penalty: Tensor = (norms - 1).square().mean()
    return penalty


def _dragan(update: Update) -> Tensor:
    # Kodali et al. 2017, section 2.3, with their code's draws: at points between an image and the same image with
    # noise, U(0, 1) times half the standard deviation of all pixels of the batch
    real, labels = update.real, update.real_labels
    assert real is not None and labels is not None
    noise = update.draws.rand(*real.shape) * update.world.whole(real).std() / 2
    place = update.draws.rand(len(real), 1, 1, 1)
    norms = input_gradients(update.discriminator, real + place * noise, labels).norm(dim=1)
    penalty: Tensor = (norms - 1).square().mean()
    return penalty


def _half_squared_slope(update: Update, name: str, images: Tensor | None, labels: Tensor | None) -> Tensor:
    """Half the mean squared gradient of D by the images before augmentation, through the augmentation of `name`."""
    assert images is not None and labels is not None

    def shown(images: Tensor, labels: Tensor) -> Tensor:
        return update.discriminator(update.show(images, name), labels)

    return input_gradients(shown, full(images), labels).square().sum(dim=1).mean() / 2


def _r1(update: Update) -> Tensor:
    # Mescheder et al. 2018, equation 9, of which the weight is gamma
    return _half_squared_slope(update, "real", update.real_images, update.real_labels)


def _r2(update: Update) -> Tensor:
    # the same at fakes (Mescheder et al. 2018, equation 10)
    return _half_squared_slope(update, "fake", update.fake_images, update.fake_labels)


def _r1_r2(update: Update) -> Tensor:
    # both, as R3GAN has them (Huang et al. 2024, arXiv:2501.05441, section 2)
    return _r1(update) + _r2(update)


PENALTIES: dict[str, Penalty] = {
    "none": Penalty(None),
    "gradient": Penalty(_gradient, enforces_lipschitz=True, needs_independent_logits=True),
    "dragan": Penalty(_dragan, needs_independent_logits=True, whole_batch=True),  # bounds D near real images only
    "r1": Penalty(_r1, needs_independent_logits=True),  # flattens D at real images only
    "r2": Penalty(_r2, needs_independent_logits=True),
    "r1_r2": Penalty(_r1_r2, needs_independent_logits=True),
    "lecam": Penalty(regularisers.lecam, own=regularisers.lecam_means, reported=("real", "fake")),
    "cr": Penalty(regularisers.consistency),
    "bcr": Penalty(regularisers.balanced_consistency),
    "zcr": Penalty(regularisers.latent_consistency),
    "zcr_g": Penalty(regularisers.latent_diversity, of="generator"),
    "path_length": Penalty(
        regularisers.path_length,
        of="generator",
        own=regularisers.path_mean,
        reported=("mean",),
        needs_styles=True,
        every=regularisers.PATH_EVERY,
    ),
}


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Clamp every parameter, biases too, to [-bound, bound] (Arjovsky et al. 2017, algorithm 1, line 7)."""
    for parameter in network.parameters():
        parameter.clamp_(-bound, bound)
