"""The kernel distance against hand arithmetic and a double loop over pairs of images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.metrics import kid as kid_module
from pipeline.metrics.kid import kernel_distance, kid
from pipeline.metrics.types import FeatureSet, NotAvailable
from tests.metrics.comparisons import comparison


def draw(count: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, dim)) + shift).astype(np.float32)


def naive(real: np.ndarray, generated: np.ndarray) -> float:
    """The unbiased MMD², pair by pair (Gretton et al. 2012, equation 3)."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(np.dot(x.astype(float), y.astype(float))) / len(x) + 1) ** 3

    n, m = len(real), len(generated)
    within_real = sum(kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j)
    within_generated = sum(kernel(generated[i], generated[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(x, y) for x in real for y in generated)
    return within_real / (n * (n - 1)) + within_generated / (m * (m - 1)) - 2 * across / (n * m)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """The indices of the subsets, as they are handed on: (S, n) of real images, (S, n) of generated ones."""
    calls: list[tuple[np.ndarray, np.ndarray]] = []
    original = kid_module._mmd

    def spy(real: np.ndarray, generated: np.ndarray, in_real: np.ndarray, in_generated: np.ndarray) -> Any:
        calls.append((in_real, in_generated))
        return original(real, generated, in_real, in_generated)

    monkeypatch.setattr(kid_module, "_mmd", spy)
    return calls


def test_two_images_by_hand() -> None:
    real, generated = np.array([[0.0], [1.0]], np.float32), np.array([[1.0], [2.0]], np.float32)
    # k(0, 1) = 1 and k(1, 2) = 27 within; 1, 1, 8 and 27 across: 1 + 27 - 2 * 37 / 4
    assert kernel_distance(real, generated, 100, 1000, 0).value == pytest.approx(9.5, rel=1e-12)
    # In two dimensions x·y is halved: k = 1, (1 / 2 * 2 + 1)³ = 8; across 1, 1, 1.5³, 2³
    real, generated = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [2.0, 0.0]])
    expected = 1 + 8 - 2 * (1 + 1 + 1.5**3 + 8) / 4
    assert kernel_distance(real, generated, 100, 1000, 0).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("block", [1, 7, 1024])  # 7 divides no number here: the last block is short
@pytest.mark.parametrize(
    ("n", "m", "subsets", "size", "used"),
    [
        (30, 28, 10, 10, 10),  # computed together
        (40, 33, 3, 10, 10),  # each subset by itself
        (30, 9, 12, 1000, 9),  # the smaller side is used whole
        (8, 30, 12, 1000, 8),
    ],
)
def test_subsets_against_a_double_loop(
    monkeypatch: pytest.MonkeyPatch, n: int, m: int, subsets: int, size: int, used: int, block: int
) -> None:
    monkeypatch.setattr(kid_module, "BLOCK", block)
    real, generated = draw(n, 5, 0), draw(m, 5, 1, shift=0.5)
    calls = recorded(monkeypatch)
    estimate = kernel_distance(real, generated, subsets, size, seed=3)
    in_real, in_generated = (np.concatenate([call[side] for call in calls]) for side in (0, 1))
    assert in_real.shape == in_generated.shape == (subsets, used)
    assert all(len(set(row)) == used for row in [*in_real, *in_generated])  # none twice
    assert in_real.min() >= 0 and n - 6 <= in_real.max() < n  # the last images occur too
    assert in_generated.min() >= 0 and m - 6 <= in_generated.max() < m
    values = [naive(real[i], generated[j]) for i, j in zip(in_real, in_generated, strict=True)]
    assert estimate.value == pytest.approx(np.mean(values), rel=1e-10)
    assert estimate.error is not None and estimate.error > 0


def test_few_subsets_of_many_images_are_computed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    kernel_distance(draw(40, 3, 0), draw(20, 3, 1), 4, 20, 0)  # 40² images, 4 * 20² in subsets
    assert [len(rows) for rows, _ in calls] == [4]
    calls.clear()
    kernel_distance(draw(41, 3, 0), draw(20, 3, 1), 4, 20, 0)
    assert [len(rows) for rows, _ in calls] == [1, 1, 1, 1]


def test_all_images_of_both_sides_are_one_subset() -> None:
    real, generated = draw(12, 4, 0), draw(12, 4, 1, shift=1.0)
    estimate = kernel_distance(real, generated, 100, 1000, 0)
    assert estimate.value == pytest.approx(naive(real, generated), rel=1e-12)


def test_equal_distributions_give_zero_on_average() -> None:
    values = np.array([kernel_distance(draw(40, 3, 2 * i), draw(40, 3, 2 * i + 1), 1, 40, 0).value for i in range(400)])
    spread = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean()) < 3 * spread
    assert 0.3 < (values < 0).mean() < 0.8  # a biased estimate is never below 0
    # What pairing each image with itself would add on average: (E k(x, x) - E k(x, x')) / n on each side.
    self_pairs = 2 * np.mean([((x @ x) / 3 + 1) ** 3 - 1 for x in draw(4000, 3, 7).astype(float)]) / 40
    assert spread < self_pairs / 10


def test_the_mean_does_not_depend_on_the_number_of_images() -> None:
    few = [kernel_distance(draw(10, 3, i), draw(10, 3, 5000 + i, 0.5), 1, 10, 0).value for i in range(1000)]
    many = kernel_distance(draw(4000, 3, 1), draw(4000, 3, 2, 0.5), 4, 4000, 0).value
    assert many > 0.5
    assert abs(np.mean(few) - many) < 4 * np.std(few, ddof=1) / np.sqrt(1000)


def test_the_seed_names_the_subsets() -> None:
    real, generated = draw(50, 4, 0), draw(50, 4, 1, 0.3)
    first = kernel_distance(real, generated, 5, 20, 0)
    assert first == kernel_distance(real, generated, 5, 20, 0)
    other = kernel_distance(real, generated, 5, 20, 1)
    assert first.error is not None
    assert other.value != first.value and other.value == pytest.approx(first.value, abs=6 * first.error)


def test_memory_mapped_features_are_read_as_they_are(tmp_path: Path) -> None:
    real, generated = draw(50, 4, 0), draw(40, 4, 1, 0.3)
    for name, features in (("real", real), ("generated", generated)):
        np.save(tmp_path / f"{name}.npy", features)
    mapped_real, mapped_generated = (np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in ("real", "generated"))
    assert kernel_distance(mapped_real, mapped_generated, 5, 20, 0) == kernel_distance(real, generated, 5, 20, 0)


def test_float32_features_are_computed_in_float64() -> None:
    real, generated = draw(6, 3, 0) + 300, draw(6, 3, 1) + 300  # k is about 7e14: float32 holds no digit of the MMD²
    assert kernel_distance(real, generated, 1, 6, 0).value == pytest.approx(naive(real, generated), rel=1e-4)


@pytest.mark.parametrize(("metric", "key"), [("fid", "kid"), ("fd_efficientnet_lite0", "kd_efficientnet_lite0")])
def test_the_name_says_which_extractor(metric: str, key: str) -> None:
    real, generated = draw(20, 3, 0), draw(20, 3, 1, 1.0)
    result = kid(comparison(real, generated, metric=metric))
    assert list(result) == [key]
    assert result[key].value == pytest.approx(naive(real, generated), rel=1e-10)
    assert result == kid(comparison(real, generated, metric=metric))


def test_there_are_100_subsets_of_1000_images(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    real, generated = draw(1100, 2, 0), draw(1001, 2, 1, 0.5)
    estimate = kid(comparison(real, generated))["kid"]
    assert [call[0].shape for call in calls] == [(100, 1000)]
    whole = kernel_distance(real[:1001], generated, 1, 1001, 0).value
    assert estimate.value == pytest.approx(whole, rel=0.1)
    once = kernel_distance(real[:1001], generated, 1, 1001, 0)
    assert estimate.error is not None and estimate.error == pytest.approx(once.error, rel=0.1)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1), (0, 5)])
def test_one_image_is_too_few(n: int, m: int) -> None:
    with pytest.raises(NotAvailable, match="needs at least 2 images on each side"):
        kid(comparison(draw(n, 3, 0), draw(m, 3, 1)))
    kid(comparison(draw(2, 3, 0), draw(2, 3, 1)))


def test_statistics_without_features_are_not_enough() -> None:
    gaussian = FeatureSet(draw(9, 3, 0)).gaussian
    for sides in ((None, draw(9, 3, 1)), (draw(9, 3, 1), None)):
        real, generated = (FeatureSet(side, gaussian=gaussian) for side in sides)
        with pytest.raises(NotAvailable, match="statistics without features"):
            kid(comparison(real, generated))


def fresh(
    generate: Callable[[int], np.ndarray], real: np.ndarray, labels: np.ndarray | None, subsets: int, size: int
) -> float:
    """The stated error over the spread of the values, for 200 fresh sets of generated images."""
    found = [kernel_distance(real, generate(seed), subsets, size, 0, labels) for seed in range(200)]
    errors = [estimate.error for estimate in found if estimate.error is not None]
    assert len(errors) == len(found)
    return float(np.mean(errors) / np.std([estimate.value for estimate in found], ddof=1))


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])  # pairs of images decide the error, both do, single images do
@pytest.mark.parametrize(
    ("n", "m", "subsets", "size"), [(100, 100, 1, 100), (100, 60, 10, 30), (60, 100, 10, 60), (300, 200, 3, 30)]
)
def test_the_error_is_that_of_fresh_images(n: int, m: int, subsets: int, size: int, shift: float) -> None:
    ratio = fresh(lambda seed: draw(m, 5, 100 + seed, shift), draw(n, 5, 0), None, subsets, size)
    assert 0.8 < ratio < 1.25


@pytest.mark.parametrize(("subsets", "size"), [(1, 200), (10, 80)])
def test_images_with_labels_vary_within_their_class(subsets: int, size: int) -> None:
    labels = np.arange(200) % 4
    centres = np.random.default_rng(1).normal(size=(4, 5)) * 1.5
    real = draw(200, 5, 0) * np.float32(0.5) + centres[labels]

    def generate(seed: int) -> np.ndarray:
        return draw(200, 5, 100 + seed, 0.5) * np.float32(0.5) + centres[labels]

    assert 0.8 < fresh(generate, real, labels, subsets, size) < 1.25
    assert fresh(generate, real, None, subsets, size) > 1.25  # another sample would not be of other classes


def test_few_images_of_a_class_say_nothing_of_it() -> None:
    real, generated = draw(60, 4, 0), draw(60, 4, 1, 0.5)
    unlike = np.arange(60)  # one image of each class: as if there were none
    assert kernel_distance(real, generated, 1, 60, 0, unlike) == kernel_distance(real, generated, 1, 60, 0)
    assert kernel_distance(real, generated, 1, 60, 0, unlike // 2) == kernel_distance(real, generated, 1, 60, 0)


@pytest.mark.parametrize("count", [2, 3])
def test_few_images_have_no_error(count: int) -> None:
    assert kernel_distance(draw(9, 3, 0), draw(count, 3, 1), 1, 1000, 0).error is None
    assert kernel_distance(draw(9, 3, 0), draw(4, 3, 1), 1, 1000, 0).error is not None


def test_what_pairs_of_images_vary_by() -> None:
    # (x·y)³ of random signs in one dimension is their product: neither alone explains any of its variance, which is 1.
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(400, 1))
    one = np.zeros(400, np.int64)
    # (s + 1)³ = 4 + 4 s for s = ±1
    assert kid_module._pair_variance(signs, one) == pytest.approx(2 * 16, rel=0.02)
    assert kid_module._pair_variance(signs, (signs[:, 0] > 0).astype(int)) == pytest.approx(0, abs=1e-9)
    assert kid_module._pair_weights(5, 5, 1) == pytest.approx(1 / 20, rel=1e-12)
    # Two subsets of 2 of 4 images: 1/6 of the pairs in each; weights 1/4 for a pair in one, 1/2 for one in both.
    expected = 12 * (2 * (1 / 6) * (5 / 6) / 16 + (1 / 36) / 4)
    assert kid_module._pair_weights(4, 2, 2) == pytest.approx(expected, rel=1e-12)
