"""Uncertainty of a number: the variation between training seeds, and the sampling error. They are never mixed.

Training seeds show what another training would give; the sampling error shows what other samples of the same generator
would give.
"""

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit

CONFIDENCE = 0.95
NORMAL = 1.96  # 95% of a normal distribution are within so many standard deviations of its mean


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of the mean over seeds by Student's t; None for a single seed.

    mean ± t s / sqrt(n), with s the sample standard deviation and t the 0.975 quantile at n - 1 degrees of freedom.
    """
    if len(values) < 2:
        return None
    mean, error = statistics.fmean(values), math.sqrt(statistics.variance(values) / len(values))
    reach = _quantile(len(values) - 1) * error
    return mean - reach, mean + reach


def welch_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of mean(second) - mean(first). Each has at least 2 values; their variances may differ.

    Welch 1947, Biometrika 34, with Satterthwaite's degrees of freedom
    (a + b)² / (a² / (n - 1) + b² / (m - 1)), a and b being the variances of the two means.
    """
    gap = statistics.fmean(second) - statistics.fmean(first)
    a, b = (statistics.variance(values) / len(values) for values in (first, second))
    if a + b == 0:  # all seeds gave the same value: the formula would divide by 0
        return gap, gap
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    reach = _quantile(freedom) * math.sqrt(a + b)
    return gap - reach, gap + reach


def mean_error(errors: Sequence[float | None]) -> float | None:
    """The sampling error of the mean of independently sampled values; None if one of the errors is unknown."""
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if known and len(known) == len(errors) else None


def typical_error(errors: Sequence[float | None]) -> float | None:
    """The root mean square of sampling errors: that of a typical single value; None if one is unknown."""
    mean = mean_error(errors)
    return None if mean is None else mean * math.sqrt(len(errors))


def sampling_noise(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """A difference of two means above this is more than sampling noise: 1.96 sqrt(e1² + e2²)."""
    one, other = mean_error(first), mean_error(second)
    return None if one is None or other is None else NORMAL * math.hypot(one, other)


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
