"""Differentiable augmentation and instance noise for D's inputs.

Real images and fakes pass through both alike, in D's updates and in G's, so that G learns the images and not what was
done to them: gradients flow through. To add an augmentation, write its function and one entry in AUGMENTATIONS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.randomness import Draws, named_draws
from pipeline.core.world import ALONE, World
from pipeline.gan import ada


@dataclass(frozen=True)
class Augmentation:
    """A random, differentiable change of images.

    transform: (images float (N, C, S, S), random numbers) -> the changed images, each changed for itself.
    adapt: where given, the augmentation sets its own strength after each update of D, in place: (its own tensors, of
        which "strength" is the probability, 0 to 1, with which an image is changed; D's logits of the real images,
        float32 (N,), of all ranks). Else the recipe's augment_strength is the strength.
    own: makes the tensors that it keeps from step to step, by name, on the CPU; checkpoints hold them.
    reported: names of `own` scalars that stand in the curves.
    graded: whether it is made of several changes, each with the probability of the strength: `transform` then takes the
        strength too, a number or a scalar tensor. Else all of it acts on an image or nothing.
    """

    transform: Callable[..., Tensor]
    adapt: Callable[[dict[str, Tensor], Tensor], None] | None = None
    own: Callable[[], dict[str, Tensor]] = dict
    reported: tuple[str, ...] = ()
    graded: bool = False


def augment_for_discriminator(
    images: Tensor,
    strengths: Mapping[str, float | Tensor],
    noise: float,
    seed: int,
    stream: str,
    index: int,
    world: World = ALONE,
) -> Tensor:
    """Images as D is shown them, float (N, C, S, S): augmented in the order of `strengths`, then noisy.

    Args:
        strengths: of each augmentation, a name in AUGMENTATIONS, the probability with which it changes an image. Each
            draws by its own name, whatever stands beside it.
        noise: standard deviation of the Gaussian instance noise (Sønderby et al. 2017, arXiv:1610.04490, section 4.2).
    """
    device = images.device
    for name, strength in strengths.items():
        entry, draws = AUGMENTATIONS[name], named_draws(device, world, seed, "augment", name, stream, index)
        changed = entry.transform(images, draws, strength) if entry.graded else entry.transform(images, draws)
        if not entry.graded and (isinstance(strength, Tensor) or strength < 1):
            draws = named_draws(device, world, seed, "augment strength", name, stream, index)
            chosen = draws.rand(len(images), 1, 1, 1) < strength
            changed = torch.where(chosen, changed, images)
        images = changed
    if noise:
        draws = named_draws(device, world, seed, "instance noise", stream, index)
        images = images + noise * draws.randn(*images.shape)
    return images


def _translation(images: Tensor, draws: Draws) -> Tensor:
    """Each image moved by up to an eighth of its side both ways, zeros (grey) coming in."""
    count, _, height, width = images.shape
    reach_y, reach_x = (height + 4) // 8, (width + 4) // 8
    device = images.device
    top = draws.randint(0, 2 * reach_y + 1, (count, 1, 1))
    left = draws.randint(0, 2 * reach_x + 1, (count, 1, 1))
    padded = torch.nn.functional.pad(images, (reach_x, reach_x, reach_y, reach_y)).permute(0, 2, 3, 1)
    rows = top + torch.arange(height, device=device)[:, None]  # (N, H, 1)
    columns = left + torch.arange(width, device=device)  # (N, 1, W)
    return padded[torch.arange(count, device=device)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def _colour(images: Tensor, draws: Draws) -> Tensor:
    """Brightness + U(-0.5, 0.5), saturation * U(0, 2), contrast * U(0.5, 1.5), of each image; leaves [-1, 1]."""
    by = draws.rand(3, len(images), 1, 1, 1, of=1)
    images = images.float() + (by[0] - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * by[1])
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (by[2] + 0.5)


def _cutout(images: Tensor, draws: Draws) -> Tensor:
    """A square of half the side, its centre anywhere in the image, set to zero (grey)."""
    outside = []
    for size in images.shape[2:]:
        edge, place = (size + 1) // 2, torch.arange(size, device=images.device)
        centre = draws.randint(0, size + 1 - edge % 2, (len(images), 1))
        first = centre - edge // 2
        outside.append((place < first) | (place >= first + edge))  # (N, size)
    return images * (outside[0][:, None, :, None] | outside[1][:, None, None, :])


# The first three: Zhao et al. 2020 (arXiv:2006.10738), section 3.2 and appendix, with the ranges given there.
AUGMENTATIONS: dict[str, Augmentation] = {
    "translation": Augmentation(_translation),
    "colour": Augmentation(_colour),
    "cutout": Augmentation(_cutout),
    "ada": Augmentation(ada.transform, graded=True, adapt=ada.adapt, own=ada.own, reported=("strength",)),
    "ada_fixed": Augmentation(ada.transform, graded=True),
}
