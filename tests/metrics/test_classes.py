"""The distances within single classes against their definition and hand arithmetic."""

import numpy as np
import pytest

from pipeline.metrics.class_votes import class_votes
from pipeline.metrics.classes import class_distances, classes
from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.types import FeatureSet, NotAvailable
from tests.metrics.class_features import compare, draw


def test_distances_against_the_definitions() -> None:
    real, generated = draw({0: 50, 3: 30, 7: 40}, 0), draw({0: 20, 3: 45, 7: 10}, 1)
    got = classes(compare(real, generated, draw({0: 30, 3: 20}, 2)))
    expected = {}
    for label in (0, 3, 7):
        sides = [Gaussian.from_features(x[labels == label]) for x, labels in (real, generated)]
        expected[f"fd_x_class/{label}"] = frechet_distance(*sides)
    expected["fd_x_class_mean"] = sum(expected.values()) / 3
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].value == pytest.approx(value, rel=1e-9)
        assert got[name].error is None


def test_a_class_needs_two_images_on_both_sides() -> None:
    real = FeatureSet(*draw({0: 9, 1: 9, 2: 1, 3: 2, 4: 9}, 0))
    generated = FeatureSet(*draw({0: 2, 1: 1, 2: 9, 3: 2, 5: 9}, 1))
    assert class_distances(real, generated, "fid").keys() == {"fid_class/0", "fid_class/3", "fid_class_mean"}
    assert class_distances(real, FeatureSet(*draw({1: 1, 5: 4}, 1)), "fid") == {}


def test_a_shifted_class_costs_its_squared_length() -> None:
    features, labels = draw({1: 20, 2: 30}, 0, dim=3)
    moved = features.astype(np.float64)
    moved[labels == 2] += [1.0, -2.0, 0.5]
    got = class_distances(FeatureSet(features, labels), FeatureSet(moved, labels), "fid")
    assert got["fid_class/1"].value == pytest.approx(0, abs=1e-6)
    assert got["fid_class/2"].value == pytest.approx(5.25, rel=1e-6)
    assert got["fid_class_mean"].value == pytest.approx(2.625, rel=1e-6)


def test_without_labels_of_the_generated_images() -> None:
    real, (features, _) = draw({0: 20, 1: 20}, 0), draw({0: 30, 1: 10}, 1)
    with pytest.raises(NotAvailable, match=r"^the generated images have no labels$"):
        classes(compare(real, (features, None)))


@pytest.mark.parametrize("labels", [None, np.zeros(20, np.int64)])
def test_without_classes_it_is_not_available(labels: np.ndarray | None) -> None:
    features, _ = draw({0: 20}, 0)
    for metric in (classes, class_votes):
        with pytest.raises(NotAvailable, match=r"^the real images have no classes$"):
            metric(compare((features, labels), (features, np.zeros(20, np.int64))))
