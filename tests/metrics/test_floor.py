"""The ratio to the floor: of distances of equally many images, whatever the numbers of images on either side."""

import numpy as np
import pytest

from pipeline.metrics import floor as floor_module
from pipeline.metrics.fid import frechet_distance_metric
from pipeline.metrics.floor import floor, floor_images
from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.types import FeatureSet, NotAvailable
from tests.metrics.comparisons import comparison

DIM = 24
REAL, TEST = (np.random.default_rng(seed).normal(size=(count, DIM)) for seed, count in [(0, 4000), (1, 400)])


def draw(count: int, seed: int, mean: float = 0.0) -> np.ndarray:
    """Features of the distribution that REAL and TEST come from, shifted by `mean` in each dimension."""
    return np.random.default_rng(seed).normal(mean, size=(count, DIM))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return frechet_distance(Gaussian.from_features(first), Gaussian.from_features(second))


@pytest.mark.parametrize("count", [100, 400, 500, 1600, 4000])
def test_other_real_images_score_about_one_whatever_their_number(count: int) -> None:
    found = floor(comparison(REAL, draw(count, 2), TEST))
    assert 0.85 < found["ratio_to_floor"].value < 1.15
    # What may not be divided: the distance falls as the number of images rises.
    naive = distance(REAL, draw(count, 2)) / distance(REAL, TEST)
    assert (naive > 2.5) == (count == 100) and (naive < 0.5) == (count >= 1600)


def test_images_of_another_distribution_score_as_much_more_as_they_are_further() -> None:
    # At equal numbers both sides have the same bias b: (|shift|² + b) / b, with b the floor itself.
    for shift in (0.05, 0.2):
        found = floor(comparison(REAL, draw(1600, 2, shift), TEST))
        lowest = found["floor"].value
        assert lowest == pytest.approx(distance(REAL, TEST), rel=1e-12)
        assert found["ratio_to_floor"].value == pytest.approx((DIM * shift**2 + lowest) / lowest, rel=0.12)
        assert found["ratio_to_floor"].value == pytest.approx(found["fid_at_floor"].value / lowest, rel=1e-12)


def test_the_larger_set_is_measured_in_disjoint_subsets_of_the_smaller_ones_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[np.ndarray] = []

    class Spy(Gaussian):
        @staticmethod
        def from_features(features: np.ndarray) -> Gaussian:
            seen.append(features)
            return Gaussian.from_features(features)

    monkeypatch.setattr(floor_module, "Gaussian", Spy)
    for count, subsets in [(1600, 4), (1599, 3), (799, 1), (4000, 5), (400, 0)]:  # 0: all images, no subset
        seen.clear()
        generated = draw(count, 2)
        found = floor(comparison(REAL, generated, TEST, metric="fd_x"))
        assert [len(subset) for subset in seen] == [400] * subsets
        assert len(np.unique(np.concatenate([*seen, TEST]), axis=0)) == 400 * (subsets + 1)  # none twice
        taken = np.mean([distance(REAL, subset) for subset in seen or [generated]])
        assert found["fd_x_at_floor"].value == pytest.approx(taken, rel=1e-12)
        assert found["floor"].value == pytest.approx(distance(REAL, TEST), rel=1e-12)
    seen.clear()
    few = draw(150, 3)  # fewer generated images than held-out ones
    found = floor(comparison(REAL, few, TEST))
    assert [len(subset) for subset in seen] == [150, 150]
    assert found["fid_at_floor"].value == pytest.approx(distance(REAL, few), rel=1e-12)
    assert found["floor"].value == pytest.approx(np.mean([distance(REAL, subset) for subset in seen]), rel=1e-12)
    assert (floor_images(400, 1600), floor_images(400, 150)) == (400, 150)


def test_at_equal_numbers_nothing_is_drawn() -> None:
    generated = draw(400, 2)
    found, whole = floor(comparison(REAL, generated, TEST)), frechet_distance_metric(comparison(REAL, generated))
    assert found["fid_at_floor"].value == whole["fid"].value


def test_a_floor_of_zero_gives_no_ratio() -> None:
    blank, image = np.zeros((50, DIM)), np.tile(draw(1, 4, 3.0), (50, 1))
    wobble = image + np.random.default_rng(5).normal(size=image.shape) * 1e-6  # what batches of another size leave
    for real, held_out in [(blank, blank[:20]), (image, image[:20]), (image, wobble[:20]), (REAL, REAL)]:
        with pytest.raises(NotAvailable, match=r"^the floor is 0: to this extractor the held-out images are the train"):
            floor(comparison(real, draw(4000, 6), held_out))
    near = image[:20] + np.random.default_rng(5).normal(size=(20, DIM)) * 0.01
    assert floor(comparison(image, draw(30, 6), near))["ratio_to_floor"].value > 1000  # small, and no rounding


def test_what_is_needed() -> None:
    with pytest.raises(NotAvailable, match=r"^no held-out images$"):
        floor(comparison(REAL, draw(30, 6)))
    unknown = FeatureSet(None, gaussian=Gaussian(np.zeros(DIM), np.eye(DIM), 0))  # a file that does not say its number
    for few in (draw(1, 6), unknown):
        with pytest.raises(NotAvailable, match=r"^needs at least 2 images on each side$"):
            floor(comparison(REAL, few, TEST))
    statistics = FeatureSet(None, gaussian=Gaussian(np.zeros(DIM), np.eye(DIM), 1000))
    with pytest.raises(NotAvailable, match=r"^one side is statistics without features$"):
        floor(comparison(REAL, statistics, TEST))
