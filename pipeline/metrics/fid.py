"""The Fréchet distance as a metric: its value, its sampling error, and its limit for infinitely many images.

It is a FID only under the Inception network of 2015, see `pipeline.metrics.extractors`.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from pipeline.core.randomness import stable_hash
from pipeline.metrics.frechet import Gaussian, Moments, frechet_distance
from pipeline.metrics.sampling_error import strata
from pipeline.metrics.types import Comparison, Estimate, NotAvailable

BLOCK = 4096  # rows that are in memory in float64 at once
SMALLEST = 10  # images of a class that is resampled by itself: resamples of n vary by a share of 1 / n too little
AT_ONCE = 2  # resamples; each takes memory of its own
SIZES = 15  # numbers of images at which the distance is measured to extrapolate it: as many as Chong and Forsyth use


def frechet_distance_metric(comparison: Comparison) -> dict[str, Estimate]:
    """The distance between real and generated images, under the extractor's own name for it.

    The error is that of the generated images alone, the real ones being the same for all. It is None where the images'
    features are not known, or fewer than 2 resamples are asked for.
    """
    real, generated = comparison.real.gaussian, comparison.generated.gaussian
    error = None
    if comparison.bootstrap >= 2:
        with contextlib.suppress(NotAvailable):  # statistics without features have a distance all the same
            features = comparison.generated.features
            members = strata(comparison.generated.labels, len(features), SMALLEST)
            error = bootstrap_error(real, features, comparison.bootstrap, stable_hash("fid"), members)
    return {comparison.metric: Estimate(frechet_distance(real, generated), error)}


def fid_infinity(comparison: Comparison) -> dict[str, Estimate]:
    """The distance extrapolated to infinitely many generated images (Chong and Forsyth 2020, arXiv:1911.07023).

    Only the generated side is extrapolated: the bias that comes of finitely many real images is still in it. And the
    distance is a straight line in 1 / n only for n well above the number of dimensions D; for fewer images than some
    20 D the limit may come out too low, even below 0.
    """
    if not comparison.infinity:
        raise NotAvailable("not asked for")
    features = comparison.generated.features
    count, dim = features.shape
    if count <= 2 * dim:
        raise NotAvailable(f"needs more than {2 * dim} generated images")
    sizes = np.linspace(max(dim + 1, count // 10), count, SIZES).astype(int)
    estimate = extrapolate(comparison.real.gaussian, features, sizes, stable_hash("fid_infinity"))
    return {f"{comparison.metric}_infinity": estimate}


def bootstrap_error(
    real: Gaussian, features: np.ndarray, repeats: int, seed: int, members: np.ndarray | None = None
) -> float:
    """The standard error of the distance of generated features (N, D), over `repeats` resamples with replacement.

    Each of the strata `members`, int64 (N,), numbered from 0, is resampled by itself, to as many images as it has
    (Davison and Hinkley 1997, "Bootstrap methods and their application", section 3.2); None = all are one.

    A resample repeats some images and lacks others, which raises its distance: only the spread of the resamples'
    distances is used (their standard deviation), not their mean (Efron 1979, "Bootstrap methods").
    """
    source = np.random.default_rng(seed)
    count = len(features)
    members = np.zeros(count, np.int64) if members is None else members
    groups = [np.flatnonzero(members == number) for number in range(members.max() + 1)]
    resamples = []
    for _ in range(repeats):
        chosen = np.concatenate([rows[source.integers(len(rows), size=len(rows))] for rows in groups])
        resamples.append(np.bincount(chosen, minlength=count))
    workers = min(AT_ONCE, torch.get_num_threads())
    # Two resamples at once, each with half of the threads, are faster than one after the other with all of them.
    with threadpool_limits(torch.get_num_threads() // workers), ThreadPoolExecutor(workers) as pool:
        distances = list(
            pool.map(lambda times: frechet_distance(real, resampled(features, times), _singular_values), resamples)
        )
    return float(np.std(distances, ddof=1))


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    """Singular values in half the time, their sum exact to about 1e-7: enough for the spread of resamples.

    They are the roots of the eigenvalues of the smaller of A Aᵀ and Aᵀ A, whose rounding is the larger.
    """
    square = matrix @ matrix.T if len(matrix) <= len(matrix.T) else matrix.T @ matrix
    roots: np.ndarray = np.sqrt(np.maximum(np.linalg.eigvalsh(square), 0))
    return roots


def extrapolate(real: Gaussian, features: np.ndarray, sizes: np.ndarray, seed: int) -> Estimate:
    """The intercept of a straight line in 1/n through the distances of random subsets of n of the features (N, D).

    For each n in `sizes` (S,), at least 3 of them, one subset is drawn, no image twice, afresh. The error is the
    intercept's of the least-squares fit, the images being fixed: subsets overlap, so fresh images would vary more.
    """
    source = np.random.default_rng(seed)
    distances = []
    for size in sizes:
        times = np.zeros(len(features), dtype=np.int64)
        times[source.choice(len(features), size, replace=False)] = 1
        distances.append(frechet_distance(real, resampled(features, times)))
    coefficients, covariance = np.polyfit(1 / np.asarray(sizes), distances, 1, cov=True)
    return Estimate(float(coefficients[1]), float(np.sqrt(covariance[1, 1])))


def resampled(features: np.ndarray, times: np.ndarray) -> Gaussian:
    """The Gaussian fitted to the features (N, D), row i taken `times[i]` times: int (N,), their sum at least 2.

    Where fewer rows than dimensions are in use, they are themselves a factor of the covariance, each weighted by the
    root of how often it is there; this saves the decomposition of the covariance.
    """
    rows = np.flatnonzero(times)
    count = int(times.sum())
    if len(rows) <= features.shape[1]:
        used, weights = features[rows].astype(np.float64), times[rows]
        mean = weights @ used / count
        return Gaussian(mean, ((used - mean) * np.sqrt(weights / (count - 1))[:, None]).T, count)
    moments = Moments()
    for start in range(0, len(rows), BLOCK):
        here = rows[start : start + BLOCK]
        moments.add(np.repeat(features[here], times[here], axis=0))
    return Gaussian.from_moments(moments)
