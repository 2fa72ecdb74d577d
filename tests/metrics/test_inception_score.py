"""The Inception Score against hand arithmetic and a loop over images."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.metrics import inception_score as score_module
from pipeline.metrics.inception_score import SPLITS, assign_splits, inception_score, split_scores
from pipeline.metrics.types import Estimate, FeatureSet, NotAvailable
from tests.metrics.comparisons import Features, comparison

SURE = 60.0  # a logit that leaves the other classes e⁻⁶⁰


def score(generated: Features, head: np.ndarray | None) -> dict[str, Estimate]:
    """The metric, which never looks at the real images."""
    return inception_score(comparison(np.zeros((4, 3), np.float32), generated, head=head))


def together(features: np.ndarray, head: np.ndarray) -> float:
    """The score of all images as one split."""
    scores = split_scores(features, head, np.zeros(len(features), np.int64))
    assert scores.shape == (1,)
    return float(scores[0])


def naive(features: np.ndarray, head: np.ndarray) -> float:
    logits = [head.astype(float) @ x for x in features.astype(float)]
    p = np.array([np.exp(row) / np.exp(row).sum() for row in logits])
    marginal = p.mean(axis=0)
    return float(np.exp(np.mean([np.sum(row * np.log(row / marginal)) for row in p])))


def test_two_classes_by_hand() -> None:
    p = np.array([[0.8, 0.2], [0.4, 0.6]])  # on average 0.6 and 0.4
    first = 0.8 * np.log(4 / 3) + 0.2 * np.log(1 / 2)
    second = 0.4 * np.log(2 / 3) + 0.6 * np.log(3 / 2)
    assert together(np.log(p), np.eye(2)) == pytest.approx(np.exp((first + second) / 2), rel=1e-12)
    assert together(np.log(p) + 3, np.eye(2)) == pytest.approx(1.09014, abs=1e-5)  # exp(0.08630)


def test_the_head_maps_features_to_logits() -> None:
    head = np.array([[1.0, 2.0], [0.0, -1.0], [0.5, 0.0]])  # 3 classes, 2 features
    features = np.array([[1.0, -1.0], [2.0, 1.0], [0.0, 3.0]])
    logits = np.array([[-1.0, 1.0, 0.5], [4.0, -1.0, 1.0], [6.0, -3.0, 0.0]])
    assert together(features, head) == pytest.approx(naive(logits, np.eye(3)), rel=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 7, 1008])
def test_images_that_say_nothing_score_1(classes: int) -> None:
    assert together(np.zeros((20, 3)), np.ones((classes, 3))) == pytest.approx(1, abs=1e-12)
    same = np.tile(np.arange(3.0), (20, 1))  # sure of something, but always of the same
    head = np.random.default_rng(0).normal(size=(classes, 3)) * 10
    assert together(same, head) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_sure_and_balanced_scores_the_number_of_classes(classes: int) -> None:
    features = np.tile(np.eye(classes) * SURE, (6, 1))
    assert together(features, np.eye(classes)) == pytest.approx(classes, rel=1e-12)
    more = np.eye(classes, classes + 4)  # and 4 classes that never occur
    assert together(features @ more, np.eye(classes + 4)) == pytest.approx(classes, rel=1e-12)


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_large_logits_do_not_overflow(scale: float) -> None:
    assert together(np.eye(3) * scale, np.eye(3)) == pytest.approx(3, rel=1e-12)
    assert together(np.eye(3) * scale - 5 * scale, np.eye(3)) == pytest.approx(3, rel=1e-12)
    assert together(np.eye(3)[:2] * scale, np.eye(3)) == pytest.approx(2, rel=1e-12)  # the third class: 0 log 0


@pytest.mark.parametrize("block", [1, 7, 64, 4096])  # 75 is a multiple of 1 alone: the last block is short
def test_splits_against_a_loop(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(score_module, "BLOCK", block)
    source = np.random.default_rng(0)
    features, head = source.normal(size=(75, 6)).astype(np.float32), source.normal(size=(9, 6)).astype(np.float32)
    splits = source.integers(4, size=75)
    scores = split_scores(features, head, splits)
    expected = [naive(features[splits == s], head) for s in range(4)]
    np.testing.assert_allclose(scores, expected, rtol=1e-10)
    assert min(expected) > 1.5 and np.std(expected) > 0.05  # the splits differ, so their order matters


@pytest.mark.parametrize("count", [10, 11, 19, 20, 1438])
def test_every_image_is_in_one_split_of_almost_equal_size(count: int) -> None:
    splits = assign_splits(count, SPLITS, seed=0)
    sizes = np.bincount(splits, minlength=10)
    assert splits.shape == (count,) and len(sizes) == 10
    assert sizes.sum() == count and sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(splits, assign_splits(count, SPLITS, seed=0))
    assert (splits != assign_splits(count, SPLITS, seed=1)).any()


@pytest.mark.parametrize("in_turn", [True, False])
def test_the_order_of_the_classes_does_not_matter(in_turn: bool) -> None:
    labels = np.arange(2000) % 10 if in_turn else np.arange(2000) // 200
    features = (np.eye(10) * SURE)[labels].astype(np.float32)
    estimate = score(features, np.eye(10))["inception_score"]
    # A split of 200 images of 10 classes lacks about 9 / 400 of log 10 by chance (a little less: without replacement).
    assert estimate.value == pytest.approx(10 * np.exp(-9 / 400 * 0.9), rel=0.01)
    assert estimate.error is not None and 0 < estimate.error < 0.1


def test_value_and_error_are_those_of_ten_splits() -> None:
    source = np.random.default_rng(1)
    features, head = source.normal(size=(53, 4)).astype(np.float32), source.normal(size=(6, 4)) * 2
    result = score(features, head)
    splits = assign_splits(53, 10, score_module.stable_hash("inception_score"))
    scores = [naive(features[splits == s], head) for s in range(10)]
    assert list(result) == ["inception_score"]
    assert result["inception_score"].value == pytest.approx(sum(scores) / 10, rel=1e-10)
    variance = sum((score - sum(scores) / 10) ** 2 for score in scores) / 9
    assert result["inception_score"].error == pytest.approx(np.sqrt(variance / 10), rel=1e-8)
    assert result == score(features, head)


def test_memory_mapped_features(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert score(mapped, np.eye(3)) == score(features, np.eye(3))


def test_what_it_needs() -> None:
    with pytest.raises(NotAvailable, match="needs Inception's class weights"):
        score(np.zeros((20, 3), np.float32), None)
    with pytest.raises(NotAvailable, match="needs at least 10 generated images"):
        score(np.zeros((9, 3), np.float32), np.eye(3))
    assert score(np.zeros((10, 3), np.float32), np.eye(3))["inception_score"] == (1.0, 0.0)
    statistics = FeatureSet(None, gaussian=FeatureSet(np.zeros((4, 3), np.float32)).gaussian)
    with pytest.raises(NotAvailable, match="statistics without features"):
        score(statistics, np.eye(3))
