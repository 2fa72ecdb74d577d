"""How far generated images are from the training images, divided by how far as many other real images are: the floor.

The Fréchet distance of two sets falls as they grow (Chong and Forsyth 2020, arXiv:1911.07023), so only distances of
equally many images may be divided. The larger of the two sets is therefore measured in subsets of the smaller one's
size.
"""

import numpy as np

from pipeline.core.randomness import stable_hash
from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.types import Comparison, Estimate, FeatureSet, NotAvailable

SUBSETS = 5  # at most so many, none of which shares an image with another
LEAST = 1e-7  # of the real features' mean square: a smaller distance is rounding


def floor_images(held_out: int, generated: int) -> int:
    """The number of images at which both are measured."""
    return min(held_out, generated)


def floor(comparison: Comparison) -> dict[str, Estimate]:
    """Three numbers at n = `floor_images` images; F is the Fréchet distance's name.

    floor: the Fréchet distance of n held-out images to the training images.
    F_at_floor: that of n generated images.
    ratio_to_floor: the second over the first. Other real images have about 1, a perfect generator too.

    None has an error: the bootstrap's (see `pipeline.metrics.fid`) is that of all generated images.

    Raises:
        NotAvailable: there are too few images, or the floor is 0, as that of an image that is merely repeated is.
    """
    if comparison.held_out is None:
        raise NotAvailable("no held-out images")
    count = floor_images(len(comparison.held_out), len(comparison.generated))
    if count < 2:
        raise NotAvailable("needs at least 2 images on each side")
    real = comparison.real.gaussian
    lowest = _mean_distance(real, comparison.held_out, count, stable_hash("floor held out"))
    if lowest <= LEAST * (real.trace + float(real.mean @ real.mean)):
        raise NotAvailable("the floor is 0: to this extractor the held-out images are the training images")
    distance = _mean_distance(real, comparison.generated, count, stable_hash("floor generated"))
    return {
        "floor": Estimate(lowest),
        f"{comparison.metric}_at_floor": Estimate(distance),
        "ratio_to_floor": Estimate(distance / lowest),
    }


def _mean_distance(real: Gaussian, images: FeatureSet, count: int, seed: int) -> float:
    """The mean distance of disjoint random subsets of `count` images, as many as there are, but at most `SUBSETS`."""
    if count == len(images):
        return frechet_distance(real, images.gaussian)
    subsets = min(SUBSETS, len(images) // count)
    rows = np.random.default_rng(seed).permutation(len(images))[: subsets * count].reshape(subsets, count)
    chosen = (images.features[np.sort(subset)] for subset in rows)
    return float(np.mean([frechet_distance(real, Gaussian.from_features(features)) for features in chosen]))
