"""The four against loops over all distances in float64, and what copies, outliers and blocks do to them."""

import numpy as np
import pytest

from pipeline.metrics import neighbours
from pipeline.metrics.prdc import expected_coverage, neighbourhoods, prdc
from pipeline.metrics.types import FeatureSet, NotAvailable
from tests.metrics.comparisons import comparison
from tests.metrics.hits import naive_error


def clusters(count: int, seed: int, kinds: int = 4, dim: int = 8) -> np.ndarray:
    """float32 features (N, D) around some centres far from 0."""
    source = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(10, 2, size=(kinds, dim))
    return (centres[source.integers(0, kinds, count)] + source.normal(size=(count, dim))).astype(np.float32)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=2))


def radii(features: np.ndarray, k: int) -> np.ndarray:
    """The distance to the k-th nearest other; entry 0 of a sorted row is the image itself."""
    return np.sort(distances(features, features), axis=1)[:, k]


def naive(real: np.ndarray, generated: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """From the definitions: of each generated image, (M,), or of each and each real one, (M, N)."""
    gaps, around_real, around_generated = distances(generated, real), radii(real, k), radii(generated, k)
    counts = np.array([sum(gap < radius for gap, radius in zip(row, around_real, strict=True)) for row in gaps])
    return {
        "precision": counts > 0,
        "recall": np.array([gaps[:, i] < around_generated for i in range(len(real))]).T,
        "density": counts / k,
        "coverage": np.array([gaps[:, i] < around_real[i] for i in range(len(real))]).T,
    }


def assert_equal(real: np.ndarray, generated: np.ndarray) -> None:
    """The estimates are those of `naive`, values and errors."""
    got = prdc(comparison(real, generated))
    expected = naive(real, generated, 5)
    at_three = naive(real, generated, 3)
    expected |= {f"{name}_k3": at_three[name] for name in ("precision", "recall")}
    assert got.keys() == expected.keys()
    one = np.zeros(len(generated), np.int64)
    for name, each in expected.items():
        if each.ndim == 2:  # which generated images hit which real ones
            assert got[name].value == pytest.approx(each.any(axis=0).mean(), rel=1e-12)
            error = naive_error(each, one)
            assert got[name].error == (None if error is None else pytest.approx(error, rel=1e-12))
        else:
            assert got[name].value == pytest.approx(each.mean(), rel=1e-12)
            error = np.sqrt(((each - each.mean()) ** 2).sum() / (len(each) - 1) / len(each))
            few = name != "density" and min(each.sum(), (~each).sum()) < 5
            assert got[name].error == (None if few else pytest.approx(error, rel=1e-12, abs=1e-15))


@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
def test_against_the_definitions(shift: float) -> None:
    assert_equal(clusters(90, 0), clusters(70, 1, kinds=3) * np.float32(0.9 + shift / 10) + np.float32(shift))


@pytest.mark.parametrize("block", [(7, 7), (16, 3), (4, 33), (41, 50)])
def test_whatever_the_block(monkeypatch: pytest.MonkeyPatch, block: tuple[int, int]) -> None:
    monkeypatch.setattr(neighbours, "ROWS", block[0])
    monkeypatch.setattr(neighbours, "COLUMNS", block[1])
    assert_equal(clusters(50, 0), clusters(41, 1))


def test_as_few_images_as_there_may_be() -> None:
    assert_equal(clusters(6, 0), clusters(6, 1))
    for few in (comparison(clusters(5, 0), clusters(9, 1)), comparison(clusters(9, 0), clusters(5, 1))):
        with pytest.raises(NotAvailable, match="5 neighbours need more than 5 images"):
            prdc(few)


def test_by_hand() -> None:
    real, generated = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [20.0]])
    found = neighbourhoods(
        real, generated, np.array([[1.0, 0.2], [0.4, 3.0], [9.0, 10.5]]), np.array([[0.1, 0.6], [11, 9.0]])
    )
    # 0.5 is at 0.5, 0.5 and 9.5 from the real ones; 20 is at 20, 19 and 10.
    assert found.counts.tolist() == [[1, 2], [0, 1]]
    assert np.stack([hits.hit for hits in found.recalled], axis=1).tolist() == [
        [False, True],
        [False, True],
        [True, False],
    ]
    assert np.stack([hits.hit for hits in found.covered], axis=1).tolist() == [
        [True, False],
        [False, True],
        [False, True],
    ]


def test_the_border_is_outside() -> None:
    real, generated = np.zeros((1, 2)), np.array([[3.0, 4.0]])
    for radius, inside in [(5.0, False), (5.0001, True), (4.9999, False), (0.0, False)]:
        found = neighbourhoods(real, generated, np.array([[radius]]), np.array([[radius]]))
        assert found.counts.item() == inside
        assert found.recalled[0].hit.item() == found.covered[0].hit.item() == inside


def test_borders_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    # Radii that one generated image lies on, and the next larger numbers: rounding alone would decide either.
    monkeypatch.setattr(neighbours, "ROWS", 7)
    monkeypatch.setattr(neighbours, "COLUMNS", 5)
    real, generated = clusters(23, 0), clusters(23, 1)
    gaps = distances(generated, real).astype(np.float32)
    on = np.random.default_rng(0).permutation(23)
    around_real = np.stack([gaps[on, range(23)], np.nextafter(gaps[on, range(23)], np.float32(np.inf))], axis=1)
    around_generated = np.stack([gaps[range(23), on], np.nextafter(gaps[range(23), on], np.float32(np.inf))], axis=1)
    found = neighbourhoods(real, generated, around_real, around_generated)
    in_real, in_generated = gaps[..., None] < around_real[None], gaps[..., None] < around_generated[:, None]
    np.testing.assert_array_equal(found.counts, in_real.sum(axis=1))
    for column in range(2):
        np.testing.assert_array_equal(found.covered[column].hit, in_real[..., column].any(axis=0))
        np.testing.assert_array_equal(found.recalled[column].hit, in_generated[..., column].any(axis=0))
    assert (found.counts.sum(axis=0) == [in_real[..., 0].sum(), in_real[..., 0].sum() + 23]).all()


@pytest.mark.parametrize(("dim", "rows", "columns"), [(8, 2048, 1024), (8, 40, 33), (512, 2048, 1024)])
def test_copies_of_the_real_images_have_density_one(
    monkeypatch: pytest.MonkeyPatch, dim: int, rows: int, columns: int
) -> None:
    monkeypatch.setattr(neighbours, "ROWS", rows)
    monkeypatch.setattr(neighbours, "COLUMNS", columns)
    # Each real ball holds its own centre and k - 1 others: the k-th lies on the border, where rounding could decide.
    real = clusters(150, 0, dim=dim) + np.float32(100)
    got = prdc(comparison(real, real[::-1].copy()))
    assert [got[name].value for name in ("precision", "recall", "coverage", "precision_k3", "recall_k3")] == [1] * 5
    assert got["density"].value == pytest.approx(1, abs=1e-12)


def test_equal_images_make_empty_balls() -> None:
    real = clusters(40, 0)
    collapsed = np.repeat(real[:1], 30, axis=0)
    assert_equal(real, collapsed)
    got = prdc(comparison(real, collapsed))
    assert got["recall"].value == 0  # the generated balls have radius 0
    assert got["precision"].value == 1
    assert got["density"].value > 0
    doubled = np.concatenate([real[:2].repeat(3, axis=0), real])  # 4 of each of two: their third neighbour is a copy
    assert_equal(doubled, clusters(30, 1))
    assert prdc(comparison(doubled, doubled))["precision_k3"].value < 1  # a ball of radius 0 holds nothing


def test_few_distances_are_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    def counted(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        computed.append(len(rows))
        return neighbours.exact_distances(a, b, rows, columns)

    monkeypatch.setattr("pipeline.metrics.prdc.exact_distances", counted)
    prdc(comparison(clusters(100, 0), clusters(100, 1)))
    assert sum(computed) < 20  # of 10,000, four times
    computed.clear()
    blank = np.repeat(clusters(1, 0) + np.float32(50), 100, axis=0)
    prdc(comparison(np.concatenate([blank, clusters(100, 0)]), np.concatenate([clusters(100, 1), blank])))
    assert sum(computed) < 1000  # not the 10,000 pairs of copies, four times


def test_what_each_says() -> None:
    real = clusters(200, 0, kinds=4)
    one_kind = clusters(200, 1, kinds=1)
    far = clusters(200, 2) + np.float32(1000)
    got, lost = prdc(comparison(real, one_kind)), prdc(comparison(real, far))
    swapped = prdc(comparison(one_kind, real))
    assert got["precision"].value > 0.7 > 0.5 > got["recall"].value > 0.1
    assert got["coverage"].value < 0.5
    assert swapped["precision"].value == got["recall"].value  # the two are each other's mirror images
    assert swapped["recall_k3"].value == got["precision_k3"].value
    assert {estimate.value for estimate in lost.values()} == {0.0}
    assert got["precision_k3"].value < got["precision"].value  # smaller balls


def test_radii_that_were_computed_before_are_used() -> None:
    real, generated = clusters(60, 0), clusters(50, 1)
    given = np.tile(np.arange(1, 6, dtype=np.float32), (60, 1))
    gaps = distances(generated, real)
    got = prdc(comparison(FeatureSet(real, neighbour_distances=given), generated))
    assert got["density"].value == pytest.approx((gaps < 5).sum(axis=1).mean() / 5, rel=1e-12)
    assert got["precision_k3"].value == pytest.approx((gaps < 3).any(axis=1).mean(), rel=1e-12)


def test_statistics_without_features_have_none() -> None:
    real = FeatureSet(None, gaussian=FeatureSet(clusters(20, 0)).gaussian)
    with pytest.raises(NotAvailable, match="statistics without features"):
        prdc(comparison(real, clusters(20, 1)))


def test_the_coverage_that_is_expected_by_hand() -> None:
    """One minus the probability that the k nearest of a real image, of all others, are real ones."""
    assert expected_coverage(2, 1, k=1) == pytest.approx(1 - 1 / 2, rel=1e-12)
    assert expected_coverage(3, 2, k=2) == pytest.approx(1 - 2 / 4 * 1 / 3, rel=1e-12)


@pytest.mark.parametrize(("real", "generated"), [(40, 40), (60, 12), (30, 90)])
def test_the_coverage_that_is_expected_of_a_perfect_model(real: int, generated: int) -> None:
    source = np.random.default_rng(0)
    draws = source.normal(size=(400, real + generated, 3)).astype(np.float32)
    found = [prdc(comparison(draw[:real], draw[real:]))["coverage"].value for draw in draws]
    error = np.std(found) / np.sqrt(len(found))
    assert error < 0.01 and abs(np.mean(found) - expected_coverage(real, generated)) < 4 * error


@pytest.mark.parametrize(
    ("real", "generated", "scale"),
    [(200, 200, 1.0), (200, 200, 0.7), (200, 200, 1.6), (300, 100, 1.0), (100, 300, 0.8)],
)
@pytest.mark.parametrize("kinds", [1, 4])
def test_the_errors_are_those_of_fresh_images(real: int, generated: int, scale: float, kinds: int) -> None:
    fixed = clusters(real, 0, kinds)
    centre = fixed.mean(axis=0)
    draws = [(clusters(generated, 100 + seed, kinds) - centre) * np.float32(scale) + centre for seed in range(150)]
    found = [prdc(comparison(fixed, draw)) for draw in draws]
    for name in found[0]:
        values = [each[name].value for each in found]
        if 0.03 < np.mean(values) < 0.97 or name == "density":
            variances = [(each[name].error or 0) ** 2 for each in found]
            assert 0.75 < np.sqrt(np.mean(variances)) / np.std(values, ddof=1) < 1.3, name


def test_images_with_labels_vary_within_their_class() -> None:
    fixed, labels = clusters(200, 0, 4), np.arange(200) % 4
    centres = np.random.default_rng(99).normal(10, 2, size=(4, 8))
    spreads = np.array([0.5, 0.5, 1.0, 3.0])[labels, None]

    def draw(seed: int) -> np.ndarray:
        return (centres[labels] + spreads * np.random.default_rng(seed).normal(size=(200, 8))).astype(np.float32)

    found = [prdc(comparison(fixed, (draw(seed), labels))) for seed in range(150)]
    for name in ("precision", "density", "recall", "coverage"):
        variances = [(each[name].error or 0) ** 2 for each in found]
        ratio = np.sqrt(np.mean(variances)) / np.std([each[name].value for each in found], ddof=1)
        assert 0.75 < ratio < 1.3, name
    without = [prdc(comparison(fixed, draw(seed)))["precision"] for seed in range(150)]
    assert np.mean([each.error or 0 for each in without]) / np.std([each.value for each in without], ddof=1) > 1.4
