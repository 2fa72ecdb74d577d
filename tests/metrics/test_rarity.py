"""The rarity score, against the definition by loops and by hand."""

import numpy as np
import pytest

from pipeline.metrics import neighbours
from pipeline.metrics.prdc import prdc
from pipeline.metrics.rarity import rarities, rarity
from pipeline.metrics.types import Estimate, FeatureSet, NotAvailable
from tests.metrics.comparisons import comparison

REAL = np.array([[0.0], [1.0], [2.0], [3.0], [10.0], [20.0], [40.0]], np.float32)
# Each one's third nearest other is 3, 2, 2, 3, 9, 18 and 37 away.


def by_loops(real: np.ndarray, generated: np.ndarray, k: int = 3) -> np.ndarray:
    radii = [np.sort(np.linalg.norm(real - image, axis=1))[k] for image in real]
    found = []
    for image in generated:
        holding = [
            radius for centre, radius in zip(real, radii, strict=True) if np.linalg.norm(image - centre) < radius
        ]
        found.append(min(holding, default=np.inf))
    return np.array(found)


def test_by_hand() -> None:
    generated = np.array([[1.5], [3.5], [-2.5], [12.0], [50.0], [90.0]], np.float32)
    expected = np.array([2, 2, 3, 9, 37, np.inf])
    np.testing.assert_array_equal(rarities(FeatureSet(REAL), generated), expected)
    found = rarity(comparison(REAL, generated))["rarity"]
    assert found.value == pytest.approx(53 / 5, rel=1e-6)
    assert found.error == pytest.approx(np.std([2, 2, 3, 9, 37], ddof=1) / np.sqrt(5), rel=1e-6)


def test_against_the_definition_and_by_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(0)
    real = (source.normal(size=(120, 3)) * 2).astype(np.float32)
    generated = (source.normal(size=(80, 3)) * 2.5).astype(np.float32)
    expected = by_loops(real, generated)
    assert 10 < np.isfinite(expected).sum() < 75
    np.testing.assert_allclose(rarities(FeatureSet(real), generated), expected, rtol=1e-6)
    monkeypatch.setattr(neighbours, "ROWS", 7)
    monkeypatch.setattr(neighbours, "COLUMNS", 11)
    np.testing.assert_allclose(rarities(FeatureSet(real), generated), expected, rtol=1e-6)


def test_copies_lie_outside_the_balls_that_they_are_on_the_border_of() -> None:
    """Features far from 0, where rounding is large: a copy of an image's third neighbour is not in its ball."""
    source = np.random.default_rng(1)
    real = (1000 + source.normal(size=(60, 8))).astype(np.float32)
    expected = by_loops(real.astype(np.float64), real.astype(np.float64))
    np.testing.assert_allclose(rarities(FeatureSet(real), real), expected, rtol=1e-6)


def test_as_many_images_have_one_as_precision_counts() -> None:
    source = np.random.default_rng(2)
    real, generated = (source.normal(size=(90, 4)).astype(np.float32) for _ in range(2))
    share = np.isfinite(rarities(FeatureSet(real), generated)).mean()
    assert 0 < share == prdc(comparison(real, generated))["precision_k3"].value < 1


def test_classes_are_strata() -> None:
    generated, labels = np.array([[0.2], [0.3], [11.0], [11.5], [99.0]], np.float32), np.array([0, 0, 1, 1, 1])
    found = rarity(comparison(REAL, (generated, labels)))["rarity"]
    assert found == Estimate(pytest.approx(5.5, rel=1e-6), 0.0)  # 2, 2 and 9, 9


def test_where_none_lies_among_the_real_ones() -> None:
    with pytest.raises(NotAvailable, match="no generated image lies among the real ones"):
        rarity(comparison(REAL, np.full((4, 1), 500, np.float32)))
