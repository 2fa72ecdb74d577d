"""MIND, against its closed forms and against another way to compute it."""

import numpy as np
import pytest

from pipeline.core.metric_names import further_name
from pipeline.metrics import mind as module
from pipeline.metrics.mind import DIRECTIONS, mind, monge_distance, random_directions
from tests.metrics.comparisons import comparison


def normal(count: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def value(real: np.ndarray, generated: np.ndarray) -> float:
    found = mind(comparison(real, generated))
    assert list(found) == ["mind"] and found["mind"].error is None
    return found["mind"].value


def test_a_shift_has_a_closed_form() -> None:
    """3 d mu², mu the shift of each coordinate: exactly the mean over directions of (u·shift)², times 3 d."""
    real = normal(300, 40, 0)
    shifted = real + np.float32(0.5)
    directions = random_directions(DIRECTIONS, 40, 7).astype(np.float64)
    exact = 3 * 40 * np.mean((directions @ np.full(40, 0.5)) ** 2)
    assert monge_distance(real, shifted, directions.astype(np.float32)) == pytest.approx(exact, rel=1e-4)
    assert value(real, shifted) == pytest.approx(3 * 40 * 0.25, rel=0.1)


def test_other_samples_of_a_shifted_distribution() -> None:
    """As in the authors' own check: within 10% of 3 d mu² at 4,000 images."""
    assert value(normal(4000, 64, 1), normal(4000, 64, 2) + np.float32(1)) == pytest.approx(3 * 64, rel=0.1)


def test_a_change_of_scale_has_a_closed_form() -> None:
    """W² of x and c x along u is (c - 1)² times the mean of (u·x)²: over the sphere the mean of |x|² / d."""
    real = normal(500, 30, 3)
    expected = 3 * (3 - 1) ** 2 * np.mean((real.astype(np.float64) ** 2).sum(axis=1))
    assert value(real, 3 * real) == pytest.approx(expected, rel=0.05)


def test_it_sees_what_mean_and_covariance_do_not() -> None:
    source = np.random.default_rng(4)
    two_points = source.choice([-1.0, 1.0], size=(2000, 3)).astype(np.float32)  # as a Gaussian's: mean 0, variance 1
    assert value(two_points, normal(2000, 3, 5)) > 10 * value(normal(2000, 3, 6), normal(2000, 3, 5))


@pytest.mark.parametrize(("first", "second"), [(6, 4), (7, 5), (12, 3), (1, 9), (5, 5)])
def test_unequal_numbers_against_sets_repeated_to_equal_ones(first: int, second: int) -> None:
    x, y, directions = normal(first, 3, 0), normal(second, 3, 1), random_directions(8, 3, 2)
    many = np.sort(np.repeat(x, second, axis=0) @ directions.T, axis=0)
    others = np.sort(np.repeat(y, first, axis=0) @ directions.T, axis=0)
    expected = 3 * 3 * np.mean((many.astype(np.float64) - others) ** 2)
    assert monge_distance(x, y, directions) == pytest.approx(expected, rel=1e-6)
    assert monge_distance(y, x, directions) == pytest.approx(expected, rel=1e-6)


def test_itself_is_0_in_any_order_and_by_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    real, other = normal(90, 6, 0), normal(70, 6, 1)
    assert value(real, real[::-1]) == 0
    whole = value(real, other)
    monkeypatch.setattr(module, "TOGETHER", 7)
    monkeypatch.setattr(module, "BLOCK", 13)
    assert value(real, other) == pytest.approx(whole, rel=1e-5)


def test_directions_are_on_the_sphere_and_the_same_every_time() -> None:
    directions = random_directions(4000, 5, 0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(directions.T @ directions / 4000, np.eye(5) / 5, atol=0.02)
    assert np.array_equal(directions, random_directions(4000, 5, 0))


def test_another_extractors_has_another_name() -> None:
    real = normal(9, 2, 0)
    assert list(mind(comparison(real, real, metric="fd_net"))) == ["md_net"]
    assert [further_name(key, "net", "fd_net") for key in ("md_net", "vendi")] == ["md_net", "net/vendi"]
    assert further_name("mind_tf", "inception_tf", "fid_tf") == "mind_tf"
