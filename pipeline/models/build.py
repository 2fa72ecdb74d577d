"""How a pair of networks is made from a recipe: built, initialised and normalised, as a function of the seed."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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

    batch_norm_d: the discriminator also takes `batch_norm`, so a recipe may ask for it.
    conditional: both also take `n_classes`, and use the labels.
    minibatch_std_d: the discriminator takes `minibatch_std`, the number of images whose spread it sees, 0 for none.
    bounded: G's images are in [-1, 1].
    features_of: the extractor, if any, on whose features D is built; samples must not be ranked by it.
    spectral: spectral normalisation goes with the network's initialisation.
    flow: there is no discriminator; the generator has a `velocity`, which flow matching trains, and also takes `steps`
        and `solver`.
    styled: the generator is `synthesise(styles(latents, labels))`.
    """

    generator: Callable[..., nn.Module]
    discriminator: Callable[..., nn.Module]
    batch_norm_d: bool = False
    conditional: bool = False
    minibatch_std_d: bool = False
    bounded: bool = True
    features_of: str | None = None
    spectral: bool = True
    flow: bool = False
    styled: bool = False

    def sources(self) -> set[str]:
        """The files that define the two networks; what they share is in layers.py."""
        builders = [b.func if isinstance(b, partial) else b for b in (self.generator, self.discriminator)]
        return {str(sys.modules[builder.__module__].__file__) for builder in builders}

    def arguments(self) -> str:
        """What the registry's entry adds to those files, such as attention=True."""
        builders = [b if isinstance(b, partial) else partial(b) for b in (self.generator, self.discriminator)]
        return repr(
            [(b.func.__name__, b.keywords) for b in builders]
            + [self.batch_norm_d, self.conditional, self.minibatch_std_d]
        )


class NoDiscriminator(nn.Module):
    """Stands where a network has none: no parameters, and a logit of 0 for every image."""

    def __init__(self, image_shape: ImageShape, width: int, **_: Any) -> None:
        super().__init__()

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return images.new_zeros(len(images))


class Packed(nn.Module):
    """A discriminator of `count` images at once, stacked as channels (PacGAN: Lin et al. 2018, arXiv:1712.04086).

    Images (N, C, S, S) to logits (M,), M = N / count; logit i is of the images i, i + M, i + 2 M, ... So D sees whether
    samples differ. Labels are those of each first image: only networks that ignore them can be packed.
    """

    def __init__(self, discriminator: nn.Module, count: int) -> None:
        super().__init__()
        self.discriminator, self.count = discriminator, count

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        packs = images.unflatten(0, (self.count, -1)).transpose(0, 1).flatten(1, 2)  # (M, count * C, S, S)
        logits: Tensor = self.discriminator(packs, labels[: len(packs)])
        return logits


def construct(network: Network, recipe: Recipe, image_shape: ImageShape, n_classes: int, seed: int) -> GAN:
    """Build on the CPU, so that a seed gives the same weights for every device.

    Raises:
        PipelineError: the network cannot be built for this size, these latents, or without classes.
    """
    if network.conditional and n_classes < 2:
        rule = f"needs images labelled with at least 2 classes, got {n_classes}"
        raise PipelineError(f"network: {recipe.network} {rule}; label them or choose a network that needs no labels")
    if network.flow and recipe.latent_dim != math.prod(image_shape):
        rule = f"must be {math.prod(image_shape)} with the network {recipe.network}, whose latents are the noise of"
        raise PipelineError(f"latent_dim: {rule} an image's values, got {recipe.latent_dim}")
    labelled = {"n_classes": n_classes} if network.conditional else {}
    sampled = {"steps": recipe.sampling_steps, "solver": recipe.solver} if network.flow else {}
    extra: dict[str, Any] = {"batch_norm": recipe.norm_d == "batch"} if network.batch_norm_d else {}
    extra |= {"minibatch_std": recipe.minibatch_std} if network.minibatch_std_d else {}
    seen = (image_shape[0] * recipe.pack, *image_shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash(seed, "init"))
        try:
            generator = network.generator(image_shape, recipe.width_g, recipe.latent_dim, **labelled, **sampled)
            discriminator = network.discriminator(seen, recipe.width_d, **labelled, **extra)
        except ValueError as error:
            raise PipelineError(f"data.image_size: {error}") from None
        layers.initialise(generator, recipe.init)
        layers.initialise(discriminator, recipe.init)
        if recipe.spectral_norm_g:
            layers.normalise_spectrally(generator)
        if recipe.norm_d == "spectral":
            layers.normalise_spectrally(discriminator)
    return GAN(generator, Packed(discriminator, recipe.pack) if recipe.pack > 1 else discriminator)
