"""Are samples copies of training images? Their nearest training images, against those of held-out real images.

A held-out image is as far from the training images as an honest sample should be. A generator that has learnt its
training images by heart is nearer. A data set may hold an image twice, and once in each split: such held-out images
are no honest ones, and are left out.
"""

import numpy as np

from pipeline.metrics.sampling_error import median_error, share_error, strata
from pipeline.metrics.types import Comparison, Estimate, NotAvailable

NEAREST_SHARE = 0.01  # a sample is a copy if it is nearer than all but this share of the held-out images
ROUNDING = 1e-4  # of the largest distance: equal images can be so far apart, on devices whose features are rounded


def memorisation(comparison: Comparison) -> dict[str, Estimate]:
    """How near generated images are to training images, beside how near held-out images are.

    nearest_ratio: the median distance to the nearest training image, of generated over held-out images.
    copies: the share of generated images that equal a training image, or are nearer to one than 99% of the held-out
        images are. Samples as far off as held-out images have about 0.01.
    held_out_duplicates: how many held-out images equal a training image; they are no part of the other two.

    The errors are those of other generated images; all real ones are held fixed. With fewer than some 1,000 held-out
    images their quantile is rough, and so is the scale of `copies`.

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
    members = strata(comparison.generated.labels, len(generated))
    return {
        "nearest_ratio": nearest_ratio(generated, unseen, members),
        "copies": copies(generated, unseen, members, equal),
        "held_out_duplicates": Estimate(float(len(held_out) - len(unseen))),
    }


def nearest_ratio(generated: np.ndarray, held_out: np.ndarray, members: np.ndarray) -> Estimate:
    """The median of distances (M,), of images in the strata `members` (M,), over that of distances (H,), not 0."""
    under = float(np.median(held_out))
    return Estimate(float(np.median(generated)) / under, median_error(generated, members) / under)


def copies(generated: np.ndarray, held_out: np.ndarray, members: np.ndarray, equal: float = 0.0) -> Estimate:
    """The share of distances (M,) that are below the 1% quantile of distances (H,), or at most `equal`.

    >>> copies(np.array([0.0, 2.0, 6.0, 8.0]), np.array([5.0, 5.0, 7.0, 9.0]), np.zeros(4, int)).value
    0.5
    """
    near = (generated < np.quantile(held_out, NEAREST_SHARE)) | (generated <= equal)
    return Estimate(float(near.mean()), share_error(near, members))


def closest_pairs(comparison: Comparison, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` generated images that are nearest to any training image (all, if there are fewer), nearest first.

    Returns their indices int64 (count,), those of the training images int64 (count,), and the distances float32
    (count,). Each generated image comes once; a training image may come often.
    """
    distances, indices = comparison.generated.neighbours_in(comparison.real)
    order = np.argsort(distances[:, 0], kind="stable")[:count]
    return order, indices[order, 0], distances[order, 0]
