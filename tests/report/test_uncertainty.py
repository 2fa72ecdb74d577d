"""Intervals over seeds and sampling errors against hand arithmetic and scipy; numbers as text."""

import statistics

import numpy as np
import pytest
from scipy import stats

from pipeline.report.formatting import decimals, digits, listed, mean_and_std, number
from pipeline.report.uncertainty import mean_error, mean_interval, sampling_noise, typical_error, welch_interval


def test_interval_of_a_mean_by_hand() -> None:
    # n = 3: mean 2, s = 1, t = 4.302653, so 2 ± 4.302653 / sqrt(3)
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    # n = 2: mean 5, s / sqrt(2) = 1, t = 12.706205
    assert mean_interval([4.0, 6.0]) == pytest.approx((5 - 12.706205, 5 + 12.706205), abs=1e-6)
    assert mean_interval([7.0, 7.0, 7.0]) == (7, 7)
    assert mean_interval([7.0]) is None


def test_welch_interval_by_hand() -> None:
    # Both variances 1: se = sqrt(2 / 3), (2/3)² / (2 (1/3)² / 2) = 4 degrees of freedom, t = 2.776445
    assert welch_interval([1, 2, 3], [5, 4, 6]) == pytest.approx((3 - 2.266958, 3 + 2.266958), abs=1e-6)
    # One side does not vary: se = 1 / sqrt(3), 2 degrees of freedom, t = 4.302653
    assert welch_interval([1, 2, 3], [5, 5]) == pytest.approx((3 - 2.484138, 3 + 2.484138), abs=1e-6)
    assert welch_interval([5, 5], [1, 2, 3]) == pytest.approx((-3 - 2.484138, -3 + 2.484138), abs=1e-6)
    assert welch_interval([2, 2], [9, 9]) == (7, 7)


def test_welch_interval_equals_scipys() -> None:
    source = np.random.default_rng(0)
    for n, m in [(2, 2), (2, 7), (5, 3)]:
        a, b = source.normal(3, 1, n).tolist(), source.normal(5, 4, m).tolist()
        theirs = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
        assert welch_interval(a, b) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_sampling_errors_by_hand() -> None:
    assert mean_error([3.0, 4.0]) == 2.5  # sqrt(9 + 16) / 2
    assert typical_error([3.0, 4.0]) == pytest.approx(12.5**0.5, rel=1e-12)
    assert typical_error([6.0]) == mean_error([6.0]) == 6
    assert mean_error([3.0, None]) is mean_error([]) is typical_error([None]) is None
    assert sampling_noise([3.0], [4.0]) == pytest.approx(9.8, rel=1e-12)  # 1.96 * 5
    assert sampling_noise([3.0, 4.0], [6.0]) == pytest.approx(1.96 * 6.5, rel=1e-12)  # sqrt(2.5² + 6²) = 6.5
    assert sampling_noise([3.0], [None]) is sampling_noise([None], [4.0]) is None


def test_numbers_as_text() -> None:
    assert [decimals([value, 500]) for value in (100, 99.9, 1, 0.99, 0.01, 0.0099)] == [1, 2, 2, 4, 4, 6]
    assert decimals([0.0, 250.0]) == 1 and decimals([]) == 2 and decimals([-0.5]) == 4
    assert (number(-1234.56, 1), number(-0.04, 1), number(0.0, 2)) == ("−1,234.6", "0.0", "0.00")
    assert [digits(value) for value in (1234.5, 99.94, 9.996)] == ["1,234", "99.9", "10.00"]
    assert mean_and_std([2.0, 4.0, 6.0], 1) == f"4.0\xa0±\xa0{statistics.stdev([2, 4, 6]):.1f}"
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
