"""Are samples copies of training images? Their nearest training images, against those of held-out real images.

A held-out image is as far from the training images as an honest sample should be. A generator that has learnt its
training images by heart is nearer. A data set may hold an image twice, and once in each split: such held-out images
are no honest ones, and are left out.
"""

import numpy as np

from pipeline.core.randomness import stable_hash
from pipeline.metrics.types import Comparison, Estimate, NotAvailable

RESAMPLES = 200
NEAREST_SHARE = 0.01  # a sample is a copy if it is nearer than all but this share of the held-out images
ROUNDING = 1e-4  # of the largest distance: equal images can be so far apart, on devices whose features are rounded


def memorisation(comparison: Comparison) -> dict[str, Estimate]:
    """How near generated images are to training images, beside how near held-out images are.

    nearest_ratio: the median distance to the nearest training image, of generated over held-out images. Its error is
        by a bootstrap of both medians, the training images held fixed.
    copies: the share of generated images that equal a training image, or are nearer to one than 99% of the held-out
        images are. Samples as far off as held-out images have about 0.01. Its error is binomial, the held-out images'
        quantile held fixed: with fewer than some 1,000 of them, that is the rougher part.
    held_out_duplicates: how many held-out images equal a training image; they are no part of the other two.

    A ratio below 1 with copies far above 0.01 is suspicious. An untrained generator is far from everything and has no
    copies either: few copies speak for a generator only where its distance is low. docs/errors.md has what `copies`
    sees of changed copies.

    Raises:
        NotAvailable: there are no held-out images, or all of them are training images.
    """
    if comparison.held_out is None:
        raise NotAvailable("no held-out images")
    generated = comparison.generated.neighbours_in(comparison.real)[0][:, 0]
    held_out = comparison.held_out.neighbours_in(comparison.real)[0][:, 0]
    equal = ROUNDING * float(held_out.max())
    unseen = held_out[held_out > equal]
    if not len(unseen):
        raise NotAvailable("all held-out images are training images")
    return {
        "nearest_ratio": nearest_ratio(generated, unseen),
        "copies": copies(generated, unseen, equal),
        "held_out_duplicates": Estimate(float(len(held_out) - len(unseen))),
    }


def nearest_ratio(generated: np.ndarray, held_out: np.ndarray) -> Estimate:
    """The median of distances (M,) over the median of distances (H,), which must not be 0."""
    source = np.random.default_rng(stable_hash("memorisation"))
    over, under = float(np.median(generated)), float(np.median(held_out))
    ratio = over / under
    # The ratio's error from the medians', to first order: a resample's median may be 0, which cannot be divided by.
    return Estimate(ratio, float(np.hypot(_spread(generated, source), ratio * _spread(held_out, source)) / under))


def copies(generated: np.ndarray, held_out: np.ndarray, equal: float = 0.0) -> Estimate:
    """The share of distances (M,) that are below the 1% quantile of distances (H,), or at most `equal`.

    >>> copies(np.array([0.0, 2.0, 6.0, 8.0]), np.array([5.0, 5.0, 7.0, 9.0])).value
    0.5
    """
    share = float(np.mean((generated < np.quantile(held_out, NEAREST_SHARE)) | (generated <= equal)))
    return Estimate(share, float(np.sqrt(share * (1 - share) / len(generated))))


def closest_pairs(comparison: Comparison, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` generated images that are nearest to any training image (all, if there are fewer), nearest first.

    Returns their indices int64 (count,), those of the training images int64 (count,), and the distances float32
    (count,). Each generated image comes once; a training image may come often.
    """
    distances, indices = comparison.generated.neighbours_in(comparison.real)
    order = np.argsort(distances[:, 0], kind="stable")[:count]
    return order, indices[order, 0], distances[order, 0]


def _spread(distances: np.ndarray, source: np.random.Generator) -> float:
    """The standard deviation of the median over resamples with replacement."""
    medians = [np.median(source.choice(distances, len(distances))) for _ in range(RESAMPLES)]
    return float(np.std(medians, ddof=1))
