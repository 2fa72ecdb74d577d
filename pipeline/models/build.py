"""How a pair of networks is made from a recipe: built, initialised and normalised, as a function of the seed."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models import layers
from pipeline.params import Recipe
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

    def sources(self) -> set[str]:
        """The files that define the two networks; what they share is in layers.py."""
        builders = [b.func if isinstance(b, partial) else b for b in (self.generator, self.discriminator)]
        return {str(sys.modules[builder.__module__].__file__) for builder in builders}

    def arguments(self) -> str:
        """What the registry's entry adds to those files, such as attention=True."""
        return repr([getattr(builder, "keywords", {}) for builder in (self.generator, self.discriminator)])


def construct(network: Network, recipe: Recipe, image_shape: ImageShape, seed: int) -> GAN:
    """Build on the CPU, so that a seed gives the same weights for every device.

    Raises:
        PipelineError: the network cannot be built for this size.
    """
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
