"""Settings by published rules, from the size and the number of the images: where to begin, not what is best.

The rules are those of the configuration "auto" of StyleGAN2-ADA's code (train.py of NVlabs/stylegan2-ada-pytorch, for
one GPU), and R3GAN's published settings (Huang et al. 2024, arXiv:2501.05441), of which those of the nearest size are
shown.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

FEW_IMAGES = 50_000  # up to which a gain by augmentation was published for BigGAN on CIFAR-10


@dataclass(frozen=True)
class Suggestion:
    """A parameter or a recipe's field, a value as it is written in params.yaml, and the rule that gives it."""

    field: str
    value: str
    rule: str


@dataclass(frozen=True)
class _Published:
    """R3GAN's settings for a data set: gamma falls to a tenth, the share that is augmented rises from 0."""

    data: str
    size: int
    images: int
    gamma: float
    batch: int
    half_life: float
    augmented: float


# FFHQ-64 and larger were trained on 70,000 faces, ImageNet on 1,281,167 images.
R3GAN = (
    _Published("CIFAR-10", 32, 50_000, 0.05, 512, 5e6, 0.55),
    _Published("ImageNet-32", 32, 1_281_167, 0.5, 4096, 5e7, 0.5),
    _Published("FFHQ-64", 64, 70_000, 2.0, 256, 5e5, 0.3),
)


def stylegan2(size: int, images: int, batch: int | None = None) -> Iterator[Suggestion]:
    """For the network stylegan2 and others with the penalty r1.

    Args:
        size: pixels per side.
        images: number of training images.
        batch: the batch size; None = the rule's.
    """
    chosen = batch or max(1, min(4096 // size, 32))
    yield Suggestion("batch_size", str(chosen), "given" if batch else "min(4096 / size, 32)")
    yield Suggestion("penalty_weight", f"{0.0002 * size**2 / chosen:.4g}", "gamma of r1: 0.0002 * size^2 / batch")
    group = next(one for one in (4, 3, 2, 1) if chosen % one == 0)
    yield Suggestion("minibatch_std", str(group), "min(batch, 4), and a divisor of the batch")
    rate = "0.002" if size >= 1024 else "0.0025"
    yield Suggestion("lr_g", rate, "0.0025, from 1024 pixels on 0.002; lr_d is the same")
    yield Suggestion("ema_half_life", f"{chosen * 10_000 / 32:.0f}", "batch * 10 / 32 thousand images")
    yield Suggestion("ema_ramp_up", "0.05", "the half-life is at most this share of the images seen")
    steps, epochs = math.ceil(25_000_000 / chosen), 25_000_000 / images
    yield Suggestion("train.steps", str(steps), f"25 million images, here each {epochs:.0f} times")


def r3gan(size: int, images: int) -> Iterator[Suggestion]:
    """For the network r3gan with the loss rpgan and the penalty r1_r2; arguments as those of `stylegan2`.

    Of the published data sets the nearest is that of the nearest size, and of these that of the nearest number of
    images, both by their ratio.
    """

    def apart(one: _Published) -> tuple[float, float]:
        return abs(math.log(one.size / size)), abs(math.log(one.images / images))

    near = min(R3GAN, key=apart)
    told = f"as for {near.data}"
    yield Suggestion("batch_size", str(near.batch), told)
    yield Suggestion("penalty_weight", f"{near.gamma:g}", f"gamma of r1_r2 {told}; it falls to {near.gamma / 10:g}")
    yield Suggestion("ema_half_life", f"{near.half_life:.0f}", f"{told}; it rises from 0")
    yield Suggestion("augment_strength", f"{near.augmented:g}", f"{told}, of ADA's transforms; it rises from 0")


def few_images(images: int) -> Iterator[Suggestion]:
    """What helps where there are few images; nothing where none is published for so many."""
    if images <= FEW_IMAGES:
        rule = "DiffAugment, BigGAN on CIFAR-10: FID 9.6 becomes 8.7, of 5,000 images 39.8 becomes 22.4"
        yield Suggestion("augment", "[translation, colour, cutout]", rule)
        yield Suggestion("regularisers", "{lecam: 0.3}", "LeCam on CIFAR-10, for hinge loss")


def report(size: int, images: int, batch: int | None = None) -> str:
    """All of it as lines of params.yaml, with the rules as comments."""
    parts = {
        "stylegan2, penalty r1: StyleGAN2-ADA's code, configuration auto": stylegan2(size, images, batch),
        "r3gan, loss rpgan, penalty r1_r2: the nearest of R3GAN's published settings": r3gan(size, images),
        "few images: the tables of DiffAugment's and StudioGAN's repositories": few_images(images),
    }
    lines = [f"# {size} x {size} pixels, {images} images"]
    for title, suggestions in parts.items():
        told = [f"{one.field + ': ' + one.value:<42} # {one.rule}" for one in suggestions]
        lines += ["", f"# {title}", *told] if told else []
    return "\n".join(lines)
