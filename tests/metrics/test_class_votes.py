"""The votes of neighbours against loops and hand arithmetic, and when they are not counted."""

from collections import Counter

import numpy as np
import pytest

from pipeline.metrics.class_votes import agreeing_pairs, class_shares, class_votes, coarse_pixels, vote
from pipeline.metrics.types import Estimate, FeatureSet, NotAvailable
from tests.metrics.class_features import compare, draw


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


def test_agreeing_pairs_by_hand() -> None:
    # of 10 pairs each: 10; 3 + 1; 1 + 1; 0
    rows = [[4, 4, 4, 4, 4], [3, 1, 1, 3, 3], [1, 2, 2, 1, 3], [0, 1, 2, 3, 4]]
    assert [agreeing_pairs(np.array([row])) for row in rows] == [1, 0.4, 0.2, 0]
    assert agreeing_pairs(np.array(rows)) == pytest.approx(16 / 40, rel=1e-12)
    assert agreeing_pairs(np.array([[8, 8], [2, 3], [5, 5]])) == pytest.approx(2 / 3, rel=1e-12)


@pytest.mark.parametrize("spread", [1.0, 2.35])  # clear clusters, and clusters that overlap so that the vote errs
def test_votes_against_the_definitions(spread: float) -> None:
    real, generated = draw({0: 50, 3: 30, 7: 40}, 0, spread), draw({0: 20, 3: 45, 7: 10}, 1, spread)
    got = class_votes(compare(real, generated))
    votes = naive_vote(generated[0], *real)
    shares = [(np.mean(votes == label), np.mean(real[1] == label)) for label in (0, 3, 7)]
    assert got["class_balance"].value == pytest.approx(1 - sum(abs(p - q) for p, q in shares) / 2, rel=1e-12)
    assert got["class_rarest"].value == pytest.approx(min(p / q for p, q in shares), rel=1e-12)
    right = votes == generated[1]
    assert (right.mean() < 1) == (spread > 1)
    assert got["class_agreement"].value == pytest.approx(right.mean(), rel=1e-12)
    assert got["class_agreement"].error is None  # too few votes are wrong
    assert got.keys() == {"class_trust", "class_balance", "class_rarest", "class_agreement"}
    assert 0.9 <= got["class_trust"].value <= 1 and (got["class_trust"].value < 1) == (spread > 1)


def test_votes_that_err_are_not_counted() -> None:
    real, generated = draw({0: 50, 3: 30, 7: 40}, 0, 5.0), draw({0: 20, 3: 45, 7: 10}, 1, 5.0)
    with pytest.raises(NotAvailable, match=r"the same class in only \d\d% of pairs, not 90%"):
        class_votes(compare(real, generated))


def test_it_is_the_generated_images_that_decide() -> None:
    """Real images are told apart; generated ones have features between the classes."""
    real, held_out = draw({0: 50, 3: 50}, 0), draw({0: 40, 3: 40}, 2)
    between = (real[0][real[1] == 0].mean(axis=0) + real[0][real[1] == 3].mean(axis=0)) / 2
    generated = (between + 0.5 * np.random.default_rng(1).normal(size=(60, 6))).astype(np.float32)
    assert class_votes(compare(real, held_out))["class_trust"].value == 1
    with pytest.raises(NotAvailable, match="of pairs"):
        class_votes(compare(real, (generated, np.arange(60) % 2 * 3), held_out))


def test_pixels_tell_where_features_do_not() -> None:
    features, pixels = draw({0: 50, 3: 50}, 0, 30.0), draw({0: 50, 3: 50}, 5)[0]
    real, generated = (features[0], features[1]), draw({0: 20, 3: 20}, 1, 30.0)
    order = np.argsort(features[1], kind="stable"), np.argsort(draw({0: 50, 3: 50}, 5)[1], kind="stable")
    aligned = np.empty_like(pixels)
    aligned[order[0]] = pixels[order[1]]  # of the same classes as `real`, in its order
    shown, labels = draw({0: 30, 3: 10}, 6)
    sides = FeatureSet(aligned), FeatureSet(shown)
    got = class_votes(compare(real, (generated[0], labels), pixels=sides))
    assert got["class_balance"].value == pytest.approx(0.75, rel=1e-12)
    assert got["class_agreement"].value == 1
    with pytest.raises(NotAvailable):
        class_votes(compare(real, (generated[0], labels)))
    clear = draw({0: 50, 3: 50}, 0)  # features that tell are asked first
    assert class_votes(compare(clear, draw({0: 30, 3: 30}, 1), pixels=sides))["class_balance"].value == 1


def test_coarse_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 48), dtype=np.uint8)
    means = images.reshape(5, 3, 16, 2, 16, 3).astype(float).mean(axis=(3, 5))
    np.testing.assert_allclose(coarse_pixels(images).features, means.reshape(5, -1), rtol=1e-6)
    small = images[:, :1, :8, :16]
    np.testing.assert_array_equal(coarse_pixels(small).features, small.reshape(5, -1))


def test_without_labels_of_the_generated_images() -> None:
    real, (features, _) = draw({0: 20, 1: 20}, 0), draw({0: 30, 1: 10}, 1)
    got = class_votes(compare(real, (features, None)))
    assert got == {"class_trust": Estimate(1.0), "class_balance": Estimate(0.75), "class_rarest": Estimate(0.5)}


def test_a_dropped_class_is_seen() -> None:
    real = draw(dict.fromkeys(range(5), 20), 0, 0.5)
    got = class_votes(compare(real, (draw(dict.fromkeys(range(4), 20), 1, 0.5)[0], None)))
    assert got["class_rarest"].value == 0
    assert got["class_balance"].value == pytest.approx(0.8, rel=1e-12)


def test_generated_labels_that_are_wrong_are_seen() -> None:
    real, (features, labels) = draw({0: 20, 1: 20}, 0), draw({0: 24, 1: 8}, 1)
    assert class_votes(compare(real, (features, 1 - labels)))["class_agreement"].value == 0
    labels[np.flatnonzero(labels == 0)[:8]] = 1
    got = class_votes(compare(real, (features, labels)))["class_agreement"]
    assert got.value == 0.75
    assert got.error == pytest.approx(np.sqrt(16 * (16 / 4 / 15)) / 32, rel=1e-12)  # all of 16, and half of 16


def test_fewer_real_images_than_votes() -> None:
    real = (np.array([[0.0], [1.0], [10.0]], np.float32), np.array([0, 0, 1]))
    with pytest.raises(NotAvailable, match="33% of pairs"):  # of each image's three neighbours, one is 1's
        class_votes(compare(real, (np.array([[9.0], [0.5]], np.float32), None)))
