"""The real side: statistics, features and floor, measured once under a stub extractor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.metrics import Extractor, Gaussian, Reference, load_reference, measure_reference

DESCRIPTION = {"sha256": "d" * 64}


class Stub(nn.Module):
    """Three features: the mean of each channel, the red one times ten."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * torch.tensor([10.0, 1.0, 1.0])


def stub(**protocol: str) -> Extractor:
    return Extractor("stub", "fd_stub", 3, Stub(), torch.device("cpu"), {"extractor": "stub", **protocol})


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    source, folder = np.random.default_rng(0), tmp_path / "prepared"
    folder.mkdir()
    np.save(folder / "train.npy", source.integers(0, 256, (31, 3, 4, 4), dtype=np.uint8))
    np.save(folder / "test.npy", source.integers(30, 200, (11, 3, 4, 4), dtype=np.uint8))
    return folder


def features_of(path: Path) -> np.ndarray:
    return np.load(path).astype(np.float64).mean(axis=(2, 3)) * [10, 1, 1]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """By the eigenvalues of S1 S2: a different road from ours, exact enough at full rank in three dimensions."""
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).real).sum()
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * root)


@pytest.mark.parametrize("batch", [1, 4, 8, 100])  # 31 = 7 * 4 + 3: a dropped last batch shows
def test_the_floor_is_the_distance_between_the_splits(prepared: Path, batch: int, tmp_path: Path) -> None:
    out = tmp_path / "reference"
    measure_reference(prepared, DESCRIPTION, stub(resize="none"), batch, out)
    train, test = features_of(prepared / "train.npy"), features_of(prepared / "test.npy")
    floor = json.loads((out / "floor.json").read_text())
    assert floor["value"] == pytest.approx(distance(train, test), rel=1e-5)
    assert floor["value"] > 100
    assert floor["value"] != pytest.approx(distance(train[:-3], test), rel=1e-3)
    del floor["value"]
    assert floor == {
        "metric": "fd_stub", "train_images": 31, "test_images": 11, "data_sha256": "d" * 64,
        "extractor": {"extractor": "stub", "resize": "none"},
    }  # fmt: skip
    stored = np.load(out / "features.npy")
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, train, rtol=1e-5)
    assert sorted(path.name for path in out.iterdir()) == ["features.npy", "floor.json", "statistics.npz"]


def test_a_loaded_reference_measures_samples(prepared: Path, tmp_path: Path) -> None:
    measure_reference(prepared, DESCRIPTION, stub(), 8, tmp_path / "reference")
    reference = load_reference(tmp_path / "reference", stub())
    train, test = features_of(prepared / "train.npy"), features_of(prepared / "test.npy")
    assert isinstance(reference, Reference)
    assert reference.gaussian.count == 31
    assert reference.distance(test.astype(np.float32)) == pytest.approx(reference.floor["value"], rel=1e-5)
    assert abs(reference.distance(train)) < 1e-4
    few = train[:3] + np.array([5, 0, 0])  # as many samples as dimensions: the dual form
    assert reference.distance(few) == pytest.approx(distance(train, few), rel=1e-3)


def test_measuring_twice_gives_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        measure_reference(prepared, DESCRIPTION, stub(), 8, tmp_path / name)
    for name in ("features.npy", "floor.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    first, second = (Gaussian.load(tmp_path / name / "statistics.npz") for name in ("a", "b"))
    np.testing.assert_array_equal(first.factor, second.factor)


def test_a_reference_under_another_extractor_is_refused(prepared: Path, tmp_path: Path) -> None:
    measure_reference(prepared, DESCRIPTION, stub(weights_sha256="a"), 8, tmp_path / "reference")
    assert load_reference(tmp_path / "reference", stub(weights_sha256="a")).floor["train_images"] == 31
    with pytest.raises(PipelineError, match="reference was measured with another extractor: run `dvc repro`"):
        load_reference(tmp_path / "reference", stub(weights_sha256="b"))


def test_a_missing_reference_is_said_in_a_sentence(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"floor.json does not exist: run `dvc repro`"):
        load_reference(tmp_path / "reference", stub())
    measure_reference(prepared, DESCRIPTION, stub(), 8, tmp_path / "reference")
    (tmp_path / "reference" / "statistics.npz").unlink()
    with pytest.raises(PipelineError, match=r"statistics.npz does not exist: run `dvc repro`"):
        load_reference(tmp_path / "reference", stub())


def test_one_test_image_has_no_covariance(prepared: Path, tmp_path: Path) -> None:
    np.save(prepared / "test.npy", np.load(prepared / "test.npy")[:1])
    with pytest.raises(PipelineError, match="a covariance needs at least 2 images, got 1"):
        measure_reference(prepared, DESCRIPTION, stub(), 8, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()  # whole or not at all


def test_weights_that_give_nan_are_refused(prepared: Path, tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3)) * float("nan")

    broken = Extractor("stub", "fd_stub", 3, Broken(), torch.device("cpu"), {})
    with pytest.raises(PipelineError, match="NaN or infinite"):
        measure_reference(prepared, DESCRIPTION, broken, 8, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()
