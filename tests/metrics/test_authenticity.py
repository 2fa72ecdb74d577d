"""AuthPct, against the definition by loops and by hand."""

import numpy as np
import pytest

from pipeline.metrics.authenticity import authenticity
from pipeline.metrics.types import Estimate, FeatureSet, NotAvailable
from tests.metrics.comparisons import comparison

REAL = np.array([[0.0], [2.0], [10.0], [14.0], [20.0], [40.0]], np.float32)  # nearest others: 2, 2, 4, 4, 6, 20 away


def test_by_hand() -> None:
    generated = np.array([[-3.0], [-1.0], [-2.0], [5.0], [22.0], [70.0], [59.0], [0.0]], np.float32)
    # 3 > 2, 1 < 2, 2 = 2 is no more, 3 > 2, 2 < 6, 30 > 20, 19 < 20, 0 < 2
    assert authenticity(comparison(REAL, generated)) == {"auth_pct": Estimate(37.5)}  # 3 of 8: too few for an error


def test_against_the_definition() -> None:
    source = np.random.default_rng(0)
    real, generated = source.normal(size=(90, 4)), source.normal(size=(70, 4)) * 1.3
    authentic = []
    for image in generated:
        away = np.linalg.norm(real - image, axis=1)
        nearest = int(away.argmin())
        others = np.linalg.norm(np.delete(real, nearest, axis=0) - real[nearest], axis=1)
        authentic.append(others.min() < away[nearest])
    share = np.mean(authentic)
    assert 0.4 < share < 0.9
    found = authenticity(comparison(real.astype(np.float32), generated.astype(np.float32)))["auth_pct"]
    assert found.value == pytest.approx(100 * share, rel=1e-12)
    assert found.error == pytest.approx(100 * np.sqrt(share * (1 - share) / 69), rel=1e-9)


def test_copies_are_not_authentic_and_what_is_far_off_is() -> None:
    source = np.random.default_rng(1)
    real = source.normal(size=(200, 5)).astype(np.float32)
    assert authenticity(comparison(real, real[:50] + np.float32(1e-3)))["auth_pct"].value == 0
    assert authenticity(comparison(real, real[:50] + np.float32(100)))["auth_pct"].value == 100


def test_a_training_image_that_is_there_twice_makes_others_authentic() -> None:
    """Its nearest other is 0 away: only its copies are not authentic."""
    real = np.vstack([REAL, REAL])
    assert authenticity(comparison(real, REAL[:2] + np.array([[0.0], [0.5]], np.float32)))["auth_pct"].value == 50


def test_what_is_needed() -> None:
    statistics = FeatureSet(None, gaussian=FeatureSet(REAL).gaussian)
    with pytest.raises(NotAvailable, match="statistics"):
        authenticity(comparison(statistics, REAL))
    with pytest.raises(NotAvailable, match="more than 5 images"):
        authenticity(comparison(REAL[:5], REAL))
