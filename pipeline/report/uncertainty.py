"""How sure a number is: the spread over training seeds and the error of sampling, which are never mixed.

Seeds say what training again would give; the sampling error says what other samples of the same generator would.
"""

import math
import statistics
from collections.abc import Sequence

from scipy import stats

CONFIDENCE = 0.95
NORMAL = 1.96  # of a normal distribution 95% lies within so many standard deviations of its mean


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of the mean over seeds by Student's t; None for one seed, of which nothing can be said.

    mean ± t s / sqrt(n), with s the sample standard deviation and t the 0.975 quantile at n - 1 degrees of freedom.
    """
    if len(values) < 2:
        return None
    mean, error = statistics.fmean(values), math.sqrt(statistics.variance(values) / len(values))
    reach = _quantile(len(values) - 1) * error
    return mean - reach, mean + reach


def welch_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of mean(second) - mean(first), each of 2 values or more, whose variances may differ.

    Welch 1947, Biometrika 34, with Satterthwaite's degrees of freedom
    (a + b)² / (a² / (n - 1) + b² / (m - 1)), a and b being the variances of the two means.
    """
    gap = statistics.fmean(second) - statistics.fmean(first)
    a, b = (statistics.variance(values) / len(values) for values in (first, second))
    if a + b == 0:  # every seed gave the same: the formula would divide by 0
        return gap, gap
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    reach = _quantile(freedom) * math.sqrt(a + b)
    return gap - reach, gap + reach


def mean_error(errors: Sequence[float | None]) -> float | None:
    """The sampling error of a mean of independently sampled values; None if that of one was not estimated."""
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if known and len(known) == len(errors) else None


def typical_error(errors: Sequence[float | None]) -> float | None:
    """The sampling error of a single one among values, as the root of the mean square; None if one is not known."""
    mean = mean_error(errors)
    return None if mean is None else mean * math.sqrt(len(errors))


def sampling_noise(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """What a difference of two means must exceed to be more than sampling noise: 1.96 sqrt(e1² + e2²)."""
    one, other = mean_error(first), mean_error(second)
    return None if one is None or other is None else NORMAL * math.hypot(one, other)


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
