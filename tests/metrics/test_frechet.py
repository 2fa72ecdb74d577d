"""The distance against closed forms and pytorch-fid, and moments against numpy, one pass or many."""

import warnings

import numpy as np
import pytest
import scipy

from pipeline.core.errors import PipelineError
from pipeline.metrics.frechet import Gaussian, Moments, factorise, frechet_distance


def draw(count: int, dim: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Correlated features (N, D) whose mean is not 0."""
    source = np.random.default_rng(seed)
    return (source.normal(size=(count, dim)) @ source.normal(size=(dim, dim)) + source.normal(size=dim)) * scale


def normal(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    return Gaussian(np.asarray(mean, float), factorise(np.asarray(covariance, float)), 100)


def primal(features: np.ndarray) -> Gaussian:
    moments = Moments()
    moments.add(features)
    return Gaussian.from_moments(moments)


def theirs(first: np.ndarray, second: np.ndarray) -> float:
    """pytorch-fid's distance of two sets of features."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18):
        pytest.skip("pytorch-fid calls scipy's sqrtm with `disp`, which scipy 1.18 no longer has")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (first, second)]
        return float(calculate_frechet_distance(*sides[0], *sides[1]))


def trace(*sets: np.ndarray) -> float:
    return sum(float(np.trace(np.cov(features, rowvar=False))) for features in sets)


def test_one_dimension() -> None:
    # (m1 - m2)² + (s1 - s2)²
    assert frechet_distance(normal([0], [[1]]), normal([3], [[4]])) == pytest.approx(10, rel=1e-12)
    assert frechet_distance(normal([-1], [[9]]), normal([1], [[0.25]])) == pytest.approx(4 + 6.25, rel=1e-12)
    a, b = np.array([[1.0], [3.0]]), np.array([[0.0], [4.0], [5.0]])  # means 2 and 3, variances 2 and 7
    expected = 1 + (np.sqrt(2) - np.sqrt(7)) ** 2
    assert frechet_distance(Gaussian.from_features(a), Gaussian.from_features(b)) == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances() -> None:
    first, second = np.array([4.0, 0.0, 1e-6, 25.0]), np.array([9.0, 2.0, 1.0, 25.0])
    expected = ((np.sqrt(first) - np.sqrt(second)) ** 2).sum() + 4 * 0.25
    got = frechet_distance(normal(np.zeros(4), np.diag(first)), normal(np.full(4, 0.5), np.diag(second)))
    assert got == pytest.approx(expected, rel=1e-9)


def test_a_shift_costs_its_squared_length() -> None:
    features = draw(50, 6)
    gap = np.array([1.0, -2.0, 0.0, 3.0, 0.5, 0.0])
    distance = frechet_distance(Gaussian.from_features(features), Gaussian.from_features(features + gap))
    assert distance == pytest.approx(14.25, rel=1e-9)


@pytest.mark.parametrize("count", [5, 300])  # fewer and more than dimensions
def test_identity_and_symmetry(count: int) -> None:
    a, b = draw(count, 20), draw(count + 3, 20, 1)
    one, other = Gaussian.from_features(a), Gaussian.from_features(b)
    assert abs(frechet_distance(one, Gaussian.from_features(a[::-1]))) <= 1e-9 * one.trace
    assert one.trace == pytest.approx(trace(a), rel=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)
    assert frechet_distance(one, other) > 0.01 * one.trace


@pytest.mark.parametrize("count", [8, 200])
def test_invariances(count: int) -> None:
    a, b = draw(count, 12), draw(count, 12, 1)
    distance = frechet_distance(Gaussian.from_features(a), Gaussian.from_features(b))
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(12, 12)))[0]
    for change, factor in [
        (lambda x: x @ rotation, 1.0),
        (lambda x: x + 17.5, 1.0),
        (lambda x: x * 3.0, 9.0),
        (lambda x: x * -0.1, 0.01),
    ]:
        changed = frechet_distance(Gaussian.from_features(change(a)), Gaussian.from_features(change(b)))
        assert changed == pytest.approx(factor * distance, rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 30), (30, 30), (12, 300)])
def test_dual_equals_primal(n: int, m: int) -> None:
    a, b = draw(n, 30), draw(m, 30, 1)
    dual = frechet_distance(Gaussian.from_features(a), Gaussian.from_features(b))
    assert Gaussian.from_features(a).factor.shape == (30, n)  # the centred features themselves
    assert dual == pytest.approx(frechet_distance(primal(a), primal(b)), abs=1e-9 * trace(a, b))


@pytest.mark.parametrize(("n", "m"), [(10, 12), (3, 40), (40, 39)])
def test_rank_deficient_pairs_against_pytorch_fid(n: int, m: int) -> None:
    a, b = draw(n, 40), draw(m, 40, 1)
    got = frechet_distance(Gaussian.from_features(a), Gaussian.from_features(b))
    assert got == pytest.approx(theirs(a, b), abs=1e-5 * trace(a, b))  # pytorch-fid is the inexact side


@pytest.mark.parametrize("dim", [2, 17, 64])
def test_full_rank_pairs_against_pytorch_fid(dim: int) -> None:
    a, b = draw(40 * dim, dim), draw(30 * dim, dim, 1, scale=2.0)
    assert frechet_distance(Gaussian.from_features(a), Gaussian.from_features(b)) == pytest.approx(
        theirs(a, b), rel=1e-9
    )


def test_orthogonal_supports() -> None:
    # Two flat Gaussians at right angles share nothing: the distance is the sum of the traces.
    a, b = np.zeros((3, 4)), np.zeros((3, 4))
    a[:, 0], b[:, 3] = [-1, 0, 1], [-2, 0, 2]
    assert frechet_distance(Gaussian.from_features(a), Gaussian.from_features(b)) == pytest.approx(1 + 4, rel=1e-12)
    assert frechet_distance(Gaussian.from_features(np.ones((5, 3))), Gaussian.from_features(np.ones((4, 3)))) == 0


def test_the_distance_of_equals_is_near_zero_and_grows_with_a_gap() -> None:
    features = draw(100, 8)
    same, near, far = (Gaussian.from_features(features + gap) for gap in (0.0, 1.0, 3.0))
    assert abs(frechet_distance(same, same)) < 1e-9 * same.trace
    assert 1e-9 * same.trace < frechet_distance(same, near) < frechet_distance(same, far)


@pytest.mark.parametrize("decay", [2, 8, 12, 14])  # powers of ten from the largest eigenvalue to the smallest
def test_the_trace_term_of_commuting_covariances_up_to_near_singular_ones(decay: int) -> None:
    source = np.random.default_rng(0)
    basis = np.linalg.qr(source.standard_normal((64, 64)))[0]
    values = 10.0 ** -np.linspace(0, decay, 64)
    others = source.permutation(values) * 3
    first, second = (normal(np.zeros(64), (basis * v) @ basis.T) for v in (values, others))
    shared = np.sqrt(values * others).sum()
    expected = values.sum() + others.sum() - 2 * shared
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    lower = [np.allclose(np.triu(gaussian.factor, 1), 0) for gaussian in (first, second)]
    assert lower == [decay <= 8] * 2  # Cholesky's factor, or near singularity the eigenvalues' one


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_moments_equal_numpys(size: int) -> None:
    features, moments = draw(150, 9), Moments()
    for start in range(0, 150, size):  # 150 is a multiple of none but 1: the last batch is short
        moments.add(features[start : start + size].astype(np.float64))
    assert moments.count == 150
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), rtol=1e-11)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=1e-10, atol=1e-11)


def test_moments_of_two_images_by_hand() -> None:
    moments = Moments()
    moments.add(np.array([[1.0, 0.0], [4.0, 2.0]], np.float32))
    assert moments.mean.tolist() == [2.5, 1.0]
    assert moments.covariance.tolist() == [[4.5, 3.0], [3.0, 2.0]]  # divided by N - 1 = 1


def test_moments_do_not_depend_on_the_order() -> None:
    features = draw(200, 5)
    first, second = Moments(), Moments()
    for start in range(0, 200, 33):
        first.add(features[start : start + 33])
        second.add(features[np.random.default_rng(0).permutation(200)][start : start + 33])
    np.testing.assert_allclose(first.covariance, second.covariance, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("cuts", [[60], [1, 2], [0, 50], [10, 90, 140], [150]])
def test_merged_shards_equal_one_pass(cuts: list[int]) -> None:
    features, merged = draw(150, 7) + 100, Moments()
    shards = np.split(features, cuts)
    for shard in shards:
        part = Moments()
        for start in range(0, len(shard), 16):
            part.add(shard[start : start + 16])
        merged.merge(part)
    assert merged.count == 150
    np.testing.assert_allclose(merged.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-10)


def test_merging_leaves_the_other_as_it_was() -> None:
    first, second, features = Moments(), Moments(), draw(40, 3)
    second.add(features[:20])
    mean, covariance = second.mean.copy(), second.covariance.copy()
    first.merge(second)
    first.add(features[20:])
    np.testing.assert_allclose(first.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(second.mean, mean)
    np.testing.assert_array_equal(second.covariance, covariance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_offset_loses_no_digits(dtype: type) -> None:
    features = (np.round(draw(300, 6) * 16) / 16 + 1e6).astype(dtype)  # exact in float32: steps of 1/16 at 1e6
    moments = Moments()
    for start in range(0, 300, 50):
        moments.add(features[start : start + 50])
    exact = np.cov((features.astype(np.float64) - 1e6), rowvar=False)
    np.testing.assert_allclose(moments.covariance, exact, rtol=1e-9, atol=1e-9)
    few = features[:5]
    expected = frechet_distance(Gaussian.from_features(few - dtype(1e6)), Gaussian.from_features(few[:3] - dtype(1e6)))
    assert frechet_distance(Gaussian.from_features(few), Gaussian.from_features(few[:3])) == pytest.approx(
        expected, rel=1e-7
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(3, 8), (30, 8)])
def test_values_that_are_no_numbers_are_refused(shape: tuple[int, int], value: float) -> None:
    features = draw(*shape)
    features[1, 2] = value
    with pytest.raises(PipelineError, match="features hold NaN or infinite values"):
        Gaussian.from_features(features)


def test_one_image_is_refused() -> None:
    with pytest.raises(PipelineError, match="a covariance needs at least 2 images, got 1"):
        Gaussian.from_features(draw(1, 4))
    with pytest.raises(PipelineError, match="got 0"):
        Gaussian.from_features(np.zeros((0, 4)))


def test_many_features_are_taken_in_whole() -> None:
    features = draw(4096 + 5, 3)  # more than one chunk, the last one short
    gaussian = Gaussian.from_features(features)
    assert gaussian.count == 4101
    np.testing.assert_allclose(gaussian.mean, features.mean(axis=0), rtol=1e-11)
    np.testing.assert_allclose(gaussian.factor @ gaussian.factor.T, np.cov(features, rowvar=False), rtol=1e-9)


def test_factor_drops_what_is_rounding() -> None:
    thin = np.outer([1.0, 2.0, 2.0], [1.0, 2.0, 2.0])  # rank 1, eigenvalue 9
    factor = factorise(thin)
    assert factor.shape == (3, 1)
    np.testing.assert_allclose(factor @ factor.T, thin, rtol=1e-12)
    assert factorise(np.zeros((3, 3))).shape == (3, 0)
    assert factorise(np.diag([1.0, 1e-9, 4.0])).shape == (3, 3)  # small is not 0
