"""The kernel distance: an unbiased estimate for few images (Bińkowski et al. 2018, arXiv:1801.01401, section 4).

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(x, y) = (x·y / D + 1)³

x, x' are features of different real images, y, y' of different generated ones. No image is paired with itself, so the
expected value is the true distance for any number of images, and equal distributions give 0 on average, not always:
single values may be below 0. Under Inception it is called `kid`, under another extractor `kd_<extractor>`.
"""

import numpy as np

from pipeline.core.metric_names import kernel_name
from pipeline.core.randomness import stable_hash
from pipeline.metrics.sampling_error import strata
from pipeline.metrics.types import Comparison, Estimate, NotAvailable

SUBSETS = 100  # as in the literature, and so is the size
SIZE = 1000
FEWEST = 5  # of a class's images in a subset, on average, that show how the class varies
BLOCK = 1024  # rows of the kernel matrix that are in memory at once


def kid(comparison: Comparison) -> dict[str, Estimate]:
    """The kernel distance between the real and the generated images, over 100 subsets of at most 1,000 images a side.

    The error is that of other generated images against the same real ones and subsets. Publications print the
    deviation of the subsets' values instead: that is not how far the value would move.
    """
    real, generated = comparison.real.features, comparison.generated.features
    if min(len(real), len(generated)) < 2:
        raise NotAvailable("needs at least 2 images on each side")
    labels, seed = comparison.generated.labels, stable_hash("kid")
    return {kernel_name(comparison.metric): kernel_distance(real, generated, SUBSETS, SIZE, seed, labels)}


def kernel_distance(
    real: np.ndarray, generated: np.ndarray, subsets: int, size: int, seed: int, labels: np.ndarray | None = None
) -> Estimate:
    """The mean of the unbiased MMD² over random subsets of real (N, D) and generated (M, D) features.

    Each subset holds `size` images of either side, or as many as the smaller side has (at least 2), none of them
    twice; where that is all images of both sides, there is one.

    The error is from Hoeffding's decomposition of the mean over the subsets, a U-statistic in the generated images,
    the classes of `labels` (M,) being strata. The squares of the images' parts in it, as a jackknife sums them, hold
    twice what pairs of images vary by (Efron and Stein 1981): once too often, so it is taken off. The error is at
    least that of pairs. It is None for fewer than 4 images.
    """
    sides = (len(real), len(generated))
    size = min(size, *sides)
    if size == max(sides):
        subsets = 1
    members = strata(labels, len(generated), least=FEWEST * -(-len(generated) // size))
    source = np.random.default_rng(seed)
    chosen = np.array([[source.choice(n, size, replace=False) for n in sides] for _ in range(subsets)])  # (S, 2, n)
    # The kernel of few images is computed once for all subsets; that of many would cost more than all the subsets' do.
    together = subsets if max(sides) ** 2 <= subsets * size**2 else 1
    values, parts = [], np.zeros(len(generated))
    for start in range(0, subsets, together):
        group = chosen[start : start + together]
        found, slopes = _mmd(real, generated, group[:, 0], group[:, 1])
        values.append(found)
        images = np.unique(group[:, 1])
        parts[images] += _deviations(slopes, _members(group[:, 1])[1], members[images]).sum(axis=0) / subsets
    images = chosen[0, 1]
    pairs = _pair_variance(generated[images], members[images]) * _pair_weights(len(generated), size, subsets)
    variance = pairs + max(float(parts @ parts) - 2 * pairs, 0)
    return Estimate(float(np.concatenate(values).mean()), float(np.sqrt(variance)) if size > 3 else None)


def _mmd(
    real: np.ndarray, generated: np.ndarray, in_real: np.ndarray, in_generated: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The unbiased MMD² of each subset, (S,); row s of `in_real` and of `in_generated` (S, n) are its images.

    And of each subset and each generated image in use, in the order of their indices, how far the value moves with
    the image to first order: (S, C), 0 where it is not in the subset.
    """
    size = in_real.shape[1]
    among_real = _kernel_sums(real, real, in_real, in_real) - _diagonal(real, in_real)
    among_generated = _kernel_sums(generated, generated, in_generated, in_generated)
    among_generated -= _diagonal(generated, in_generated)
    across = _kernel_sums(real, generated, in_real, in_generated)
    values: np.ndarray = (among_real.sum(axis=1) + among_generated.sum(axis=1)) / (size * (size - 1))
    values -= 2 * across.sum(axis=1) / size**2
    return values, 2 / size * (among_generated / max(size - 2, 1) - across / size)


def _deviations(slopes: np.ndarray, chosen: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Slopes (S, C) around the mean of their subset and stratum, 0 outside of the subset; their variance is unbiased.

    chosen: which images are in which subset, (S, C), 0 or 1; members: their strata, (C,).
    """
    groups = np.unique(members, return_inverse=True)[1]
    inside = np.eye(groups.max() + 1)[groups]  # (C, G)
    sizes = chosen @ inside
    means = slopes @ inside / np.maximum(sizes, 1)
    scale = np.sqrt(sizes / np.maximum(sizes - 1, 1))
    deviations: np.ndarray = (slopes - chosen * means[:, groups]) * scale[:, groups]
    return deviations


def _pair_weights(count: int, size: int, subsets: int) -> float:
    """The expected sum over ordered pairs of images of the squares of a pair's weight in the mean over the subsets."""
    pairs, within = count * (count - 1), size * (size - 1)
    return 1 / pairs + (1 - within / pairs) / (subsets * within)


def _pair_variance(generated: np.ndarray, members: np.ndarray) -> float:
    """Twice the variance of k(y, y') that neither image explains alone, within the strata `members` (n,) of both.

    It is estimated from features (n, D) as distance covariance is (Székely and Rizzo 2014, "Partial distance
    correlation", section 3). 0 where there are too few images.
    """
    groups = np.unique(members, return_inverse=True)[1]
    inside = np.eye(groups.max() + 1)[groups]  # (n, G)
    sizes, (count, number) = inside.sum(axis=0), inside.shape
    freedom = int((count - number) ** 2 - count - number)
    if freedom <= 0:
        return 0.0
    y = generated.astype(np.float64)
    kernel = _kernel(y, y)
    np.fill_diagonal(kernel, 0)
    sums = kernel @ inside
    rows = sums / np.maximum(sizes - inside, 1)  # of each image, its mean over the other images of each stratum
    blocks = inside.T @ sums / np.maximum(np.outer(sizes, sizes) - np.diag(sizes), 1)
    rest = kernel - rows[:, groups] - rows[:, groups].T + blocks[groups][:, groups]
    np.fill_diagonal(rest, 0)
    return 2 * float((rest**2).sum()) / freedom


def _kernel_sums(first: np.ndarray, second: np.ndarray, in_first: np.ndarray, in_second: np.ndarray) -> np.ndarray:
    """Of each subset and each y of `second` in use, the sum of k(x, y) over all x of `first` in it: (S, C).

    0 where y is not in the subset.
    """
    rows, members = _members(in_first)
    columns, others = _members(in_second)
    y = second[columns].astype(np.float64)
    sums = np.zeros(others.shape)
    for start in range(0, len(rows), BLOCK):
        x = first[rows[start : start + BLOCK]].astype(np.float64)
        sums += members[:, start : start + BLOCK] @ _kernel(x, y)
    sums *= others
    return sums


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k of float64 x (R, D) and y (C, D): (R, C)."""
    kernel: np.ndarray = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def _diagonal(features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Of each subset and each x in use, k(x, x), or 0 where x is not in the subset: (S, R)."""
    rows, members = _members(chosen)
    x = features[rows].astype(np.float64)
    members *= (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3
    return members


def _members(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices that occur in `chosen` (S, n), ascending (R,), and which subset holds which: 0 or 1, (S, R)."""
    rows = np.unique(chosen)
    members = np.zeros((len(chosen), len(rows)))
    np.put_along_axis(members, np.searchsorted(rows, chosen), 1, axis=1)
    return rows, members
