"""The real side: statistics, features and floor, measured once under a stub extractor."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import PipelineError
from pipeline.metrics import (
    METRICS,
    Estimate,
    Extractor,
    FeatureSet,
    Gaussian,
    Reference,
    load_reference,
    measure,
    measure_reference,
)
from pipeline.metrics.gaussian_file import load_gaussian
from pipeline.metrics.reference import CIFAR10_SHA256, self_check
from pipeline.params import MetricsParams

DESCRIPTION = {"sha256": "d" * 64, "classes": ["a", "b"]}


class Stub(nn.Module):
    """Three features: the mean of each channel, the red one times ten."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * torch.tensor([10.0, 1.0, 1.0])


def stub(**protocol: str) -> Extractor:
    return Extractor("stub", "fd_stub", 3, Stub(), torch.device("cpu"), {"extractor": "stub", **protocol})


@pytest.fixture
def params(metrics_params: Callable[..., MetricsParams]) -> MetricsParams:
    return metrics_params("stub", bootstrap=3)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    source, folder = np.random.default_rng(0), tmp_path / "prepared"
    folder.mkdir()
    np.save(folder / "train.npy", source.integers(0, 256, (31, 3, 4, 4), dtype=np.uint8))
    np.save(folder / "test.npy", source.integers(30, 200, (11, 3, 4, 4), dtype=np.uint8))
    np.save(folder / "train_labels.npy", np.arange(31) % 2)
    np.save(folder / "test_labels.npy", np.arange(11) % 2)
    return folder


def features_of(path: Path) -> np.ndarray:
    return np.load(path).astype(np.float64).mean(axis=(2, 3)) * [10, 1, 1]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """By the eigenvalues of S1 S2: a different road from ours, exact enough at full rank in three dimensions."""
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).real).sum()
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * root)


@pytest.mark.parametrize("batch", [1, 4, 8, 100])  # 31 = 7 * 4 + 3: a dropped last batch shows
def test_the_floor_is_the_distance_between_the_splits(
    prepared: Path, batch: int, tmp_path: Path, params: MetricsParams
) -> None:
    out = tmp_path / "reference"
    measure_reference(prepared, DESCRIPTION, stub(resize="none"), params.model_copy(update={"batch_size": batch}), out)
    train, test = features_of(prepared / "train.npy"), features_of(prepared / "test.npy")
    floor = json.loads((out / "floor.json").read_text())
    assert floor["value"] == pytest.approx(distance(train, test), rel=1e-5)
    assert floor["value"] > 100
    assert floor["value"] != pytest.approx(distance(train[:-3], test), rel=1e-3)
    assert floor["metrics"]["fd_stub"] == floor.pop("value")
    assert floor["metrics"].keys() >= {"kd_stub", "precision", "recall", "density", "coverage"}
    assert floor["sampling_error"]["fd_stub"] > 0
    assert abs(floor["self_check"]["identity"]) < 1e-6
    known = "of CIFAR-10's images are known: fid 3.151, fd_dinov2_vitl14 31.07"
    assert floor["self_check"]["known_value"].endswith(known)
    for key in ("metrics", "sampling_error", "self_check"):
        del floor[key]
    assert floor == {
        "data": None, "metric": "fd_stub", "train_images": 31, "test_images": 11, "data_sha256": "d" * 64,
        "extractor": {"extractor": "stub", "resize": "none"},
    }  # fmt: skip
    stored = np.load(out / "train_features.npy")
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, train, rtol=1e-5)
    np.testing.assert_allclose(np.load(out / "test_features.npy"), test, rtol=1e-5)
    assert sorted(path.name for path in out.iterdir()) == [
        "SHA256SUMS", "floor.json", "neighbours.npy", "statistics.npz", "test_features.npy", "test_labels.npy",
        "train_features.npy", "train_labels.npy"]  # fmt: skip


def test_a_loaded_reference_measures_samples(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / "reference")
    reference = load_reference(tmp_path / "reference", stub())
    train, test = features_of(prepared / "train.npy"), features_of(prepared / "test.npy")
    assert isinstance(reference, Reference)
    assert reference.gaussian.count == 31
    assert reference.distance(test.astype(np.float32)) == pytest.approx(reference.floor["value"], rel=1e-5)
    assert abs(reference.distance(train)) < 1e-4
    few = train[:3] + np.array([5, 0, 0])  # as many samples as dimensions: the dual form
    assert reference.distance(few) == pytest.approx(distance(train, few), rel=1e-3)


def test_every_metric_of_samples_against_a_loaded_reference(
    prepared: Path, tmp_path: Path, params: MetricsParams
) -> None:
    measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / "reference")
    reference = load_reference(tmp_path / "reference", stub())
    test = features_of(prepared / "test.npy").astype(np.float32)
    comparison = reference.against(FeatureSet(test), stub(), params)
    assert comparison.real.labels is not None
    assert comparison.real.labels.tolist() == (np.arange(31) % 2).tolist()
    found = measure(comparison)
    assert found.not_available.keys() == {"inception_score", "fid_infinity", "classes", "class_votes"}
    for key, value in reference.floor["metrics"].items():  # the same images, so the same values
        if "class" not in key:
            assert found.values[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key
    assert found.values["nearest_ratio"] == pytest.approx(1, rel=1e-5)
    record = found.record()
    assert record["fd_stub"] == found.values["fd_stub"]
    assert record["sampling_error"] == found.errors
    assert measure(comparison, ["kid"]).values.keys() == {"kd_stub"}


def test_a_metric_that_is_not_finite_is_refused(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: MetricsParams
) -> None:
    measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / "reference")
    reference = load_reference(tmp_path / "reference", stub())
    monkeypatch.setitem(METRICS, "kid", lambda _: {"kd_stub": Estimate(float("nan"))})
    with pytest.raises(PipelineError, match=r"^kd_stub is nan: the images or the weights are damaged$"):
        measure(reference.against(FeatureSet(reference.test.features), stub(), params))


def test_the_known_floor_is_checked_where_it_applies() -> None:
    real = Gaussian.from_features(np.random.default_rng(0).standard_normal((50, 3)))
    for floor in (3.1465, 3.1555):
        assert self_check(real, floor, "fid", CIFAR10_SHA256)["known_value"].startswith("passed: FID 3.1")
    for floor in (3.1455, 3.1565, 12.0):
        with pytest.raises(PipelineError, match=rf"^self-check failed: CIFAR-10's test images have FID {floor:.4f}"):
            self_check(real, floor, "fid", CIFAR10_SHA256)
    for metric, data in [("fd_efficientnet_lite0", CIFAR10_SHA256), ("fid", "0" * 64)]:
        assert self_check(real, 12.0, metric, data)["known_value"].startswith("not checked")


def test_a_reference_that_is_not_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Gaussian.from_features(np.random.default_rng(0).standard_normal((50, 3)))
    monkeypatch.setattr("pipeline.metrics.reference.frechet_distance", lambda *_: 1e-6 * real.trace)
    with pytest.raises(PipelineError, match=r"^self-check failed: the training images are .* from themselves"):
        self_check(real, 1.0, "fd_stub", "")


def test_measuring_twice_gives_the_same_bytes(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    for name in ("a", "b"):
        measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / name)
    for name in ("train_features.npy", "neighbours.npy", "floor.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    first, second = (load_gaussian(tmp_path / name / "statistics.npz") for name in ("a", "b"))
    np.testing.assert_array_equal(first.factor, second.factor)


def test_a_reference_of_other_data_is_refused(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / "reference")
    load_reference(tmp_path / "reference", stub(), DESCRIPTION["sha256"])
    with pytest.raises(PipelineError, match="reference was measured on other data than the prepared: run `dvc repro`"):
        load_reference(tmp_path / "reference", stub(), "f" * 64)


def test_a_reference_under_another_extractor_is_refused(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    measure_reference(prepared, DESCRIPTION, stub(weights_sha256="a"), params, tmp_path / "reference")
    assert load_reference(tmp_path / "reference", stub(weights_sha256="a")).floor["train_images"] == 31
    with pytest.raises(PipelineError, match="reference was measured with another extractor: run `dvc repro`"):
        load_reference(tmp_path / "reference", stub(weights_sha256="b"))


def test_a_missing_reference_is_said_in_a_sentence(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    with pytest.raises(PipelineError, match=r"floor.json does not exist: run `dvc repro`"):
        load_reference(tmp_path / "reference", stub())
    measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / "reference")
    (tmp_path / "reference" / "statistics.npz").unlink()
    with pytest.raises(PipelineError, match=r"statistics.npz does not exist: run `dvc repro`"):
        load_reference(tmp_path / "reference", stub())


def test_one_test_image_has_no_covariance(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    np.save(prepared / "test.npy", np.load(prepared / "test.npy")[:1])
    with pytest.raises(PipelineError, match="a covariance needs at least 2 images, got 1"):
        measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()  # whole or not at all


def test_weights_that_give_nan_are_refused(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3)) * float("nan")

    broken = Extractor("stub", "fd_stub", 3, Broken(), torch.device("cpu"), {})
    with pytest.raises(PipelineError, match="NaN or infinite"):
        measure_reference(prepared, DESCRIPTION, broken, params, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_one_class_of_a_reference(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / "reference")
    whole = load_reference(tmp_path / "reference", stub())
    one = whole.of_class(1)
    assert (len(one.train), len(one.test)) == (15, 5)
    np.testing.assert_array_equal(one.train.features, whole.train.features[1::2])
    np.testing.assert_array_equal(one.test.features, whole.test.features[1::2])
    assert one.train.labels is not None and set(one.train.labels) == {1}
    generated = np.random.default_rng(1).normal(100, 50, (5, 3))
    found = measure(one.against(FeatureSet(generated.astype(np.float32)), stub(), params))
    train, test = (features_of(prepared / f"{split}.npy")[1::2] for split in ("train", "test"))
    assert found.values["fd_stub"] == pytest.approx(distance(train, generated), rel=1e-4)
    assert found.values["floor"] == pytest.approx(distance(train, test), rel=1e-4)
    assert found.values["fd_stub"] != pytest.approx(distance(features_of(prepared / "train.npy"), generated), rel=1e-3)
    neighbour = np.sort(np.linalg.norm(train[:, None] - train[None], axis=2), axis=1)[:, 1]
    np.testing.assert_allclose(one.train.neighbour_distances[:, 0], neighbour, rtol=1e-4)


def test_a_class_with_too_few_images(prepared: Path, tmp_path: Path, params: MetricsParams) -> None:
    np.save(prepared / "train_labels.npy", np.array([5, *[1] * 30]))
    np.save(prepared / "test_labels.npy", np.full(11, 5))
    measure_reference(prepared, DESCRIPTION, stub(), params, tmp_path / "reference")
    whole = load_reference(tmp_path / "reference", stub())
    for label, count in [(5, 1), (3, 0)]:
        with pytest.raises(PipelineError, match=f"^class {label} has {count} training images: name another in gen"):
            whole.of_class(label)
    found = measure(whole.of_class(1).against(FeatureSet(whole.train.features), stub(), params))  # no test image
    assert found.not_available["floor"] == found.not_available["memorisation"] == "no held-out images"
    unlabelled = Reference(FeatureSet(whole.train.features), FeatureSet(whole.test.features), {})
    with pytest.raises(PipelineError, match=r"^class 0 has 0 training images"):
        unlabelled.of_class(0)
