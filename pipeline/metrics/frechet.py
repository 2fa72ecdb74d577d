"""The Fréchet distance between two Gaussians, exact and fast (Heusel et al. 2017, arXiv:1706.08500, equation 6).

    d² = |m1 - m2|² + tr(S1) + tr(S2) - 2 tr((S1 S2)^½)

With S = L Lᵀ the last term is the sum of the singular values of L1ᵀ L2: no square root of a matrix that need not be
symmetric, no iteration that may diverge, nothing added to the diagonal. A rank-deficient covariance only has a
narrower L. Where there are fewer features than dimensions, the centred features themselves are such an L.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import svdvals
from scipy.linalg.lapack import dpocon

from pipeline.core.errors import PipelineError


class Moments:
    """Streaming mean and covariance of features, in float64: memory does not grow with their number.

    Sums are taken around the first batch's mean, so that features far from 0 lose no digits. `merge` joins the
    moments of two shards.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift = self._sum = self._products = np.zeros(0)

    def add(self, features: np.ndarray) -> None:
        """Take in features (N, D), of any float type."""
        features = np.asarray(features, dtype=np.float64)
        if not np.isfinite(features).all():
            raise PipelineError("the features hold NaN or infinite values: the images or the weights are damaged")
        if not self.count:
            self._shift = features.mean(axis=0)
            self._sum, self._products = np.zeros_like(self._shift), np.zeros((features.shape[1],) * 2)
        centred = features - self._shift
        self.count += len(centred)
        self._sum += centred.sum(axis=0)
        self._products += centred.T @ centred

    def merge(self, other: "Moments") -> None:
        """Take in all that `other` has seen."""
        if not self.count:
            self.count, self._shift = other.count, other._shift.copy()
            self._sum, self._products = other._sum.copy(), other._products.copy()  # `add` changes these in place
        elif other.count:
            gap = other._shift - self._shift
            crossed = np.outer(other._sum, gap)
            self._products = self._products + other._products + crossed + crossed.T + other.count * np.outer(gap, gap)
            self._sum = self._sum + other._sum + other.count * gap
            self.count += other.count

    @property
    def mean(self) -> np.ndarray:
        """(D,)"""
        return self._shift + self._sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), divided by N - 1 as np.cov does; N must be at least 2."""
        if self.count < 2:
            raise PipelineError(f"a covariance needs at least 2 images, got {self.count}")
        return (self._products - np.outer(self._sum, self._sum) / self.count) / (self.count - 1)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian fitted to `count` features: mean (D,) and a factor L (D, R) of its covariance L Lᵀ, float64."""

    mean: np.ndarray
    factor: np.ndarray
    count: int

    @staticmethod
    def from_features(features: np.ndarray) -> "Gaussian":
        """Fit to features (N, D), N at least 2, by whichever way is the cheaper."""
        count, dim = features.shape
        if 2 <= count <= dim and np.isfinite(features).all():
            mean = features.mean(axis=0, dtype=np.float64)
            return Gaussian(mean, (features - mean).T / np.sqrt(count - 1), count)
        moments = Moments()
        for start in range(0, count, 4096):
            moments.add(features[start : start + 4096])
        return Gaussian.from_moments(moments)

    @staticmethod
    def from_moments(moments: Moments) -> "Gaussian":
        return Gaussian(moments.mean, factorise(moments.covariance), moments.count)

    @cached_property
    def trace(self) -> float:
        """The trace of the covariance."""
        return float(np.sum(self.factor**2))


def factorise(covariance: np.ndarray) -> np.ndarray:
    """L (D, R) with L Lᵀ = `covariance`: by Cholesky where it is far from singular, else by eigenvalues.

    Of these, those that are 0 within rounding are left out. Cholesky is faster, but near a singular matrix its rounding
    would count.
    """
    try:
        root = np.linalg.cholesky(covariance)
        reciprocal_condition, _ = dpocon(root, np.linalg.norm(covariance, 1), uplo="L")
        if reciprocal_condition > 1e-12:
            return root
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
    factor: np.ndarray = vectors[:, kept] * np.sqrt(values[kept])
    return factor


def frechet_distance(
    first: Gaussian, second: Gaussian, singular_values: Callable[[np.ndarray], np.ndarray] = svdvals
) -> float:
    """The squared Fréchet distance, as every FID is; for equal Gaussians 0 up to rounding, of either sign.

    `singular_values` of a matrix (R, S) may be those of a faster way than the exact one.

    >>> one = Gaussian(np.zeros(1), np.ones((1, 1)), 2)
    >>> frechet_distance(one, Gaussian(np.full(1, 3.0), np.full((1, 1), 2.0), 2))     # (0 - 3)² + (1 - 2)²
    10.0
    """
    gap = first.mean - second.mean
    shared = singular_values(first.factor.T @ second.factor).sum()
    return float(gap @ gap) + first.trace + second.trace - 2 * float(shared)
