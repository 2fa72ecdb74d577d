"""Distances to the nearest training image, against loops, for samples that are honest, copied or far off."""

import numpy as np
import pytest

from pipeline.metrics.memorisation import closest_pairs, copies, memorisation, nearest_ratio
from pipeline.metrics.sampling_error import strata
from pipeline.metrics.types import Estimate, NotAvailable
from tests.metrics.comparisons import comparison


def clusters(count: int, seed: int, dim: int = 8) -> np.ndarray:
    """float32 features (N, D) around four centres far from 0."""
    source = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(10, 2, size=(4, dim))
    return (centres[source.integers(0, 4, count)] + source.normal(size=(count, dim))).astype(np.float32)


def nearest_distances(images: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.array([np.linalg.norm(real.astype(np.float64) - image, axis=1).min() for image in images])


def test_against_the_definitions() -> None:
    real, generated, held_out = clusters(150, 0), clusters(120, 1) * np.float32(1.02), clusters(100, 2)
    got = memorisation(comparison(real, generated, held_out))
    ours, theirs = nearest_distances(generated, real), nearest_distances(held_out, real)
    assert got.keys() == {"nearest_ratio", "copies", "held_out_duplicates"}
    assert got["held_out_duplicates"] == Estimate(0.0)
    assert got["nearest_ratio"].value == pytest.approx(np.median(ours) / np.median(theirs), rel=1e-6)
    near = np.sum(ours < np.quantile(theirs, 0.01))
    assert got["copies"].value == pytest.approx(near / 120, rel=1e-12)
    assert got["copies"].error is None and near < 5


def test_by_hand() -> None:
    held_out = np.arange(101) + 10.0  # median 60, 1% quantile 11
    got = nearest_ratio(np.array([3.0, 15.0, 27.0]), held_out, strata(None, 3))
    assert got.value == pytest.approx(0.25, rel=1e-12)
    found = copies(np.tile([10.0, 11.0, 10.99, 12.0, 200.0, 0.0, 50.0, 11.01], 2), held_out, strata(None, 16))
    assert found.value == 3 / 8  # 11 itself is not below it
    assert found.error == pytest.approx(np.sqrt(15 / 64 / 15), rel=1e-12)
    assert copies(np.full(9, 40.0), held_out, strata(None, 9)) == Estimate(0.0)
    assert nearest_ratio(np.full(9, 40.0), np.full(7, 20.0), strata(None, 9)) == Estimate(2.0, 0.0)


@pytest.mark.parametrize("scale", [0.2, 0.5])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_errors_are_those_of_fresh_samples(scale: float, labelled: bool) -> None:
    source = np.random.default_rng(5)
    held_out, labels = source.lognormal(2, 1, size=200), np.arange(400) % 2
    members = strata(labels if labelled else None, 400)
    draws = [scale * source.lognormal(2 - labelled * labels, 1) for _ in range(200)]
    for metric in (nearest_ratio, copies):
        found = [metric(draw, held_out, members) for draw in draws]
        spread = np.std([estimate.value for estimate in found], ddof=1)
        errors = [estimate.error for estimate in found if estimate.error is not None]
        assert len(errors) == 200 and 0.85 < np.mean(errors) / spread < 1.2, metric


def test_the_same_numbers_twice() -> None:
    first, second = (memorisation(comparison(clusters(60, 0), clusters(50, 1), clusters(40, 2))) for _ in range(2))
    assert first == second


def test_honest_samples_are_like_held_out_ones() -> None:
    got = memorisation(comparison(clusters(800, 0), clusters(2000, 1), clusters(2000, 2)))
    ratio, share = got["nearest_ratio"], got["copies"]
    assert ratio.error is not None and share.error is not None
    assert ratio.value == pytest.approx(1, abs=4 * ratio.error) and ratio.error < 0.02
    assert share.value == pytest.approx(0.01, abs=0.008) and share.error < 0.004


def test_copies_are_seen_and_far_samples_have_none() -> None:
    real, held_out = clusters(300, 0), clusters(200, 2)
    half = np.concatenate([real[:40], clusters(40, 1)])
    assert memorisation(comparison(real, half, held_out))["copies"].value == pytest.approx(0.5, abs=0.03)
    copied = memorisation(comparison(real, real[10:70] + np.float32(0.01), held_out))
    assert copied["copies"].value == 1
    # 0.01 in each of 8 dimensions, against a held-out median of about 2
    expected = 0.01 * np.sqrt(8) / np.median(nearest_distances(held_out, real))
    assert copied["nearest_ratio"].value == pytest.approx(expected, rel=1e-3)  # 10 + 0.01 rounds
    far = memorisation(comparison(real, clusters(50, 1) + np.float32(100), held_out))
    assert far["copies"].value == 0
    assert far["nearest_ratio"].value > 50


def test_without_held_out_images_it_is_not_available() -> None:
    with pytest.raises(NotAvailable, match=r"^no held-out images$"):
        memorisation(comparison(clusters(20, 0), clusters(20, 1), None))
    with pytest.raises(NotAvailable, match=r"^all held-out images are training images$"):
        memorisation(comparison(clusters(20, 0), clusters(20, 1), clusters(20, 0)[:9]))


@pytest.mark.parametrize("duplicates", [0, 10, 11, 100, 500, 999])
def test_duplicates_between_the_splits_silence_nothing(duplicates: int) -> None:
    real, honest = clusters(1000, 0), clusters(1000 - duplicates, 2)
    held_out = np.concatenate([real[:duplicates], honest])
    copied = memorisation(comparison(real, real[::-1].copy(), held_out))
    assert copied["copies"].value == 1
    assert copied["nearest_ratio"].value == 0
    assert copied["held_out_duplicates"] == Estimate(float(duplicates))
    half = memorisation(comparison(real, np.concatenate([real[:50], clusters(50, 1)]), held_out))
    alone = memorisation(comparison(real, np.concatenate([real[:50], clusters(50, 1)]), honest))
    assert half["copies"] == alone["copies"] and half["nearest_ratio"] == alone["nearest_ratio"]


def test_copies_need_not_be_equal_to_the_last_bit() -> None:
    real = clusters(300, 0)
    rounded = real + (1e-6 * np.random.default_rng(3).normal(size=real.shape)).astype(np.float32)
    assert (rounded != real).any(axis=1).sum() > 200
    got = memorisation(comparison(real, rounded, np.concatenate([rounded[:100], clusters(200, 2)])))
    assert got["copies"].value == 1 and got["held_out_duplicates"].value == 100


def test_near_images_are_not_taken_for_equal_ones() -> None:
    real = np.array([[0.0], [1000.0]], np.float32)
    held_out = np.array([[0.009], [0.011], [900.0]], np.float32)  # equal: up to 1e-4 of the largest distance, 100
    assert memorisation(comparison(real, real, held_out))["held_out_duplicates"].value == 1


def test_equal_images_are_copies_where_the_quantile_is_small() -> None:
    held_out = np.array([0.0, 0.0, *np.full(98, 5.0)])  # its 1% quantile is 0
    assert copies(np.array([0.0, 0.0, 0.5]), held_out, strata(None, 3)).value == 2 / 3
    assert copies(np.array([0.0, 0.2, 0.6]), np.array([1e-9, 5.0]), strata(None, 3), equal=0.2).value == 2 / 3


def test_closest_pairs() -> None:
    real, generated = clusters(80, 0), clusters(60, 1)
    generated[[7, 33]] = real[[50, 4]]
    rows, columns, distances = closest_pairs(comparison(real, generated, None), 10)
    gaps = np.sqrt(((generated[:, None].astype(np.float64) - real[None]) ** 2).sum(axis=2))
    order = np.argsort(gaps.min(axis=1), kind="stable")[:10]
    assert rows.tolist() == order.tolist()
    assert rows[:2].tolist() == [7, 33] and columns[:2].tolist() == [50, 4] and distances[:2].tolist() == [0, 0]
    np.testing.assert_array_equal(columns, gaps.argmin(axis=1)[order])
    np.testing.assert_allclose(distances, gaps.min(axis=1)[order], rtol=1e-6)


def test_closest_pairs_are_as_many_as_there_are() -> None:
    rows, columns, distances = closest_pairs(comparison(clusters(30, 0), clusters(4, 1)), 9)
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    assert len(columns) == len(distances) == 4
    assert (np.diff(distances) > 0).all()
