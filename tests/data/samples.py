"""Small data sets on disk, and what `prepare` makes of them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.data.prepared import load_description, prepare
from pipeline.params import DataParams


def params(**changes: Any) -> DataParams:
    values = {"dataset": "folder", "root": "nowhere", "image_size": 8, "channels": 3, "test_fraction": 0.25,
              "limit": None, "bad_images": "refuse", "max_megapixels": 100.0, "seed": 0}  # fmt: skip
    return DataParams(**{**values, **changes})


def save(path: Path, value: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: Any) -> Path:
    """A plain picture: the colour (value, value + 1, value + 2) or the grey `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color: Any = (value, value + 1, value + 2) if mode == "RGB" else value
    Image.new(mode, size, color).save(path, **options)
    return path


def prepared(folder: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """dataset.json and the four arrays of a folder of images, prepared beside it."""
    out = folder.parent / "out"
    description = prepare(params(root=str(folder), **changes), out)
    assert description == load_description(out)
    return description, {path.stem: np.load(path) for path in out.glob("*.npy")}


def refused(folder: Path, **changes: Any) -> str:
    """The one sentence with which `prepare` refuses; nothing may be left behind, and what was there must stay."""
    out = folder.parent / "out"
    out.mkdir(exist_ok=True)
    (out / "keep").write_text("earlier")
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(PipelineError) as caught:
        prepare(params(root=str(folder), **changes), out)
    assert sorted(path.name for path in out.iterdir()) == before, "the earlier result was touched"
    assert not list(out.parent.glob(".out*")), "something half-written was left"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def all_images(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([arrays["train"], arrays["test"]])


def content_hash(arrays: dict[str, np.ndarray]) -> str:
    order = ("train", "train_labels", "test", "test_labels")
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in order)).hexdigest()
