"""CIFAR-100, SVHN, STL-10 and CelebA: small files as their authors write them, which pass for the known ones."""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as theirs
from PIL import Image

from pipeline.data import downloads, raw_files
from pipeline.data.datasets import DATASETS, expected_classes
from pipeline.data.prepared import load_images, prepare
from tests.data.samples import params, refused

pytestmark = pytest.mark.filterwarnings("error")
COUNTS = {"train": 24, "test": 16}


def pictures(split: str, side: int) -> np.ndarray:
    """uint8 (N, side, side, 3)"""
    source = np.random.default_rng(COUNTS[split])
    return source.integers(0, 256, (COUNTS[split], side, side, 3), dtype=np.uint8)


def labels(split: str, classes: int) -> list[int]:
    return [(7 * i + 3) % classes for i in range(COUNTS[split])]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for split in COUNTS:
        rows = pictures(split, 32).transpose(0, 3, 1, 2).reshape(COUNTS[split], -1)
        held = {"data": rows, "fine_labels": labels(split, 100), "coarse_labels": [0] * COUNTS[split]}
        (folder / split).write_bytes(pickle.dumps(held))
        patch.setattr(theirs.CIFAR100, f"{split}_list", [[split, md5(folder / split)]])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"thing {i}" for i in range(100)]}))
    meta = {"filename": "meta", "key": "fine_label_names", "md5": md5(folder / "meta")}
    patch.setattr(theirs.CIFAR100, "meta", meta)


def svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    """A column of labels 1 to 10, of which 10 is the digit 0; images (H, W, 3, N)."""
    (root / "svhn").mkdir(parents=True)
    known = {}
    for split in COUNTS:
        path = root / "svhn" / f"{split}_32x32.mat"
        column = np.array([[label or 10] for label in labels(split, 10)], np.uint8)
        scipy.io.savemat(path, {"X": pictures(split, 32).transpose(1, 2, 3, 0), "y": column})
        known[split] = ["", path.name, md5(path)]
    patch.setattr(theirs.SVHN, "split_list", known)


def stl10(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Images (N, 3, W, H), column by column; labels 1 to 10."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split in COUNTS:
        pictures(split, 96).transpose(0, 3, 2, 1).tofile(folder / f"{split}_X.bin")
        (np.array(labels(split, 10), np.uint8) + 1).tofile(folder / f"{split}_y.bin")
    pictures("train", 96)[::-1].transpose(0, 3, 2, 1).tofile(folder / "unlabeled_X.bin")
    for split, names in (("train", ["train_X", "train_y", "unlabeled_X"]), ("test", ["test_X", "test_y"])):
        known = [[f"{name}.bin", md5(folder / f"{name}.bin")] for name in names]
        patch.setattr(theirs.STL10, f"{split}_list", known)


def celeba(root: Path, patch: pytest.MonkeyPatch) -> None:
    """JPEGs numbered from 1; those after the training images are for validation."""
    path = root / "celeba" / "img_align_celeba.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(1, 51):
            shade = number if number <= 24 else 255 if number <= 34 else 100 + number
            file = io.BytesIO()
            Image.new("RGB", (178, 218), (shade, 10, 20)).save(file, "JPEG", quality=100)
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", file.getvalue())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    patch.setattr(downloads, "CELEBA", (downloads.Archive("https://x", "celeba/img_align_celeba.zip", digest),))
    patch.setattr(raw_files, "CELEBA_TRAIN", range(1, 25))
    patch.setattr(raw_files, "CELEBA_TEST", range(35, 51))


MADE: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "cifar100": cifar100, "svhn": svhn, "stl10": stl10, "stl10_unlabelled": stl10, "celeba": celeba
}  # fmt: skip
SIDES = {"cifar100": 32, "svhn": 32, "stl10": 96, "stl10_unlabelled": 96}


@pytest.mark.parametrize("name", SIDES)
def test_images_and_labels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MADE[name](tmp_path / "raw", monkeypatch)
    side, classes = SIDES[name], {"cifar100": 100, "stl10_unlabelled": 0}.get(name, 10)
    settings = params(dataset=name, root=str(tmp_path / "raw"), image_size=side)
    description = prepare(settings, tmp_path / "out")
    assert (description["train"], description["test"]) == (24, 16)
    assert len(description["classes"]) == classes == expected_classes(settings)
    for split in COUNTS:
        found, expected = load_images(tmp_path / "out", split, "cpu"), pictures(split, side)
        if name == "stl10_unlabelled" and split == "train":
            expected = expected[::-1]
        assert np.array_equal(found.images.numpy().transpose(0, 2, 3, 1), expected)
        assert found.labels.tolist() == (labels(split, classes) if classes else [0] * COUNTS[split])
    first = {"cifar100": "thing 0", "svhn": "0", "stl10": "airplane"}
    assert description["classes"][:1] == ([first[name]] if classes else [])


def test_celeba_is_read_in_its_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    celeba(tmp_path / "raw", monkeypatch)
    settings = params(dataset="celeba", root=str(tmp_path / "raw"), image_size=64)
    description = prepare(settings, tmp_path / "out")
    assert (description["train"], description["test"], description["classes"]) == (24, 16, [])
    assert description["source_size"]["images_changed"] == 40 and expected_classes(settings) == 0
    for split, shades in (("train", range(1, 25)), ("test", range(135, 151))):
        images = load_images(tmp_path / "out", split, "cpu").images
        assert images.shape[1:] == (3, 64, 64)
        assert np.abs(images[:, 0, 32, 32].numpy().astype(int) - list(shades)).max() <= 2  # JPEG's rounding


def test_celebas_splits_are_its_authors() -> None:
    assert (len(raw_files.CELEBA_TRAIN), len(raw_files.CELEBA_TEST)) == (162_770, 19_962)
    assert raw_files.CELEBA_TEST[-1] == 202_599 and raw_files.CELEBA_TEST[0] - raw_files.CELEBA_TRAIN[-1] == 19_868


DAMAGED = {
    "cifar100": ("CIFAR100", "cifar-100-python/test"), "svhn": ("SVHN", "svhn/train_32x32.mat"),
    "stl10": ("STL10", "stl10_binary/train_y.bin"), "stl10_unlabelled": ("STL10", "stl10_binary/unlabeled_X.bin"),
    "celeba": ("CelebA", "celeba/img_align_celeba.zip"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_changed_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MADE[name](tmp_path / "raw", monkeypatch)
    kind, file = DAMAGED[name]
    path = tmp_path / "raw" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    sentence = refused(tmp_path / "raw", dataset=name, image_size=32)
    assert sentence.startswith(f"{kind} in {path.parent} is damaged (") and f"{path.name}" in sentence


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_missing_is_fetched_by_its_sha256(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def urlopen(url: str, **_: Any) -> io.BytesIO:
        asked.append(url)
        answer = io.BytesIO(b"something else")
        answer.url = url  # type: ignore[attr-defined]
        return answer

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    archive = {"cifar100": downloads.CIFAR100, "svhn": downloads.SVHN, "celeba": downloads.CELEBA}.get(
        name, downloads.STL10
    )[0]
    sentence = refused(tmp_path / "raw", dataset=name)
    assert asked == [archive.url] and len(archive.sha256) == 64
    assert "does not exist and cannot be downloaded" in sentence and f"expected {archive.sha256[:16]}" in sentence
    assert f"put {archive.path}" in sentence and not any(path.is_file() for path in (tmp_path / "raw").rglob("*"))


def test_every_source_that_can_be_made_small_is_here() -> None:
    elsewhere = {"digits", "mnist", "fashion_mnist", "cifar10", "stacked_mnist", "folder"}
    assert set(DATASETS) - elsewhere == set(MADE)
