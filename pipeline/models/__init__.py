"""The networks: NETWORKS names them, `build_gan` makes a pair from a recipe.

    layers    what they share: resolutions, labels, residual blocks, attention, initialisation
    spectral_norm of any layer's weight
    mlp       linear layers
    dcgan     strided convolutions; conditional by concatenation
    cnn       SNGAN's plain CNN, also that of WGAN and WGAN-GP
    resnet    residual blocks; with attention it is SAGAN, conditional by projection
    biggan    BigGAN: class and latents in every batch norm
    r3gan     R3GAN: residual, no normalisation, any size from stages
    stylegan2 StyleGAN2: styles, noise
    unet      a velocity for flow matching, and the solver that follows it; no D
    projected D on the features of a frozen network, beside DCGAN's G
    build     from a recipe to an initialised pair
    batch_norm over the images of all ranks
    summary   layers, shapes, parameters and multiply-adds; `python -m pipeline.models`

Every generator is called as G(latents (N, Z), labels (N,)) -> images (N, C, S, S) in [-1, 1], every discriminator as
D(images, labels) -> logits (N,). Labels always flow; unconditional networks ignore them. To add a network, write its
file and one entry here; the tests over the registry then test it.
"""

from functools import partial

from pipeline.core.errors import PipelineError, suggest
from pipeline.models import biggan, cnn, dcgan, mlp, projected, r3gan, resnet, stylegan2, unet
from pipeline.models.build import GAN, ImageShape, Network, NoDiscriminator, construct
from pipeline.params import Recipe

NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp.Generator, mlp.Discriminator),
    "dcgan": Network(dcgan.Generator, dcgan.Discriminator, batch_norm_d=True),
    "dcgan_conditional": Network(
        dcgan.ConditionalGenerator, dcgan.ConditionalDiscriminator, batch_norm_d=True, conditional=True
    ),
    "cnn": Network(cnn.Generator, cnn.Discriminator),
    "resnet": Network(resnet.Generator, resnet.Discriminator),
    "projection": Network(resnet.Generator, resnet.ProjectionDiscriminator, conditional=True),
    "sagan": Network(partial(resnet.Generator, attention=True), partial(resnet.Discriminator, attention=True)),
    "sagan_conditional": Network(
        partial(resnet.Generator, attention=True),
        partial(resnet.ProjectionDiscriminator, attention=True),
        conditional=True,
    ),
    "biggan": Network(biggan.Generator, partial(resnet.ProjectionDiscriminator, attention=True), conditional=True),
    "r3gan": Network(r3gan.Generator, r3gan.Discriminator, bounded=False, spectral=False),
    "r3gan_conditional": Network(r3gan.Generator, r3gan.Discriminator, conditional=True, bounded=False, spectral=False),
    "stylegan2": Network(
        stylegan2.Generator, stylegan2.Discriminator, minibatch_std_d=True, bounded=False, spectral=False, styled=True
    ),
    "stylegan2_conditional": Network(
        stylegan2.Generator,
        stylegan2.Discriminator,
        conditional=True,
        minibatch_std_d=True,
        bounded=False,
        spectral=False,
        styled=True,
    ),
    "projected": Network(dcgan.Generator, projected.Discriminator, features_of="efficientnet_lite0"),
    "unet": Network(unet.Generator, NoDiscriminator, bounded=False, spectral=False, flow=True),
    "unet_conditional": Network(
        unet.Generator, NoDiscriminator, conditional=True, bounded=False, spectral=False, flow=True
    ),
}


def build_gan(recipe: Recipe, image_shape: ImageShape, n_classes: int, seed: int) -> GAN:
    """Build and initialise a recipe's networks on the CPU; the same seed gives the same weights for any device.

    Args:
        image_shape: (C, S, S).
        n_classes: number of labels, 0 for unlabelled data; conditional networks need at least 2.

    Raises:
        PipelineError: the network is unknown, or cannot be built for this size or so few classes.
    """
    if recipe.network not in NETWORKS:
        raise PipelineError(f"network: unknown name {recipe.network!r}; {suggest(recipe.network, NETWORKS)}")
    return construct(NETWORKS[recipe.network], recipe, image_shape, n_classes, seed)


__all__ = ["GAN", "NETWORKS", "ImageShape", "Network", "build_gan"]
