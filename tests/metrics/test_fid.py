"""The Fréchet distance's sampling error and its limit, against closed forms, loops and fresh draws."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.metrics import fid as fid_module
from pipeline.metrics.fid import bootstrap_error, extrapolate, fid_infinity, frechet_distance_metric, resampled
from pipeline.metrics.frechet import Gaussian, factorise, frechet_distance
from pipeline.metrics.types import FeatureSet, NotAvailable
from tests.metrics.comparisons import comparison


def normal(mean: list[float], deviations: list[float]) -> Gaussian:
    return Gaussian(np.asarray(mean, float), factorise(np.diag(np.square(deviations))), 100)


def draw(count: int, mean: list[float], deviations: list[float], seed: int) -> np.ndarray:
    """Features of the Gaussian `normal(mean, deviations)`."""
    return np.random.default_rng(seed).normal(size=(count, len(mean))) * deviations + mean


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """How often each image is in each sample of the features that is drawn."""
    calls: list[np.ndarray] = []

    def spy(features: np.ndarray, times: np.ndarray) -> Gaussian:
        calls.append(times.copy())
        return resampled(features, times)

    monkeypatch.setattr(fid_module, "resampled", spy)
    return calls


# The value.


def test_known_gaussians() -> None:
    # (0 - 3)² + (1 - 2)², and in two dimensions 1 + 4 for the means, (1 - 3)² + (2 - 0.5)² for the deviations
    one = comparison(FeatureSet(None, gaussian=normal([0], [1])), FeatureSet(None, gaussian=normal([3], [2])))
    assert frechet_distance_metric(one)["fid"].value == pytest.approx(10, rel=1e-12)
    first, second = normal([0, 1], [1, 2]), normal([1, -1], [3, 0.5])
    two = comparison(FeatureSet(None, gaussian=first), FeatureSet(None, gaussian=second), metric="fd_x", bootstrap=20)
    assert frechet_distance_metric(two) == {
        "fd_x": (pytest.approx(1 + 4 + 4 + 2.25, rel=1e-12), None)
    }  # no features: no error


@pytest.mark.parametrize("repeats", [0, 1, 2, 7])
def test_the_error_is_that_of_as_many_resamples(monkeypatch: pytest.MonkeyPatch, repeats: int) -> None:
    calls = recorded(monkeypatch)
    real, generated = FeatureSet(draw(30, [0, 0], [1, 2], 0)), FeatureSet(draw(25, [1, 0], [1, 1], 1))
    estimate = frechet_distance_metric(comparison(real, generated, bootstrap=repeats))["fid"]
    assert estimate.value == frechet_distance(real.gaussian, generated.gaussian)
    assert len(calls) == (repeats if repeats >= 2 else 0)
    if repeats < 2:
        assert estimate.error is None
    else:
        distances = [frechet_distance(real.gaussian, resampled(generated.features, times)) for times in calls]
        assert estimate.error == pytest.approx(np.std(distances, ddof=1), rel=1e-9)
    assert estimate == frechet_distance_metric(comparison(real, generated, bootstrap=repeats))["fid"]


def test_the_real_side_may_be_statistics() -> None:
    generated = FeatureSet(draw(25, [1.0], [1.0], 1))
    statistics = FeatureSet(None, gaussian=normal([0], [1]))
    error = frechet_distance_metric(comparison(statistics, generated, bootstrap=4))["fid"].error
    assert error is not None and error > 0


def test_one_image_is_refused() -> None:
    one, many = FeatureSet(draw(1, [0.0], [1.0], 0)), FeatureSet(draw(9, [0.0], [1.0], 1))
    for real, generated in ((one, many), (many, one)):
        with pytest.raises(PipelineError, match="a covariance needs at least 2 images, got 1"):
            frechet_distance_metric(comparison(real, generated, bootstrap=3))


# Resamples.


@pytest.mark.parametrize("block", [1, 7, 4096])  # 7 divides no number of rows here
@pytest.mark.parametrize(("count", "dim"), [(2, 5), (9, 5), (10, 6), (9, 40), (50, 6)])
def test_a_resample_has_the_moments_of_its_rows(
    monkeypatch: pytest.MonkeyPatch, count: int, dim: int, block: int
) -> None:
    monkeypatch.setattr(fid_module, "BLOCK", block)
    source = np.random.default_rng(count)
    features = source.normal(size=(count, dim)) @ source.normal(size=(dim, dim)) + 5
    times = np.bincount(source.integers(count, size=count), minlength=count)
    assert times.max() > 1  # some rows repeat
    gaussian, rows = resampled(features, times), np.repeat(features, times, axis=0)
    assert gaussian.count == count
    np.testing.assert_allclose(gaussian.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(gaussian.factor @ gaussian.factor.T, np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-9)


def test_both_ways_of_fitting_a_resample_give_one_distance() -> None:
    real = Gaussian.from_features(np.random.default_rng(0).normal(size=(200, 12)))
    features = np.random.default_rng(1).normal(size=(15, 12)).astype(np.float32)
    for used in (11, 12, 13):  # fewer rows than dimensions, as many, more
        times = np.zeros(15, np.int64)
        times[:used] = np.arange(used) % 3 + 1
        expected = frechet_distance(real, Gaussian.from_features(np.repeat(features, times, axis=0)))
        gaussian = resampled(features, times)
        assert frechet_distance(real, gaussian) == pytest.approx(expected, rel=1e-9)
        assert gaussian.factor.shape == (12, min(used, 12))  # up to 12 the rows themselves, though their rank is less


def test_bootstrap_in_one_dimension_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    features = draw(40, [2.0], [3.0], 0)
    error = bootstrap_error(normal([0.5], [1]), features, 30, seed=4)
    assert len(calls) == 30 and all(times.shape == (40,) and times.sum() == 40 for times in calls)
    assert all(15 < (times == 0).sum() + 5 < 30 for times in calls)  # 1 / e of 40 are lacking, with replacement
    assert np.sum(calls, axis=0).min() > 0  # no image is never drawn
    samples = [np.repeat(features[:, 0], times) for times in calls]
    distances = [(x.mean() - 0.5) ** 2 + (x.std(ddof=1) - 1) ** 2 for x in samples]
    mean = sum(distances) / 30
    assert error == pytest.approx(np.sqrt(sum((d - mean) ** 2 for d in distances) / 29), rel=1e-9)
    assert error == bootstrap_error(normal([0.5], [1]), features, 30, seed=4)
    assert error != bootstrap_error(normal([0.5], [1]), features, 30, seed=5)


@pytest.mark.parametrize(("rows", "rank"), [(40, 12), (12, 12), (7, 12), (12, 7)])
def test_the_fast_distance_is_the_exact_one(rows: int, rank: int) -> None:
    source = np.random.default_rng(rows + rank)
    scales = 10.0 ** -np.arange(12)  # singular values down to 1e-11 of the largest, as features have them
    first = Gaussian(source.normal(size=12), source.normal(size=(12, rank)) * scales[:rank], 50)
    second = Gaussian(source.normal(size=12), source.normal(size=(12, rows)) * scales[:, None], rows + 1)
    exact = frechet_distance(first, second)
    found, itself = (frechet_distance(first, other, fid_module._singular_values) for other in (second, first))
    assert found == pytest.approx(exact, abs=1e-6 * (first.trace + second.trace))
    assert itself == pytest.approx(0, abs=1e-6 * first.trace)


@pytest.mark.parametrize("dim", [1, 3])
def test_the_error_is_the_spread_of_fresh_draws(dim: int) -> None:
    real = normal([0.0] * dim, [1.0] * dim)
    mean, deviations = [0.8] * dim, [1.5, 1.0, 0.7][:dim]
    fresh = [frechet_distance(real, Gaussian.from_features(draw(500, mean, deviations, i))) for i in range(200)]
    true = float(np.std(fresh, ddof=1))
    assert np.mean(fresh) > 5 * true  # clearly above 0
    for seed in range(3):
        error = bootstrap_error(real, draw(500, mean, deviations, 1000 + seed), 200, seed)
        assert true / 1.35 < error < true * 1.35


def test_classes_are_resampled_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    labels = np.repeat([7, 3, 5, 8], [10, 20, 9, 1])[::-1].copy()
    features = draw(40, [1.0], [1.0], 0)
    error = frechet_distance_metric(comparison(FeatureSet(draw(50, [0.0], [1.0], 1)),
                                    FeatureSet(features, labels), bootstrap=20))["fid"].error  # fmt: skip
    assert len(calls) == 20
    for times in calls:  # classes of fewer than 10 images, 5 and 8, are one stratum together
        assert [int(times[np.isin(labels, group)].sum()) for group in ([3], [7], [5, 8])] == [20, 10, 10]
    assert any(times[labels == 5].sum() != 9 for times in calls)
    unlabelled = frechet_distance_metric(comparison(FeatureSet(draw(50, [0.0], [1.0], 1)), FeatureSet(features),
                                         bootstrap=20))["fid"].error  # fmt: skip
    assert error != unlabelled
    assert {int(times[labels == 3].sum()) for times in calls[20:]} != {20}  # without labels all are one


def test_the_error_within_classes_is_that_of_images_with_the_same_labels() -> None:
    # Two classes of unit deviation, 10 apart, their mean 8 from the real one, their deviation nearly the real 5:
    # d(mean²) = 2 * 8 / sqrt(200) = 1.13 with the labels fixed. Else it is the deviation of all, 5.1, times as much.
    labels, real = np.repeat([0, 1], 100), normal([0.0], [5.0])
    samples = [draw(200, [3.0], [1.0], seed) + 10.0 * labels[:, None] for seed in range(10)]
    within = [bootstrap_error(real, x, 100, seed, labels) for seed, x in enumerate(samples)]
    whole = [bootstrap_error(real, x, 100, seed) for seed, x in enumerate(samples)]
    assert np.mean(within) == pytest.approx(16 / np.sqrt(200), rel=0.08)
    assert np.mean(whole) == pytest.approx(5.1 * 16 / np.sqrt(200), rel=0.08)


def test_more_images_have_a_smaller_error() -> None:
    real = normal([0.0, 0.0], [1.0, 1.0])
    few, many = (bootstrap_error(real, draw(n, [1.0, 0.0], [1.0, 2.0], 0), 200, 0) for n in (200, 3200))
    assert few / many == pytest.approx(4, rel=0.25)  # the root of 16


def test_resamples_read_memory_mapped_features(tmp_path: Path) -> None:
    for dim in (3, 40):
        features = draw(30, [0.0] * dim, [1.0] * dim, 0).astype(np.float32)
        np.save(tmp_path / "features.npy", features)
        mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
        real = normal([1.0] * dim, [1.0] * dim)
        assert bootstrap_error(real, mapped, 3, 0) == bootstrap_error(real, features, 3, 0)


# Infinitely many images.


def line_through(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The intercept of the least-squares line, and its standard error, by the textbook's sums."""
    n, mean = len(x), float(np.mean(x))
    spread = float(np.sum((x - mean) ** 2))
    slope = float(np.sum((x - mean) * (y - np.mean(y)))) / spread
    intercept = float(np.mean(y)) - slope * mean
    variance = float(np.sum((y - intercept - slope * x) ** 2)) / (n - 2)
    return intercept, float(np.sqrt(variance * (1 / n + mean**2 / spread)))


def test_a_straight_line_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fid_module, "frechet_distance", lambda real, generated: 2.5 + 30 / generated.count)
    estimate = extrapolate(normal([0], [1]), np.zeros((40, 1)), np.array([5, 10, 20, 40]), 0)
    assert estimate == (pytest.approx(2.5, rel=1e-12), pytest.approx(0, abs=1e-12))


def test_the_intercepts_error_is_the_textbooks(monkeypatch: pytest.MonkeyPatch) -> None:
    by_size = {4: 9.0, 5: 7.5, 10: 7.0, 20: 5.0}
    monkeypatch.setattr(fid_module, "frechet_distance", lambda real, generated: by_size[generated.count])
    got = extrapolate(normal([0], [1]), np.zeros((20, 1)), np.array(list(by_size)), 0)
    x, y = 1 / np.array(list(by_size)), np.array(list(by_size.values()))
    assert got == pytest.approx(line_through(x, y), rel=1e-10)
    # By hand: x = 0.25, 0.2, 0.1, 0.05: mean 0.15, spread 0.025; y: mean 7.125; slope 0.425 / 0.025 = 17
    assert got.value == pytest.approx(7.125 - 17 * 0.15, rel=1e-10)
    # residuals 0.175, -0.475, 0.725, -0.425: sum of squares 0.9625, halved, times (1 / 4 + 0.0225 / 0.025)
    assert got.error == pytest.approx(np.sqrt(0.9625 / 2 * 1.15), rel=1e-10)


def test_every_size_has_a_fresh_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    features, real = draw(60, [1.0], [2.0], 0), normal([0], [1])
    sizes = np.array([20, 30, 30, 60])
    got = extrapolate(real, features, sizes, 0)
    assert [int(times.sum()) for times in calls] == [20, 30, 30, 60]
    assert all(set(times) <= {0, 1} for times in calls)  # no image twice
    assert (calls[1] != calls[2]).any() and (calls[0] > calls[1]).any()  # and no subset within the next
    subsets = [features[times == 1, 0] for times in calls]
    distances = [x.mean() ** 2 + (x.std(ddof=1) - 1) ** 2 for x in subsets]
    assert got == pytest.approx(line_through(1 / sizes, np.array(distances)), rel=1e-9)
    assert got == extrapolate(real, features, sizes, 0) != extrapolate(real, features, sizes, 1)


def expected_bias(deviations: list[float], count: int) -> float:
    """Of the distance to a unit Gaussian, to first order in 1 / N.

    The mean adds tr(S) / N. The deviations add -2 tr of the second-order term of the root of a Wishart matrix: each
    s / 4 and each pair's s t / (2 (s + t)), divided by N - 1.
    """
    pairs = [s * t / (2 * (s + t)) for i, s in enumerate(deviations) for t in deviations[:i]]
    return sum(s**2 for s in deviations) / count + 2 * (sum(deviations) / 4 + sum(pairs)) / (count - 1)


def test_the_limit_is_closer_to_the_truth_than_the_value() -> None:
    mean, deviations = [0.1, 0.0, 0.0, -0.1], [1.2, 1.0, 1.0, 0.8]
    real, truth = normal([0.0] * 4, [1.0] * 4), 0.01 + 0.01 + 0.04 + 0.04
    values, limits = [], []
    for seed in range(400):
        features = FeatureSet(draw(200, mean, deviations, seed))
        both = comparison(FeatureSet(None, gaussian=real), features, infinity=True)
        values.append(frechet_distance_metric(both)["fid"].value)
        limits.append(fid_infinity(both)["fid_infinity"].value)
    bias, left = np.mean(values) - truth, np.mean(limits) - truth
    assert bias == pytest.approx(expected_bias(deviations, 200), rel=0.1)
    assert abs(left) < 0.2 * bias


def test_sizes_are_evenly_spaced_up_to_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    real = FeatureSet(None, gaussian=normal([0.0] * 3, [1.0] * 3))
    estimate = fid_infinity(
        comparison(real, FeatureSet(draw(1500, [0.0] * 3, [1.0] * 3, 0)), metric="fd_x", infinity=True)
    )
    assert list(estimate) == ["fd_x_infinity"] and estimate["fd_x_infinity"].error is not None
    sizes = [int(times.sum()) for times in calls]
    assert len(sizes) == 15 and sizes[0] == 150 and sizes[-1] == 1500  # a tenth, and all
    assert all(96 <= step <= 97 for step in np.diff(sizes))
    calls.clear()
    fid_infinity(comparison(real, FeatureSet(draw(20, [0.0] * 3, [1.0] * 3, 0)), infinity=True))
    sizes = [int(times.sum()) for times in calls]
    assert len(sizes) == 15 and sizes[0] == 4 and sizes[-1] == 20  # more than there are dimensions


def test_what_the_limit_needs() -> None:
    real = FeatureSet(None, gaussian=normal([0.0] * 4, [1.0] * 4))
    eight, nine = (FeatureSet(draw(n, [1.0] * 4, [1.0] * 4, 0)) for n in (8, 9))
    with pytest.raises(NotAvailable, match=r"^not asked for$"):
        fid_infinity(comparison(real, nine, infinity=False))
    with pytest.raises(NotAvailable, match="needs more than 8 generated images"):
        fid_infinity(comparison(real, eight, infinity=True))
    with pytest.raises(NotAvailable, match="statistics without features"):
        fid_infinity(comparison(nine, real, infinity=True))
    assert np.isfinite(fid_infinity(comparison(real, nine, infinity=True))["fid_infinity"].value)
    assert (
        frechet_distance_metric(comparison(real, eight, infinity=True))["fid"].value > 1
    )  # the distance itself is there all the same
