"""ADA: the transforms of StyleGAN2-ADA, each at its own chance, and a strength that D's certainty sets.

Karras et al. 2020, arXiv:2006.06676, section 3.1 and appendix B, the parts "pixel blitting", "geometric" and "colour".
Unlike there an image is resampled bilinearly, without their filters, and its edges are mirrored. Everything can be
differentiated twice, as R1 through an augmentation needs.
"""

import functools
import math

import torch
from torch import Tensor

from pipeline.core.randomness import Draws
from pipeline.gan.terms import full

TARGET = 0.6  # of the mean sign of D's logits of real images: above it D is too sure
EVERY = 4  # updates of D between two changes of the strength
IMAGES = 500_000  # after which the strength can have gone from 0 to 1

Strength = float | Tensor


def own() -> dict[str, Tensor]:
    """The strength p, and the sum of mean signs since its last change over `seen` updates."""
    return {"strength": torch.zeros(()), "signs": torch.zeros(()), "seen": torch.zeros(())}


def adapt(own: dict[str, Tensor], real_logits: Tensor) -> None:
    """At every fourth update p goes up where the mean sign since the last time is above 0.6, else down; within [0, 1].

    (Equation 1 and section 3.1.) It goes by the images of four updates as a share of 500,000.
    """
    own["signs"].add_(real_logits.sign().mean())
    own["seen"].add_(1)
    due = own["seen"] % EVERY == 0
    change = (own["signs"] / EVERY - TARGET).sign() * (len(real_logits) * EVERY / IMAGES)
    own["strength"].add_(torch.where(due, change, 0.0)).clamp_(0, 1)
    own["signs"].mul_(~due)


def transform(images: Tensor, draws: Draws, strength: Strength) -> Tensor:
    """Images (N, C, S, S), each through all transforms in turn, each of which acts with the probability `strength`."""
    images, count = full(images), len(images)
    # All draws, as many at any strength: a chance for each transform, then what it does.
    chances, uniform, normal = draws.rand(13, count, of=1), draws.rand(8, count, of=1), draws.randn(7, count, of=1)
    rotation = 1 - (1 - strength) ** 0.5  # of each of two rotations, so that one of them acts with `strength`
    acts = chances < strength
    acts[4], acts[6] = chances[4] < rotation, chances[6] < rotation
    warped = warp(images, _inverse(acts, uniform, normal, images.shape[2]).to(images.dtype))
    images = torch.where(acts[:8].any(dim=0)[:, None, None, None], warped, images)
    changed = _recolour(images, acts[8:], uniform[6:], normal[4:])
    return torch.where(acts[8:].any(dim=0)[:, None, None, None], changed, images)


def _inverse(acts: Tensor, uniform: Tensor, normal: Tensor, side: int) -> Tensor:
    """From a place in the result to its place in the image, both from the centre in pixels: (N, 3, 3)."""
    one, none = torch.ones_like(uniform[0]), torch.zeros_like(uniform[0])

    def where(place: int, value: Tensor, neutral: Tensor) -> Tensor:
        return torch.where(acts[place], value, neutral)

    def matrices(*elements: Tensor) -> Tensor:
        return torch.stack(elements, dim=1).view(-1, 3, 3)

    def scaling(x: Tensor, y: Tensor) -> Tensor:
        return matrices(x, none, none, none, y, none, none, none, one)

    def rotation(angle: Tensor) -> Tensor:
        cos, sin = angle.cos(), angle.sin()
        return matrices(cos, -sin, none, sin, cos, none, none, none, one)

    def shift(x: Tensor, y: Tensor) -> Tensor:
        return matrices(one, none, x, none, one, y, none, none, one)

    def angle(value: Tensor) -> Tensor:
        return (2 * value - 1) * math.pi

    mirrored = where(0, (uniform[0] * 2).floor(), none)
    quarters = where(1, (uniform[1] * 4).floor(), none)
    whole = [where(2, ((2 * uniform[place] - 1) * 0.125 * side).round(), none) for place in (2, 3)]
    size = where(3, (0.2 * normal[0]).exp2(), one)
    stretch = where(5, (0.2 * normal[1]).exp2(), one)
    part = [where(7, 0.125 * side * normal[place], none) for place in (2, 3)]
    undone = [
        scaling(1 - 2 * mirrored, one), rotation(-quarters * math.pi / 2), shift(-whole[0], -whole[1]),
        scaling(1 / size, 1 / size), rotation(-where(4, angle(uniform[4]), none)), scaling(1 / stretch, stretch),
        rotation(-where(6, angle(uniform[5]), none)), shift(-part[0], -part[1]),
    ]  # fmt: skip
    return functools.reduce(_product, undone)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """The matrix product of (N, 3, 3) and (N or 1, 3, K), which autocast does not make half precision."""
    return (first[..., None] * second[:, None]).sum(dim=2)


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Images (N, C, S, S) resampled bilinearly at the places that `inverse` (N, 3, 3) gives; see `_inverse`."""
    count, _, height, width = images.shape
    ys, xs = (torch.arange(size, device=images.device) - (size - 1) / 2 for size in (height, width))
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width), torch.ones_like(xs + ys[:, None])])
    found = _product(inverse, grid.flatten(1).to(images.dtype)[None]).view(count, 3, height, width)
    (left, x), (top, y) = _mirrored(found[:, 0], width), _mirrored(found[:, 1], height)
    rows, of_image = images.permute(0, 2, 3, 1), torch.arange(count, device=images.device)[:, None, None]
    # Indexing, whose gradient is deterministic and has a gradient itself; grid_sample's has none.
    upper = rows[of_image, top, left] * (1 - x) + rows[of_image, top, left + 1] * x
    lower = rows[of_image, top + 1, left] * (1 - x) + rows[of_image, top + 1, left + 1] * x
    return (upper * (1 - y) + lower * y).permute(0, 3, 1, 2)


def _mirrored(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Of places from the centre: the pixel before each, int64, and the share of the next; mirrored at the edges."""
    last = size - 1
    places = (places + last / 2).remainder(2 * last)
    places = torch.where(places > last, 2 * last - places, places)
    before = places.detach().floor().clamp(0, last - 1)
    return before.long(), (places - before)[..., None]


def _recolour(images: Tensor, acts: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
    """Brightness, contrast, luma flip, hue and saturation in turn; grey images as if of three equal channels."""

    def where(place: int, value: Tensor, neutral: float) -> Tensor:
        return torch.where(acts[place], value, neutral).to(images.dtype)[:, None, None, None]

    x = images.expand(-1, 3, -1, -1) + where(0, 0.2 * normal[0], 0.0)
    x = x * where(1, (0.5 * normal[1]).exp2(), 1.0)
    x = x - 2 * where(2, (uniform[0] * 2).floor(), 0.0) * x.mean(dim=1, keepdim=True)
    hue, luma = where(3, (2 * uniform[1] - 1) * math.pi, 0.0), x.mean(dim=1, keepdim=True)
    # A rotation about the grey axis (Rodrigues): the difference of the two rolls is sqrt(3) times a cross product.
    across = (x.roll(1, dims=1) - x.roll(-1, dims=1)) / math.sqrt(3)
    x = luma + (x - luma) * hue.cos() + across * hue.sin()
    x = luma + (x - luma) * where(4, normal[2].exp2(), 1.0)
    return x.mean(dim=1, keepdim=True) if images.shape[1] == 1 else x
