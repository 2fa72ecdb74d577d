"""Statistics files: what pytorch-fid reads and writes, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.evaluate.statistics import is_statistics, read_statistics, write_statistics
from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.types import FeatureSet, NotAvailable

PROTOCOL = {"extractor": "toy", "input_size": 8, "weights_sha256": "abc"}
DIM = 6


def features(count: int, seed: int = 0) -> np.ndarray:
    source = np.random.default_rng(seed)
    return (source.normal(size=(count, DIM)) @ source.normal(size=(DIM, DIM)) + 3).astype(np.float32)


def foreign(path: Path, **changes: Any) -> Path:
    """A file as pytorch-fid saves it, with keys added, changed, or with None left out."""
    rows = features(50).astype(np.float64)
    arrays = {"mu": rows.mean(axis=0), "sigma": np.cov(rows, rowvar=False), **changes}
    kept: dict[str, Any] = {key: array for key, array in arrays.items() if array is not None}
    np.savez(path, **kept)
    return path


def refused(path: Path, dim: int = DIM) -> str:
    with pytest.raises(PipelineError) as caught:
        read_statistics(path, dim, PROTOCOL)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("count", [4, 50])  # fewer and more than dimensions
def test_what_is_written_comes_back_and_others_can_read_it(tmp_path: Path, count: int) -> None:
    rows, path = features(count), tmp_path / "a.npz"
    write_statistics(path, FeatureSet(rows), PROTOCOL)
    found, warnings = read_statistics(path, DIM, PROTOCOL)
    expected = Gaussian.from_features(rows)
    assert warnings == [] and len(found) == found.gaussian.count == count
    np.testing.assert_array_equal(found.gaussian.mean, expected.mean)
    np.testing.assert_array_equal(found.gaussian.factor, expected.factor)
    with pytest.raises(NotAvailable):
        _ = found.features
    with np.load(path, allow_pickle=False) as saved:  # as pytorch_fid.fid_score.compute_statistics_of_path does
        mu, sigma = saved["mu"][:], saved["sigma"][:]
        assert json.loads(str(saved["protocol"])) == PROTOCOL and str(saved["extractor"]) == "toy"
    np.testing.assert_allclose(mu, rows.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(sigma, np.cov(rows, rowvar=False, dtype=np.float64), rtol=1e-9, atol=1e-12)


def test_a_foreign_file_is_taken_with_a_warning(tmp_path: Path) -> None:
    found, warnings = read_statistics(foreign(tmp_path / "a.npz"), DIM, PROTOCOL)
    assert len(found) == 0 and len(warnings) == 1 and "does not say by which weights" in warnings[0]
    expected = Gaussian.from_features(features(50))
    assert frechet_distance(found.gaussian, expected) == pytest.approx(0, abs=1e-9 * expected.trace)
    single = foreign(tmp_path / "b.npz", sigma=np.diag(np.arange(6.0)).astype(np.float32))  # rank 5, float32
    assert read_statistics(single, DIM, PROTOCOL)[0].gaussian.factor.shape == (6, 5)


def change(array: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


EYE = np.eye(DIM)
BASIS = np.linalg.qr(np.random.default_rng(5).normal(size=(DIM, DIM)))[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mu": None}, "lacks mu:"),
        ({"sigma": None}, "lacks sigma:"),
        ({"mu": None, "sigma": None}, "lacks mu and sigma:"),
        ({"mu": np.full(DIM, np.nan)}, "mu holds NaN"),
        ({"sigma": change(EYE, (1, 1), np.inf)}, "sigma holds NaN, infinite"),
        ({"mu": np.array(["a"] * DIM)}, "mu holds NaN, infinite values or no numbers"),
        ({"sigma": EYE[:, :5]}, "must be (D,) and (D, D)"),
        ({"sigma": np.eye(5)}, "must be (D,) and (D, D)"),
        ({"mu": np.zeros((1, DIM))}, "must be (D,) and (D, D)"),
        ({"sigma": change(EYE, (0, 1), 1e-7)}, "sigma is not symmetric"),
        ({"sigma": BASIS @ np.diag([1.0, 1, 1, 1, 1, -2e-6]) @ BASIS.T}, "negative eigenvalue -2e-06"),
        ({"sigma": -EYE}, "negative eigenvalue -1"),
        ({"protocol": "{"}, "its protocol is not a JSON object"),
        ({"protocol": "[1]"}, "its protocol is not a JSON object"),
        ({"sigma": EYE, "factor": np.eye(5)}, "factor (5, 5) does not fit sigma (6, 6)"),
        ({"sigma": EYE, "factor": np.ones(DIM)}, "factor (6,) does not fit"),
        ({"sigma": EYE, "factor": EYE * 1.001}, "factor and sigma contradict each other"),
        ({"sigma": EYE, "factor": change(EYE, (0, 0), np.nan)}, "factor holds NaN"),
        ({"count": -3}, "count is no number of images"),
        ({"count": 2.5}, "count is no number of images"),
        ({"count": [4, 4]}, "count is no number of images"),
        ({"mu": np.array([{}] * DIM, dtype=object)}, "is damaged (Object arrays cannot be loaded"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    assert text in refused(foreign(tmp_path / "a.npz", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"sigma": change(EYE, (0, 1), 5e-9)},
        {"sigma": BASIS @ np.diag([1.0, 1, 1, 1, 1, -5e-7]) @ BASIS.T},
        {"sigma": 0 * EYE},
        {"sigma": 4 * EYE, "factor": 2 * BASIS, "count": 9},
    ],
)
def test_what_rounding_leaves_is_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = read_statistics(foreign(tmp_path / "a.npz", **changes), DIM, PROTOCOL)[0].gaussian
    assert np.abs(found.factor @ found.factor.T - changes["sigma"]).max() <= 1e-6
    assert found.count == changes.get("count", 0)


def test_another_dimension_is_refused(tmp_path: Path) -> None:
    assert "has 6 dimensions, the extractor 7: choose its own with --extractor" in refused(
        foreign(tmp_path / "a.npz"), dim=7
    )


def test_another_protocol_is_refused_by_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_statistics(path, FeatureSet(features(9)), {**PROTOCOL, "input_size": 16, "crop": True})
    sentence = refused(path)
    assert "(crop: True there, None here; input_size: 16 there, 8 here)" in sentence and "abc" not in sentence


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda content: content[: len(content) // 2],
    "cut": lambda content: content[:-1],
    "empty": lambda _: b"",
    "text": lambda _: b"<html>404</html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = foreign(tmp_path / "a.npz")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert re.search(r"is damaged \(.+\): make the statistics again", refused(path))
    with pytest.raises(PipelineError, match="cannot be read"):
        is_statistics(path)


def test_which_files_are_statistics(tmp_path: Path) -> None:
    assert is_statistics(foreign(tmp_path / "a.npz"))
    assert is_statistics(foreign(tmp_path / "b.npz", sigma=None))  # to be refused as such
    assert not is_statistics(foreign(tmp_path / "c.npz", mu=None, sigma=None, arr_0=np.zeros(3)))
    assert not is_statistics(tmp_path) and not is_statistics(tmp_path / "missing.npz")
    assert "does not exist" in refused(tmp_path / "missing.npz")
