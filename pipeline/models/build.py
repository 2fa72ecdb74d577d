"""How a pair of networks is made from a recipe: built, initialised and normalised, as a function of the seed."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from pipeline.core.errors import PipelineError
from pipeline.core.randomness import stable_hash
from pipeline.models import layers
from pipeline.params import Recipe

ImageShape = tuple[int, int, int]  # (C, S, S)


@dataclass(frozen=True)
class GAN:
    generator: nn.Module
    discriminator: nn.Module


@dataclass(frozen=True)
class Network:
    """How an architecture is built: `generator(image_shape, width, latent_dim)`, `discriminator(image_shape, width)`.

    `batch_norm_d` says that the discriminator also takes `batch_norm`, and thus that a recipe may ask for it;
    `conditional` that both also take `n_classes`, and heed the labels.
    """

    generator: Callable[..., nn.Module]
    discriminator: Callable[..., nn.Module]
    batch_norm_d: bool = False
    conditional: bool = False

    def sources(self) -> set[str]:
        """The files that define the two networks; what they share is in layers.py."""
        builders = [b.func if isinstance(b, partial) else b for b in (self.generator, self.discriminator)]
        return {str(sys.modules[builder.__module__].__file__) for builder in builders}

    def arguments(self) -> str:
        """What the registry's entry adds to those files, such as attention=True."""
        builders = [b if isinstance(b, partial) else partial(b) for b in (self.generator, self.discriminator)]
        return repr([(b.func.__name__, b.keywords) for b in builders] + [self.batch_norm_d, self.conditional])


def construct(network: Network, recipe: Recipe, image_shape: ImageShape, n_classes: int, seed: int) -> GAN:
    """Build on the CPU, so that a seed gives the same weights for every device.

    Raises:
        PipelineError: the network cannot be built for this size, or without classes.
    """
    if network.conditional and n_classes < 2:
        rule = f"needs images labelled with at least 2 classes, got {n_classes}"
        raise PipelineError(f"network: {recipe.network} {rule}; label them or choose a network that needs no labels")
    labelled = {"n_classes": n_classes} if network.conditional else {}
    extra = {"batch_norm": recipe.norm_d == "batch"} if network.batch_norm_d else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash(seed, "init"))
        try:
            generator = network.generator(image_shape, recipe.width_g, recipe.latent_dim, **labelled)
            discriminator = network.discriminator(image_shape, recipe.width_d, **labelled, **extra)
        except ValueError as error:
            raise PipelineError(f"data.image_size: {error}") from None
        layers.initialise(generator, recipe.init)
        layers.initialise(discriminator, recipe.init)
        if recipe.spectral_norm_g:
            layers.normalise_spectrally(generator)
        if recipe.norm_d == "spectral":
            layers.normalise_spectrally(discriminator)
    return GAN(generator, discriminator)
