"""What is said class by class, against loops and hand arithmetic, with and without labels."""

import functools
from collections import Counter

import numpy as np
import pytest

from pipeline.metrics.classes import class_distances, class_shares, classes, vote
from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.types import Estimate, FeatureSet, NotAvailable
from tests.metrics.comparisons import comparison

compare = functools.partial(comparison, metric="fd_x")


def draw(counts: dict[int, int], seed: int, spread: float = 1.0, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """float32 features (N, D) in one cluster per label, and the labels int64 (N,), shuffled."""
    source = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(10, 3, size=(10, dim))
    labels = source.permutation(np.repeat(list(counts), list(counts.values())))
    return (centres[labels] + spread * source.normal(size=(len(labels), dim))).astype(np.float32), labels


def naive_vote(queries: np.ndarray, real: np.ndarray, labels: np.ndarray) -> np.ndarray:
    votes = []
    for query in queries:
        near = np.argsort(np.linalg.norm(real.astype(np.float64) - query, axis=1), kind="stable")[:5]
        tally = Counter(labels[near].tolist())
        most = max(tally.values())
        votes.append(next(label for label in labels[near].tolist() if tally[label] == most))
    return np.array(votes)


def test_votes_by_hand() -> None:
    rows = [[1, 2, 2, 1, 3], [3, 1, 1, 2, 2], [4, 4, 4, 4, 4], [0, 1, 2, 3, 4], [5, 6, 6, 6, 5], [7, 5, 5, 7, 9]]
    assert vote(np.array(rows)).tolist() == [1, 1, 4, 0, 6, 7]
    assert vote(np.array([[8], [2]])).tolist() == [8, 2]


def test_shares_by_hand() -> None:
    labels = np.array([0] * 5 + [1] * 3 + [4] * 2)  # 0.5, 0.3, 0.2
    votes = np.array([0] * 1 + [1] * 2 + [4] * 1)  # 0.25, 0.5, 0.25
    got = class_shares(labels, votes)
    assert got["class_balance"].value == pytest.approx(1 - (0.25 + 0.2 + 0.05) / 2, rel=1e-12)
    assert got["class_rarest"].value == pytest.approx(0.5, rel=1e-12)
    missing = class_shares(labels, np.array([0, 1, 1, 0]))
    assert missing["class_rarest"].value == 0
    assert missing["class_balance"].value == pytest.approx(1 - (0 + 0.2 + 0.2) / 2, rel=1e-12)
    assert class_shares(labels, np.tile(labels, 3)) == {"class_balance": Estimate(1.0), "class_rarest": Estimate(1.0)}


@pytest.mark.parametrize("spread", [1.0, 5.0])  # clear clusters, and clusters that overlap so that the vote errs
def test_against_the_definitions(spread: float) -> None:
    real = draw({0: 50, 3: 30, 7: 40}, 0, spread)
    generated = draw({0: 20, 3: 45, 7: 10}, 1, spread)
    held_out = draw({0: 30, 3: 20, 7: 10}, 2, spread)
    got = classes(compare(real, generated, held_out))
    votes = naive_vote(generated[0], *real)
    shares = [(np.mean(votes == label), np.mean(real[1] == label)) for label in (0, 3, 7)]
    assert got["class_balance"].value == pytest.approx(1 - sum(abs(p - q) for p, q in shares) / 2, rel=1e-12)
    assert got["class_rarest"].value == pytest.approx(min(p / q for p, q in shares), rel=1e-12)
    agreement, accuracy = np.mean(votes == generated[1]), np.mean(naive_vote(held_out[0], *real) == held_out[1])
    assert (agreement < 1) == (spread > 1)
    for name, share, count in [("class_agreement", agreement, 75), ("class_vote_accuracy", accuracy, 60)]:
        assert got[name].value == pytest.approx(share, rel=1e-12)
        assert got[name].error == pytest.approx(np.sqrt(share * (1 - share) / count), rel=1e-12)
    expected = {}
    for label in (0, 3, 7):
        sides = [Gaussian.from_features(x[labels == label]) for x, labels in (real, generated)]
        expected[f"fd_x_class/{label}"] = frechet_distance(*sides)
    expected["fd_x_class_mean"] = sum(expected.values()) / 3
    for name, value in expected.items():
        assert got[name].value == pytest.approx(value, rel=1e-9)
        assert got[name].error is None
    assert got.keys() == expected.keys() | {
        "class_balance",
        "class_rarest",
        "class_vote_accuracy",
        "class_agreement",
    }


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
    real, generated = draw({0: 20, 1: 20}, 0), draw({0: 30, 1: 10}, 1)
    got = classes(compare(real, (generated[0], None), (generated[0], None)))
    assert got == {"class_balance": Estimate(0.75), "class_rarest": Estimate(0.5)}
    assert "class_vote_accuracy" in classes(compare(real, (generated[0], None), draw({0: 5, 1: 5}, 2)))


def test_a_dropped_class_is_seen() -> None:
    real = draw(dict.fromkeys(range(5), 20), 0)
    got = classes(compare(real, (draw(dict.fromkeys(range(4), 20), 1)[0], None)))
    assert got["class_rarest"].value == 0
    assert got["class_balance"].value == pytest.approx(0.8, rel=1e-12)


def test_generated_labels_that_are_wrong_are_seen() -> None:
    real, (features, labels) = draw({0: 20, 1: 20}, 0), draw({0: 12, 1: 4}, 1)
    assert classes(compare(real, (features, 1 - labels)))["class_agreement"].value == 0
    labels[np.flatnonzero(labels == 0)[:4]] = 1
    assert classes(compare(real, (features, labels)))["class_agreement"].value == 0.75


def test_fewer_real_images_than_votes() -> None:
    real = (np.array([[0.0], [1.0], [10.0]], np.float32), np.array([0, 0, 1]))
    got = classes(compare(real, (np.array([[9.0], [0.5]], np.float32), None)))
    assert got["class_rarest"].value == 0  # two of three votes are always 0's


@pytest.mark.parametrize("labels", [None, np.zeros(20, np.int64)])
def test_without_classes_it_is_not_available(labels: np.ndarray | None) -> None:
    features, _ = draw({0: 20}, 0)
    with pytest.raises(NotAvailable, match=r"^the real images have no classes$"):
        classes(compare((features, labels), (features, np.zeros(20, np.int64))))
