"""CMMD, against the authors' formula written out, and by hand."""

import numpy as np
import pytest

from pipeline.core.metric_names import CLIP, further_name
from pipeline.metrics import EXTRACTORS
from pipeline.metrics import cmmd as module
from pipeline.metrics.cmmd import cmmd, kernel_mean
from pipeline.metrics.types import NotAvailable
from tests.metrics.comparisons import comparison


def unit(count: int, seed: int, dim: int = 8) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(0.3 * (seed + 1), 1, size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.exp(-((p - q) @ (p - q)) / 200) for q in b] for p in a]))

    x, y = x.astype(np.float64), y.astype(np.float64)
    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def value(x: np.ndarray, y: np.ndarray) -> float:
    found = cmmd(comparison(x, y, metric=f"fd_{CLIP}"))
    assert list(found) == ["cmmd"] and found["cmmd"].error is None
    return found["cmmd"].value


@pytest.mark.parametrize(("rows", "columns"), [(2048, 4096), (7, 5)])
def test_against_the_formula(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(module, "COLUMNS", columns)
    x, y = unit(40, 0), unit(30, 1)
    expected = by_loops(x, y)
    assert 0.3 < expected < 5
    assert value(x, y) == pytest.approx(expected, rel=1e-4) == value(y, x)


def test_by_hand() -> None:
    """Two points at right angles: k = exp(-2 / 200), and k(x, x) = 1."""
    x, y = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    assert value(x, y) == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-5)
    assert value(x, np.vstack([x, y])) == pytest.approx(500 * (1 - np.exp(-0.01)), rel=1e-4)
    assert kernel_mean(x, 7 * x) == pytest.approx(np.exp(-36 / 200), rel=1e-6)


def test_itself_is_0() -> None:
    x = unit(100, 0)
    assert abs(value(x, x[::-1])) < 1e-9


def test_only_clips_features_have_one() -> None:
    x = unit(9, 0)
    with pytest.raises(NotAvailable, match="needs the extractor clip_vitl14_336"):
        cmmd(comparison(x, x, metric="fd_dinov2_vitl14"))
    assert CLIP in EXTRACTORS
    other = cmmd(comparison(x, x, metric=f"fd_{CLIP}_01234567"))
    assert list(other) == ["cmmd_01234567"]
    assert further_name("cmmd", CLIP, f"fd_{CLIP}") == "cmmd"
    assert further_name("cmmd_01234567", CLIP, f"fd_{CLIP}_01234567") == "cmmd_01234567"
