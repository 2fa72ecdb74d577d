"""Standard errors of sampling: how far a number would move if the same generator made other images.

All models are compared with the same real images, so only the generated ones vary. Where these have labels, other
samples have the same labels (see `pipeline.sampling.images.labels`): images vary within their class, and the classes
are strata. docs/errors.md has the errors beside the spread over fresh samples.
"""

import math

import numpy as np
import torch

FEWEST = 5  # that have a property, and that have not: of fewer, the error of their share cannot be told
TERMS = 6  # of the alternating series in `Hits.error`


def strata(labels: np.ndarray | None, count: int, least: int = 2) -> np.ndarray:
    """The stratum of each image, int64 (count,), numbered from 0: its class, or one for all if there are no labels.

    Classes of fewer than `least` images, which do not show how a class varies, make one stratum together.

    >>> strata(np.array([7, 7, 4, 9, 9, 5]), 6).tolist(), strata(None, 2).tolist()
    ([1, 1, 0, 2, 2, 0], [0, 0])
    """
    if labels is None:
        return np.zeros(count, np.int64)
    _, places, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return np.unique(np.where(sizes[places] >= least, places, -1), return_inverse=True)[1]


def mean_error(values: np.ndarray, members: np.ndarray) -> float:
    """The standard error of the mean of values (M,), within the strata `members` (M,).

    >>> mean_error(np.array([1.0, 3.0, 10.0, 10.0]), np.array([0, 0, 1, 1]))       # the variances are 2 and 0
    0.5
    """
    sizes = np.bincount(members)
    means = np.bincount(members, values) / sizes
    squares = np.bincount(members, (values - means[members]) ** 2)
    return float(np.sqrt((squares * sizes / np.maximum(sizes - 1, 1)).sum()) / len(values))


def share_error(hits: np.ndarray, members: np.ndarray) -> float | None:
    """The standard error of the mean of bool (M,), within strata (M,); None = it cannot be told."""
    return mean_error(hits, members) if FEWEST <= hits.sum() <= len(hits) - FEWEST else None


def median_error(values: np.ndarray, members: np.ndarray) -> float:
    """The standard error of the median of values (M,): a quarter of its interval of two standard errors to both sides.

    The interval is that of Woodruff (1952, "Confidence intervals for medians and other position measures").
    """
    share = mean_error(values < np.median(values), members)
    low, high = np.quantile(values, [max(0.5 - 2 * share, 0), min(0.5 + 2 * share, 1)])
    return float(high - low) / 4


class Hits:
    """Which of N targets, such as real images, are hit by any of M generated images; filled block by block."""

    def __init__(self, targets: int, images: int) -> None:
        self._keys = np.random.default_rng(0).integers(2**62, size=images)  # a set of images is told by its sum
        self._sums = np.zeros(targets, np.int64)
        self._counts = np.zeros(targets, np.int64)  # exact up to TERMS, above it at least TERMS + 1

    def add(self, rows: slice, columns: slice, hit: torch.Tensor) -> None:
        """Take in which images `rows` hit which targets `columns`: bool (R, C)."""
        counts, sums = self._counts[columns], self._sums[columns]
        open_targets = torch.from_numpy(counts <= TERMS).to(hit.device)
        images, targets = (places.cpu().numpy() for places in (hit & open_targets).nonzero(as_tuple=True))
        counts += np.bincount(targets, minlength=len(counts))
        np.add.at(sums, targets, self._keys[rows][images])

    @property
    def hit(self) -> np.ndarray:
        """bool (N,)"""
        return self._counts > 0

    @property
    def share(self) -> float:
        """Of the targets that are hit."""
        return float(self.hit.mean())

    def error(self, members: np.ndarray) -> float | None:
        """The standard error of the share, for images within the strata `members` (M,); None = it cannot be told.

        If numbers of images are Poisson, that neither of two targets is hit has the covariance

            exp(-(a + b + s)) (1 - exp(-s)) = sum over q = 1, 2, ... of (-1)^(q + 1) exp(-(a + b + s)) s^q / q!

        where so many images are expected to hit only the one, only the other, and both. Each term is the probability
        that the two are hit by the very same q images: it is estimated by counting such pairs. Euler's transformation
        damps the series, as Efron and Thisted did (1976, "Estimating the number of unseen species").

        That the number of images is fixed in each stratum takes away what the share's slope in that number adds.
        """
        if not FEWEST <= self.hit.sum() <= len(self._counts) - FEWEST:
            return None
        variance = 0.0
        for count in range(1, TERMS + 1):
            _, same = np.unique(self._sums[self._counts == count], return_counts=True)
            weight = sum(math.comb(TERMS, q) for q in range(count, TERMS + 1)) / 2**TERMS
            variance -= (-1) ** count * weight * float(same @ same)
        order = np.argsort(self._keys)
        owners = order[np.searchsorted(self._keys, self._sums[self._counts == 1], sorter=order)]
        slopes = np.bincount(members[owners], minlength=members.max() + 1)
        variance -= float((slopes**2 / np.bincount(members)).sum())
        return math.sqrt(variance) / len(self._counts) if variance > 0 else None
