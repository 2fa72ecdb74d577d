"""A Gaussian as a file: what is saved comes back, others can read it, and a damaged file is one sentence."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.metrics.frechet import Gaussian
from pipeline.metrics.gaussian_file import load_gaussian, save_gaussian


def draw(count: int, dim: int) -> np.ndarray:
    """Correlated features (N, D) whose mean is not 0."""
    source = np.random.default_rng(0)
    return source.normal(size=(count, dim)) @ source.normal(size=(dim, dim)) + source.normal(size=dim)


@pytest.mark.parametrize("count", [4, 80])
def test_a_saved_gaussian_comes_back_and_pytorch_fid_can_read_it(tmp_path: Path, count: int) -> None:
    features, path = draw(count, 6), tmp_path / "deep" / "statistics.npz"
    gaussian = Gaussian.from_features(features)
    save_gaussian(path, gaussian, note="x")
    loaded = load_gaussian(path)
    assert loaded.count == count
    np.testing.assert_array_equal(loaded.mean, gaussian.mean)
    np.testing.assert_array_equal(loaded.factor, gaussian.factor)
    with np.load(path) as saved:  # as pytorch_fid.fid_score.compute_statistics_of_path does
        mu, sigma = saved["mu"][:], saved["sigma"][:]
        assert str(saved["note"]) == "x"
    np.testing.assert_allclose(mu, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(sigma, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def array_file(content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def zip_of_junk(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("mu", "factor", "count"):
            archive.writestr(f"{name}.npy", b"not an array")
    return buffer.getvalue()


def without_factor(content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, mu=np.zeros(2), sigma=np.eye(2))
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "cut": lambda content: content[:-1],
    "flipped": flip,
    "empty": lambda _: b"",
    "text": lambda _: b"<html>404</html>",
    "npy": array_file,
    "keys": without_factor,
    "junk": zip_of_junk,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_in_a_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "statistics.npz"
    save_gaussian(path, Gaussian.from_features(draw(50, 4)))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(PipelineError, match=r"statistics.npz is damaged \(.*\): delete it and run `dvc repro` again"):
        load_gaussian(path)


def test_a_missing_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="does not exist: run `dvc repro`"):
        load_gaussian(tmp_path / "statistics.npz")
