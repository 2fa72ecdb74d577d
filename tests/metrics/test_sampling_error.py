"""Standard errors against loops, hand arithmetic, and the spread over fresh samples."""

import numpy as np
import pytest

from pipeline.metrics.sampling_error import mean_error, median_error, strata
from tests.metrics.hits import filled, naive_error


def test_strata() -> None:
    assert strata(None, 4).tolist() == [0, 0, 0, 0]
    assert strata(np.array([9, 2, 9, 2, 2]), 5).tolist() == [1, 0, 1, 0, 0]
    assert strata(np.array([9, 2, 9, 5, 7]), 5).tolist() == [1, 0, 1, 0, 0]
    assert strata(np.array([9, 2, 9, 2, 2]), 5, least=3).tolist() == [0, 1, 0, 1, 1]
    assert strata(np.arange(5), 5).tolist() == [0, 0, 0, 0, 0]


def test_the_error_of_a_mean() -> None:
    values = np.array([1.0, 4.0, 7.0, 20.0, 24.0])
    one, two = np.zeros(5, np.int64), np.array([0, 0, 0, 1, 1])
    assert mean_error(values, one) == pytest.approx(values.std(ddof=1) / np.sqrt(5), rel=1e-12)
    assert mean_error(values, two) == pytest.approx(np.sqrt(3 * 9 + 2 * 8) / 5, rel=1e-12)  # variances 9 and 8
    assert mean_error(values > 5, one) == pytest.approx(np.sqrt(0.3 / 5), rel=1e-12)
    assert mean_error(np.full(5, 3.0), two) == 0


@pytest.mark.parametrize("labelled", [False, True])
def test_the_error_of_a_median_is_that_of_fresh_values(labelled: bool) -> None:
    source = np.random.default_rng(0)
    labels = np.arange(400) % 2
    centres = np.array([0.0, 1.5])[labels]
    draws = [np.exp(centres + source.normal(size=400)) for _ in range(400)]
    errors = [median_error(draw, strata(labels if labelled else None, 400)) for draw in draws]
    ratio = np.mean(errors) / np.std([np.median(draw) for draw in draws], ddof=1)
    assert 0.9 < ratio < 1.15 if labelled else 1.1 < ratio < 1.5  # classes are not drawn afresh


def test_the_error_of_a_median_by_hand() -> None:
    values = np.arange(101.0)
    # The share below the median is 50/101 with standard error 0.05: two of them are 10 places to either side.
    share = np.sqrt(50 * 51 / 101**2 / 100)
    assert median_error(values, np.zeros(101, np.int64)) == pytest.approx(100 * share, rel=1e-12)
    assert median_error(np.full(9, 2.0), np.zeros(9, np.int64)) == 0
    assert median_error(np.array([1.0, 5.0]), np.zeros(2, np.int64)) == 1  # at most all that there is


@pytest.mark.parametrize("rows", [3, 50])
@pytest.mark.parametrize("columns", [7, 80])
@pytest.mark.parametrize("chance", [0.01, 0.03, 0.3])
def test_hits_against_the_definition(rows: int, columns: int, chance: float) -> None:
    source = np.random.default_rng(1)
    hit = np.repeat(source.random((50, 40)) < chance, 2, axis=1)  # every target has a twin
    members = np.arange(50) % 3
    found = filled(hit, rows, columns)
    np.testing.assert_array_equal(found.hit, hit.any(axis=0))
    assert found.share == hit.any(axis=0).mean()
    expected = naive_error(hit, members)
    assert found.error(members) == (None if expected is None else pytest.approx(expected, rel=1e-12))
    assert chance > 0.1 or expected is not None


def test_hits_by_hand() -> None:
    hit = np.zeros((4, 10), bool)
    hit[0, :3] = hit[1, 3] = hit[2, 4] = hit[3, 4] = True
    # Image 0 alone hits three targets and image 1 alone one; 2 and 3 together hit one; 4 are hit once, by 4 images.
    expected = (9 + 1) * 63 / 64 - 1 * 57 / 64 - 4**2 / 4
    assert filled(hit).error(np.zeros(4, np.int64)) == pytest.approx(np.sqrt(expected) / 10, rel=1e-12)
    apart = (9 + 1) * 63 / 64 - 1 * 57 / 64 - 3**2 / 2 - 1**2 / 2
    assert filled(hit).error(np.array([0, 1, 0, 1])) == pytest.approx(np.sqrt(apart) / 10, rel=1e-12)


def test_without_hits_the_error_cannot_be_told() -> None:
    assert filled(np.zeros((5, 8), bool)).error(np.zeros(5, np.int64)) is None
    assert filled(np.ones((5, 8), bool)).share == 1


@pytest.mark.parametrize(("images", "width"), [(20, 0.05), (60, 0.03), (400, 0.01)])
def test_the_error_of_hits_is_that_of_fresh_images(images: int, width: float) -> None:
    # Targets are intervals of the circle, many of which overlap; images are points of it.
    targets = np.random.default_rng(2).random(300)
    shares, variances = [], []
    for seed in range(300):
        points = np.random.default_rng(100 + seed).random(images) ** 2  # few of them near 1
        found = filled(np.abs((points[:, None] - targets + 0.5) % 1 - 0.5) < width / 2)
        shares.append(found.share)
        variances.append((found.error(np.zeros(images, np.int64)) or 0) ** 2)
    assert 0.3 < np.mean(shares) < 0.97
    assert 0.85 < np.sqrt(np.mean(variances)) / np.std(shares, ddof=1) < 1.2
