"""MIND, the Monge distance: a sliced Wasserstein distance of the features (Berthet et al. 2026, arXiv:2605.06797).

    MIND = 3 D * mean over directions u of W(u·x, u·y)²

W is the 2-Wasserstein distance of the two sets along u: sorted values against sorted values. Unlike the Fréchet
distance it takes neither set for a Gaussian, and sees more than means and covariances. Under Inception it is called
`mind`, under another extractor `md_<extractor>`.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.core.metric_names import monge_name
from pipeline.core.randomness import stable_hash
from pipeline.metrics.types import Comparison, Estimate

DIRECTIONS = 1000  # as the authors use
SCALE = 3  # times the number of dimensions
TOGETHER, BLOCK = 100, 4096  # directions at once, and rows: 20 MB of values for 50,000 images


def mind(comparison: Comparison) -> dict[str, Estimate]:
    """The distance of the generated images to the real ones along 1,000 seeded random directions. It has no error.

    It falls as the number of images rises, so only distances of equally many images compare.
    """
    real, generated = comparison.real.features, comparison.generated.features
    directions = random_directions(DIRECTIONS, real.shape[1], stable_hash("mind"))
    return {monge_name(comparison.metric): Estimate(monge_distance(real, generated, directions))}


def random_directions(count: int, dim: int, seed: int) -> np.ndarray:
    """float32 (count, dim), each of length 1, uniform on the sphere."""
    directions = np.random.default_rng(seed).standard_normal((count, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions.astype(np.float32)


def monge_distance(first: np.ndarray, second: np.ndarray, directions: np.ndarray) -> float:
    """MIND of features (N, D) and (M, D) along directions (K, D). All images count, also where N is not M.

    A set's quantiles are then steps of 1 / N and of 1 / M, and their squared gap is integrated step by step.

    >>> monge_distance(np.array([[0.0], [2.0]]), np.array([[1.0]]), np.array([[1.0]]))       # 3 * (1² + 1²) / 2
    3.0
    """
    left, right, widths = _steps(len(first), len(second))
    total = 0.0
    for start in range(0, len(directions), TOGETHER):
        chosen = directions[start : start + TOGETHER]
        for x, y in zip(_sorted_along(first, chosen), _sorted_along(second, chosen), strict=True):
            gaps = x[left].astype(np.float64) - y[right]
            total += float(widths @ gaps**2)
    dim: int = first.shape[1]
    return SCALE * dim * total / len(directions)


def _steps(first: int, second: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where both sets' quantiles are constant: which value of the one, which of the other, and how long; each (S,).

    >>> _steps(2, 1)
    (array([0, 1]), array([0, 0]), array([0.5, 0.5]))
    """
    ends = np.union1d(np.arange(first + 1) * second, np.arange(second + 1) * first)  # in units of 1 / (N M): exact
    starts = ends[:-1]
    return starts // second, starts // first, np.diff(ends) / (first * second)


def _sorted_along(features: np.ndarray, directions: np.ndarray) -> Iterator[np.ndarray]:
    """Of each direction (K, D), the values of features (N, D) along it, ascending: (N,)."""
    blocks = range(0, len(features), BLOCK)
    values = np.concatenate([directions @ features[start : start + BLOCK].T for start in blocks], axis=1)
    values.sort(axis=1)
    yield from values
