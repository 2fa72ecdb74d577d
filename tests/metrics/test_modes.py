"""Modes of stacked digits: the count by hand, a classifier of made digits, and MNIST itself where it is at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data.prepared import prepare
from pipeline.metrics import Extractor, load_reference, measure, measure_reference
from pipeline.metrics import modes as module
from pipeline.metrics.applicable import NotApplicable
from pipeline.metrics.class_votes import coarse_pixels
from pipeline.metrics.modes import StackedDigits, count_modes, modes, pixels_of, read_digits
from pipeline.metrics.types import Comparison, FeatureSet, NotAvailable
from pipeline.params import MetricsParams
from tests.data.samples import params
from tests.metrics.comparisons import comparison

SIZE = 8


def patterns(triples: np.ndarray, seed: int = 0) -> np.ndarray:
    """uint8 (N, 3, 8, 8): digit d is a bright block of 2 x 4 pixels at the place d, with noise."""
    source = np.random.default_rng(seed)
    images = source.integers(0, 60, (len(triples), 3, SIZE, SIZE), dtype=np.uint8)
    for row, triple in enumerate(triples):
        for channel, digit in enumerate((triple // 100, triple // 10 % 10, triple % 10)):
            top, left = digit % 4 * 2, digit // 4 * 2
            images[row, channel, top : top + 2, left : left + 4] += 150
    return images


class Means(nn.Module):
    """Each channel's mean as a feature."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


TRIPLES = np.random.default_rng(9).permutation(1000)


def compared(generated: np.ndarray, real: np.ndarray = TRIPLES) -> Comparison:
    sides = tuple(StackedDigits(patterns(triples, seed)) for seed, triples in enumerate((real, generated)))
    features = np.zeros((len(real), 2), np.float32), np.zeros((len(generated), 2), np.float32)
    return comparison((features[0], real), features[1], pixels=sides)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 120)


def test_the_count_by_hand() -> None:
    assert count_modes(np.array([5, 5, 5, 5])) == (1, pytest.approx(np.log(1000)))
    shares = np.array([1 / 2, 1 / 4, 1 / 4])
    expected = float((shares * np.log(1000 * shares)).sum())
    assert count_modes(np.array([999, 0, 999, 17])) == (3, pytest.approx(expected, rel=1e-12))
    assert count_modes(np.tile(np.arange(1000), 3)) == (1000, pytest.approx(0, abs=1e-12))


def test_the_floor_of_26000_uniform_triples_is_what_it_must_be() -> None:
    """(1000 - 1) / (2 n) = 0.0192, to first order."""
    found = [count_modes(np.random.default_rng(seed).integers(1000, size=26_000)) for seed in range(20)]
    assert {modes for modes, _ in found} == {1000}
    assert np.mean([kl for _, kl in found]) == pytest.approx(999 / 52_000, rel=0.03)


@pytest.mark.usefixtures("quick")
def test_modes_of_generated_triples() -> None:
    generated = np.repeat([123, 456, 999, 0], [100, 50, 25, 25])
    found = modes(compared(generated))
    shares = np.array([100, 50, 25, 25]) / 200
    assert found["modes"].value == 4
    assert found["modes_kl"].value == pytest.approx((shares * np.log(1000 * shares)).sum(), rel=1e-12)
    assert found["digit_accuracy"].value == 1
    real, kl = found["modes_real"].value, found["modes_kl_real"].value
    assert 1000 * (1 - np.exp(-0.2)) == pytest.approx(real, rel=0.1)  # 200 draws of 1,000
    assert np.log(1000 / 200) < kl < np.log(1000 / 200) + 0.3
    assert all(estimate.error is None for estimate in found.values())
    assert modes(compared(generated)) == found  # trained again, to the same bits


@pytest.mark.usefixtures("quick")
def test_no_more_samples_are_counted_than_others_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", 40)
    found = modes(compared(np.arange(100)))
    assert found["modes"].value == 40 and found["modes_real"].value <= 40


@pytest.mark.usefixtures("quick")
def test_the_classifier_is_trained_once_for_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    one = compared(TRIPLES[:50])
    modes(one)
    monkeypatch.setattr(module, "read_digits", None)  # a second training would call it; so does reading
    with pytest.raises(TypeError):
        modes(one)
    calls = []
    monkeypatch.setattr(
        module, "read_digits", lambda classifier, images: calls.append(1) or read_digits(classifier, images)
    )
    modes(one)
    assert len(calls) == 1


def test_a_classifier_that_cannot_read_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 1)
    with pytest.raises(NotAvailable, match=r"the classifier reads only \d+\.\d% of the real digits right"):
        modes(compared(TRIPLES[:100], TRIPLES[::-1].copy()))


def test_other_data_have_no_modes_that_are_known() -> None:
    images = np.zeros((6, 3, 8, 8), np.uint8)
    assert isinstance(pixels_of(images, "stacked_mnist"), StackedDigits)
    assert not isinstance(pixels_of(images, "cifar10"), StackedDigits)
    features = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    plain = comparison(features, features, pixels=(coarse_pixels(images), coarse_pixels(images)))
    for other in (plain, comparison(features, features)):
        with pytest.raises(NotApplicable, match="only stacked_mnist has modes"):
            modes(other)
    with pytest.raises(NotAvailable, match="no classes"):
        modes(comparison(FeatureSet(features), features, pixels=compared(TRIPLES[:3]).pixels))


def test_what_does_not_apply_is_told_only_where_it_is_asked_for() -> None:
    features = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    plain = comparison(features, features)
    assert not {"modes", "cmmd"} & measure(plain).not_available.keys()
    assert measure(plain, ["modes", "cmmd"]).not_available == {
        "modes": "only stacked_mnist has modes that are known", "cmmd": "needs the extractor clip_vitl14_336",
    }  # fmt: skip
    assert measure(plain).not_available["memorisation"] == "no held-out images"


@pytest.mark.usefixtures("quick")
def test_the_reference_has_the_modes_of_the_test_split(
    tmp_path: Path, metrics_params: Callable[..., MetricsParams]
) -> None:
    for split, count in (("train", 200), ("test", 60)):
        np.save(tmp_path / f"{split}.npy", patterns(TRIPLES[:count], count))
        np.save(tmp_path / f"{split}_labels.npy", TRIPLES[:count])
    names = [f"{number:03d}" for number in range(1000)]
    toy = Extractor("toy", "fd_toy", 3, Means(), torch.device("cpu"), {"extractor": "toy"})
    for name in ("stacked_mnist", "folder"):
        description = {"name": name, "sha256": "d" * 64, "classes": names}
        floor = measure_reference(tmp_path, description, toy, metrics_params(), tmp_path / name)
        assert floor["metrics"].get("modes") == (60 if name == "stacked_mnist" else None)
        assert load_reference(tmp_path / name, toy).floor["data"] == name


@pytest.mark.slow
def test_real_digits(real_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the steps, on 6,000 triples. All of it: 0.9885 of the test digits, and KL 0.0236 of 26,000 triples."""
    prepare(params(dataset="stacked_mnist", root=str(real_root), image_size=28, limit=6000), tmp_path / "out")
    images, labels = (
        {split: np.load(tmp_path / "out" / f"{split}{kind}.npy") for split in ("train", "test")}
        for kind in ("", "_labels")
    )
    monkeypatch.setattr(module, "STEPS", 400)
    drawn = np.random.default_rng(0).integers(6000, size=(8000, 3))
    sides = StackedDigits(images["train"]), StackedDigits(images["test"][drawn, np.arange(3)])
    features = np.zeros((6000, 2), np.float32)
    found = modes(comparison((features, labels["train"]), features, pixels=sides))
    assert 995 <= found["modes"].value <= 1000 and 995 <= found["modes_real"].value <= 1000
    assert 0.97 < found["digit_accuracy"].value < 1
    assert found["modes_kl_real"].value == pytest.approx(999 / 16_000 + 0.005, abs=0.01)
    assert found["modes_kl"].value == pytest.approx(999 / 16_000 + 0.01, abs=0.015)
