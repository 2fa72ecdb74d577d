"""The networks: NETWORKS names them, `build_gan` makes a pair from a recipe.

    layers    what they share: resolutions, residual blocks, attention, initialisation, spectral norm
    dcgan     strided convolutions
    resnet    residual blocks; with attention it is SAGAN

Every generator is called as G(latents (N, Z), labels (N,)) -> images (N, C, S, S) in [-1, 1], every discriminator as
D(images, labels) -> logits (N,). Labels always flow; unconditional networks ignore them. To add a network, write its
file and one entry here; the tests over the registry then test it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models import dcgan, layers, resnet
from pipeline.params import Recipe, suggest
from pipeline.randomness import stable_hash

ImageShape = tuple[int, int, int]  # (C, S, S)


@dataclass(frozen=True)
class GAN:
    generator: nn.Module
    discriminator: nn.Module


@dataclass(frozen=True)
class Network:
    """How an architecture is built: `generator(image_shape, width, latent_dim)`, `discriminator(image_shape, width)`.

    `batch_norm_d` says that the discriminator also takes `batch_norm`, and thus that a recipe may ask for it.
    """

    generator: Callable[..., nn.Module]
    discriminator: Callable[..., nn.Module]
    batch_norm_d: bool = False


NETWORKS: dict[str, Network] = {
    "dcgan": Network(dcgan.Generator, dcgan.Discriminator, batch_norm_d=True),
    "resnet": Network(resnet.Generator, resnet.Discriminator),
    "sagan": Network(partial(resnet.Generator, attention=True), partial(resnet.Discriminator, attention=True)),
}


def build_gan(recipe: Recipe, image_shape: ImageShape, n_classes: int, seed: int) -> GAN:
    """Build and initialise a recipe's networks on the CPU; the same seed gives the same weights for any device.

    Args:
        image_shape: (C, S, S).
        n_classes: number of labels, 0 for unlabelled data.

    Raises:
        PipelineError: the network is unknown, or cannot be built for this size.
    """
    if recipe.network not in NETWORKS:
        raise PipelineError(f"network: unknown name {recipe.network!r}; {suggest(recipe.network, NETWORKS)}")
    network = NETWORKS[recipe.network]
    extra = {"batch_norm": recipe.norm_d == "batch"} if network.batch_norm_d else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash(seed, "init"))
        try:
            generator = network.generator(image_shape, recipe.width_g, recipe.latent_dim)
            discriminator = network.discriminator(image_shape, recipe.width_d, **extra)
        except ValueError as error:
            raise PipelineError(f"data.image_size: {error}") from None
        layers.initialise(generator, recipe.init)
        layers.initialise(discriminator, recipe.init)
        if recipe.spectral_norm_g:
            layers.normalise_spectrally(generator)
        if recipe.norm_d == "spectral":
            layers.normalise_spectrally(discriminator)
    return GAN(generator, discriminator)
