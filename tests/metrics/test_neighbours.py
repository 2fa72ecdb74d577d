"""Nearest neighbours against all differences in float64, however the features are cut into blocks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import PipelineError
from pipeline.metrics import neighbours
from pipeline.metrics.neighbours import distance_blocks, exact_distances, nearest


def clusters(count: int, dim: int = 12, seed: int = 0) -> np.ndarray:
    """float32 features (N, D) around five centres far from 0."""
    source = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(20, 4, size=(5, dim))
    return (centres[source.integers(0, 5, count)] + source.normal(size=(count, dim))).astype(np.float32)


def naive(queries: np.ndarray, bank: np.ndarray, k: int, exclude_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    gaps = queries[:, None].astype(np.float64) - bank[None]
    distances = np.sqrt((gaps**2).sum(axis=2))
    if exclude_self:
        np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def assert_equal(got: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(got[1], expected[1])


def test_by_hand() -> None:
    bank = np.array([[0, 0], [3, 4], [6, 8], [0, 1]], np.float32)
    distances, indices = nearest(np.array([[0, 0], [3, 5]], np.float32), bank, 3)
    np.testing.assert_allclose(distances, [[0, 1, 5], [1, np.sqrt(18), 5]], rtol=1e-6)
    assert indices.tolist() == [[0, 3, 1], [1, 2, 3]]
    assert (distances.dtype, indices.dtype) == (np.float32, np.int64)
    distances, indices = nearest(bank, bank, 1, exclude_self=True)
    np.testing.assert_allclose(distances, [[1], [np.sqrt(18)], [5], [1]], rtol=1e-6)
    assert indices.tolist() == [[3], [3], [1], [0]]


def cut(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    monkeypatch.setattr(neighbours, "ROWS", rows)
    monkeypatch.setattr(neighbours, "COLUMNS", columns)


@pytest.mark.parametrize("block", [(7, 7), (30, 4), (5, 40), (64, 64), (2048, 1024)])
@pytest.mark.parametrize("k", [1, 5])
def test_whatever_the_block(monkeypatch: pytest.MonkeyPatch, block: tuple[int, int], k: int) -> None:
    cut(monkeypatch, *block)
    queries, bank = clusters(50), clusters(83, seed=1)
    assert_equal(nearest(queries, bank, k), naive(queries, bank, k))
    assert_equal(nearest(bank, bank, k, exclude_self=True), naive(bank, bank, k, exclude_self=True))


@pytest.mark.parametrize("pairs", [1, 3, 512])
def test_whatever_the_pairs_in_memory(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    monkeypatch.setattr(neighbours, "PAIRS", pairs)
    assert_equal(nearest(clusters(11), clusters(20, seed=1), 4), naive(clusters(11), clusters(20, seed=1), 4))


def test_the_features_as_they_come(tmp_path: Path) -> None:
    queries, bank = clusters(30), clusters(40, seed=1)
    np.save(tmp_path / "bank.npy", bank)
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    assert_equal(nearest(queries, mapped, 3), naive(queries, bank, 3))
    assert_equal(nearest(queries.astype(np.float64), bank, 3), naive(queries, bank, 3))
    np.testing.assert_array_equal(mapped, clusters(40, seed=1))


def test_as_few_rows_as_there_may_be() -> None:
    bank = clusters(6)
    assert_equal(nearest(bank, bank, 5, exclude_self=True), naive(bank, bank, 5, exclude_self=True))
    assert_equal(nearest(bank, bank, 6), naive(bank, bank, 6))
    for k, exclude_self in [(6, True), (7, False), (0, False)]:
        with pytest.raises(AssertionError, match=f"got {k}"):
            nearest(bank, bank, k, exclude_self=exclude_self)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_copy_is_at_distance_zero(offset: float) -> None:
    bank = clusters(200) + np.float32(offset)
    distances, indices = nearest(bank[50:90], bank, 1)
    assert (distances == 0).all()
    assert indices[:, 0].tolist() == list(range(50, 90))


def test_a_close_neighbour_is_measured_by_differences() -> None:
    # 1e-4 is lost in float32 beside lengths of about 30; the nearest of 8 such is found all the same.
    bank = clusters(100)
    steps = np.arange(1, 9, dtype=np.float32)[:, None] * np.float32(2**-13)
    distances, indices = nearest(bank[:1], np.concatenate([bank[1:], bank[:1] + steps[::-1]]), 3)
    np.testing.assert_allclose(distances[0], np.sqrt(12) * steps[:3, 0], rtol=0.02)  # + step rounds at 20
    assert indices[0].tolist() == [106, 105, 104]


@pytest.mark.parametrize("block", [4, 16, 2048])
def test_equals_come_in_the_order_of_the_indices(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    cut(monkeypatch, block, block)
    monkeypatch.setattr(neighbours, "SPARE", 1)
    bank = np.zeros((60, 3), np.float32)
    bank[::3] = 5.0
    distances, indices = nearest(np.full((2, 3), 5, np.float32), bank, 4)
    assert (distances == 0).all()
    assert indices.tolist() == [[0, 3, 6, 9]] * 2
    _, indices = nearest(bank, bank, 2, exclude_self=True)
    assert indices[:6].tolist() == [[3, 6], [2, 4], [1, 4], [0, 6], [1, 2], [1, 2]]


def test_blocks_cover_every_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8, 4)
    a, b = clusters(20), clusters(9, seed=1)
    expected = ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=2)
    seen = np.zeros((20, 9))
    for rows, columns, squared, margin in distance_blocks(a, b, "cpu"):
        seen[rows, columns] += 1
        assert squared.dtype == torch.float32
        assert np.abs(squared.numpy() - expected[rows, columns]).max() <= margin < 0.1
    assert (seen == 1).all()


@pytest.mark.parametrize("dim", [3, 300, 2048])
def test_the_margin_holds(dim: int) -> None:
    a, b = clusters(60, dim), clusters(70, dim, seed=1)
    b[:20] = a[:20]  # where the product's form cancels
    exact = ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=2)
    (block,) = distance_blocks(a, b, "cpu")
    error = np.abs(block.squared.numpy() - exact).max()
    assert 0 < error < block.margin / 3
    assert (block.squared >= 0).all()


def test_exact_distances() -> None:
    a, b = clusters(9), clusters(7, seed=1)
    rows, columns = np.array([8, 0, 8]), np.array([0, 6, 3])
    expected = np.linalg.norm(a[rows].astype(np.float64) - b[columns], axis=1)
    np.testing.assert_array_equal(exact_distances(a, b, rows, columns), expected.astype(np.float32))
    np.testing.assert_array_equal(exact_distances(b, a, columns, rows), expected.astype(np.float32))
    assert exact_distances(a, a, np.arange(9), np.arange(9)).tolist() == [0.0] * 9


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("spoil", [lambda q, b: q, lambda q, b: b], ids=["queries", "bank"])
def test_values_that_are_no_numbers_are_refused(spoil: Callable[..., np.ndarray], value: float) -> None:
    queries, bank = clusters(10), clusters(20)
    spoil(queries, bank)[-1, 0] = value
    with pytest.raises(PipelineError, match="features hold NaN or infinite values"):
        nearest(queries, bank, 2)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_on_an_accelerator(device: str) -> None:
    if not getattr(torch, device).is_available():
        pytest.skip(f"no {device}")
    assert_equal(nearest(clusters(50), clusters(83, seed=1), 5, device), naive(clusters(50), clusters(83, seed=1), 5))
