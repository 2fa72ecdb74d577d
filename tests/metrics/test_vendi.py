"""The Vendi score, where it is known exactly, and against the eigenvalues of the kernel of all images."""

import numpy as np
import pytest

from pipeline.metrics import vendi as module
from pipeline.metrics.types import FeatureSet, NotAvailable
from pipeline.metrics.vendi import vendi, vendi_score
from tests.metrics.comparisons import comparison


def by_the_kernel(features: np.ndarray) -> float:
    """The definition (equation 1): all cosines, (N, N)."""
    cosines = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in features] for a in features]
    shares = np.linalg.eigvalsh(np.array(cosines) / len(features))
    shares = shares[shares > 1e-12]
    return float(np.exp(-np.sum(shares * np.log(shares))))


@pytest.mark.parametrize(("count", "dim"), [(12, 5), (5, 12), (9, 9)])
def test_against_the_definition(count: int, dim: int) -> None:
    features = np.random.default_rng(count).normal(0.5, 1, size=(count, dim))
    assert 1.5 < by_the_kernel(features) < 9
    assert vendi_score(features.astype(np.float32)) == pytest.approx(by_the_kernel(features), rel=1e-5)


@pytest.mark.parametrize("times", [1, 5])
def test_images_that_are_alike_or_at_right_angles(times: int) -> None:
    """k orthogonal kinds with shares p: exp of the entropy of p, however long the vectors are."""
    kinds = np.repeat(np.diag([1.0, 2.0, 30.0]), [3 * times, 2 * times, times], axis=0).astype(np.float32)
    shares = np.array([1 / 2, 1 / 3, 1 / 6])
    expected = np.exp(-(shares * np.log(shares)).sum())  # 2.75
    assert vendi_score(kinds) == pytest.approx(expected, rel=1e-12)
    assert vendi_score(np.ones((7 * times, 4))) == pytest.approx(1, abs=1e-9)


def test_it_is_taken_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    whole = vendi_score(features)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert vendi_score(features) == pytest.approx(whole, rel=1e-12)


def test_it_is_that_of_the_generated_images() -> None:
    generated = np.eye(4, dtype=np.float32)
    found = vendi(comparison(np.ones((9, 4), np.float32), generated))
    assert found["vendi"].value == pytest.approx(4, rel=1e-12) and found["vendi"].error is None


def test_what_is_needed() -> None:
    with pytest.raises(NotAvailable, match="all 0"):
        vendi_score(np.vstack([np.eye(3), np.zeros((2, 3))]))
    statistics = FeatureSet(None, gaussian=FeatureSet(np.eye(3, dtype=np.float32)).gaussian)
    with pytest.raises(NotAvailable, match="statistics"):
        vendi(comparison(np.eye(3, dtype=np.float32), statistics))
