"""The kernel distance: an unbiased estimate for few images (Bińkowski et al. 2018, arXiv:1801.01401, section 4).

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(x, y) = (x·y / D + 1)³

x, x' are features of different real images, y, y' of different generated ones. No image is paired with itself, so the
expected value is the true distance for any number of images, and equal distributions give 0 on average, not always:
single values may be below 0. Under Inception it is called `kid`, under another extractor `kd_<extractor>`.
"""

import numpy as np

from pipeline.core.randomness import stable_hash
from pipeline.metrics.types import Comparison, Estimate, NotAvailable

SUBSETS = 100  # as in the literature, and so is the size
SIZE = 1000
BLOCK = 1024  # rows of the kernel matrix that are in memory at once


def kid(comparison: Comparison) -> dict[str, Estimate]:
    """The kernel distance between the real and the generated images, over 100 subsets of at most 1,000 images a side.

    The error is that of the mean over the subsets, the images being fixed. Subsets overlap, the more so the fewer
    images there are, so it is smaller than the spread that fresh images would show.
    """
    metric = comparison.metric
    key = "kid" if metric == "fid" else f"kd_{metric.removeprefix('fd_')}"
    real, generated = comparison.real.features, comparison.generated.features
    if min(len(real), len(generated)) < 2:
        raise NotAvailable("needs at least 2 images on each side")
    return {key: kernel_distance(real, generated, SUBSETS, SIZE, stable_hash("kid"))}


def kernel_distance(real: np.ndarray, generated: np.ndarray, subsets: int, size: int, seed: int) -> Estimate:
    """The mean of the unbiased MMD² over random subsets of real (N, D) and generated (M, D) features.

    Each subset holds `size` images of either side, or as many as the smaller side has (at least 2), none of them
    twice. Where that is all images of a side, no error is estimated, since subsets do not show that side's.
    """
    sides = (len(real), len(generated))
    size = min(size, *sides)
    if size == max(sides):
        subsets = 1
    source = np.random.default_rng(seed)
    chosen = np.array([[source.choice(n, size, replace=False) for n in sides] for _ in range(subsets)])  # (S, 2, n)
    # The kernel of few images is computed once for all subsets; that of many would cost more than all the subsets' do.
    together = subsets if max(sides) ** 2 <= subsets * size**2 else 1
    groups = [chosen[start : start + together] for start in range(0, subsets, together)]
    values = np.concatenate([_mmd(real, generated, group[:, 0], group[:, 1]) for group in groups])
    error = float(values.std(ddof=1) / np.sqrt(subsets)) if size < min(sides) else None
    return Estimate(float(values.mean()), error)


def _mmd(real: np.ndarray, generated: np.ndarray, in_real: np.ndarray, in_generated: np.ndarray) -> np.ndarray:
    """The unbiased MMD² of each subset, (S,); row s of `in_real` and of `in_generated` (S, n) are its images."""
    size = in_real.shape[1]
    within = _kernel_sums(real, real, in_real, in_real) - _diagonal_sums(real, in_real)
    within += _kernel_sums(generated, generated, in_generated, in_generated) - _diagonal_sums(generated, in_generated)
    across = _kernel_sums(real, generated, in_real, in_generated)
    values: np.ndarray = within / (size * (size - 1)) - 2 * across / size**2
    return values


def _kernel_sums(first: np.ndarray, second: np.ndarray, in_first: np.ndarray, in_second: np.ndarray) -> np.ndarray:
    """Of each subset, the sum of k(x, y) over all x of `first` and y of `second` that are in it: (S,)."""
    rows, members = _members(in_first)
    columns, others = _members(in_second)
    y = second[columns].astype(np.float64)
    sums = np.zeros(len(in_first))
    for start in range(0, len(rows), BLOCK):
        x = first[rows[start : start + BLOCK]].astype(np.float64)
        kernel = (x @ y.T / x.shape[1] + 1) ** 3  # (BLOCK, D) (D, C) -> (BLOCK, C)
        sums += (members[:, start : start + BLOCK] @ kernel * others).sum(axis=1)
    return sums


def _diagonal_sums(features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Of each subset, the sum of k(x, x) over its images: (S,)."""
    rows, members = _members(chosen)
    x = features[rows].astype(np.float64)
    sums: np.ndarray = members @ (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3
    return sums


def _members(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices that occur in `chosen` (S, n), ascending (R,), and which subset holds which: 0 or 1, (S, R)."""
    rows = np.unique(chosen)
    members = np.zeros((len(chosen), len(rows)))
    np.put_along_axis(members, np.searchsorted(rows, chosen), 1, axis=1)
    return rows, members
