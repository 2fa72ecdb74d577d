"""Data sets, hostile image files, preparation, and batches. Real data is used where GAN_TEST_DATA points to it."""

import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from pipeline.core.errors import PipelineError
from pipeline.data import batches, datasets
from pipeline.data import prepared as preparation
from pipeline.data.batches import ImageSet, batch
from pipeline.data.datasets import DATASETS, Source
from pipeline.data.pictures import BadImage, read_picture, to_row
from pipeline.data.prepared import DESCRIPTION_KEYS, load_description, load_images, prepare
from pipeline.params import DataParams

pytestmark = pytest.mark.filterwarnings("error")  # Pillow's and numpy's warnings must never reach a user


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


def png(width: int, height: int, bits: int, color: int, raw: bytes, extra: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow cannot write; `color` 0 is grey."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", extra) if extra else b"") + end


# --- one picture: modes, orientation, crop, resize ---


def row_of(path: Path, channels: int = 3, size: int = 8) -> np.ndarray:
    return to_row(read_picture(path, 100), channels, size)


def test_grey_and_rgb_become_each_other(tmp_path: Path) -> None:
    grey, color = save(tmp_path / "grey.png", 77, mode="L"), save(tmp_path / "color.png", 100)
    assert np.array_equal(row_of(grey), np.full((3, 8, 8), 77, np.uint8))
    # Pillow's luma: 0.299 R + 0.587 G + 0.114 B of (100, 101, 102) = 100.815
    assert np.array_equal(row_of(color, channels=1), np.full((1, 8, 8), 101, np.uint8))
    assert row_of(color)[:, 3, 3].tolist() == [100, 101, 102]


def test_arrays_are_pictures_too() -> None:
    array = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert np.array_equal(to_row(array, 3, 8), array.transpose(2, 0, 1))
    assert np.array_equal(to_row(array[..., 0], 1, 8), array[None, :, :, 0])


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    picture.paste((10, 20, 30, 0), (0, 0, 8, 4))  # the upper half is transparent
    picture.putpixel((0, 7), (0, 0, 0, 128))  # half: 255 * 127 / 255 = 127
    picture.save(tmp_path / "a.png")
    row = row_of(tmp_path / "a.png")
    assert row[:, 0, 0].tolist() == [255, 255, 255]
    assert row[:, 4, 4].tolist() == [10, 20, 30]
    assert row[:, 7, 0].tolist() == [127, 127, 127]


def test_grey_with_alpha(tmp_path: Path) -> None:
    picture = Image.new("LA", (8, 8), (40, 255))
    picture.putpixel((0, 0), (40, 0))
    picture.save(tmp_path / "a.png")
    row = row_of(tmp_path / "a.png", channels=1)
    assert row[0, 0, 0] == 255 and row[0, 0, 1] == 40


@pytest.mark.parametrize("transparency, corner", [(None, [1, 2, 3]), (0, [255, 255, 255])])
def test_palette(tmp_path: Path, transparency: int | None, corner: list[int]) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([1, 2, 3, 200, 100, 50])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    assert read_picture(tmp_path / "a.png", 100).mode == "P"
    row = row_of(tmp_path / "a.png")
    assert row[:, 0, 0].tolist() == corner
    assert row[:, 5, 5].tolist() == [200, 100, 50]


def test_black_and_white(tmp_path: Path) -> None:
    picture = Image.new("1", (8, 8), 0)
    picture.putpixel((0, 0), 1)
    picture.save(tmp_path / "a.png")
    assert row_of(tmp_path / "a.png")[0, 0, :2].tolist() == [255, 0]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = row_of(tmp_path / "a.jpg")[:, 4, 4].tolist()
    assert red >= 250 and green <= 5 and blue <= 5


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.zeros((8, 8), np.uint16)
    values[0] = [0, 128, 129, 257, 32768, 32896, 65406, 65535]  # by 257: 0, 0.498, 0.502, 1, 127.5+, 128, 254.498, 255
    Image.fromarray(values).save(tmp_path / "a.png")
    assert row_of(tmp_path / "a.png", channels=1)[0, 0].tolist() == [0, 0, 1, 1, 128, 128, 254, 255]
    assert row_of(tmp_path / "a.png")[2, 0].tolist() == [0, 0, 1, 1, 128, 128, 254, 255]


def test_16_bit_grey_with_a_transparent_value(tmp_path: Path) -> None:
    raw = b"".join(b"\0" + struct.pack(">4H", 1000, 1001, 0, 65535) for _ in range(4))
    (tmp_path / "a.png").write_bytes(png(4, 4, 16, 0, raw, struct.pack(">H", 1000)))
    assert row_of(tmp_path / "a.png", channels=1, size=4)[0, 0].tolist() == [255, 4, 0, 255]


def test_16_bit_old_mode() -> None:
    picture = Image.fromarray(np.array([[0, 257], [25700, 65535]], np.int32))
    assert picture.mode == "I"
    assert to_row(picture, 1, 2)[0].tolist() == [[0, 1], [100, 255]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_honoured(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("L", (16, 8), 0)
    picture.paste(255, (0, 0, 8, 8))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: what is left comes to the top
    picture.convert("RGB").save(tmp_path / f"a.{suffix}", exif=exif)
    upright = read_picture(tmp_path / f"a.{suffix}", 100)
    assert upright.size == (8, 16)
    top, bottom = np.asarray(upright)[2, :, 0], np.asarray(upright)[13, :, 0]
    assert top.min() > 240 and bottom.max() < 15


@pytest.mark.parametrize("transpose", [False, True])
def test_the_centre_is_cropped(transpose: bool) -> None:
    array = np.zeros((8, 13), np.uint8)
    array[:] = np.arange(13)  # columns 2..9: (13 - 8) // 2 = 2
    row = to_row(array.T.copy() if transpose else array, 1, 8)[0]
    assert np.array_equal(row.T if transpose else row, np.tile(np.arange(2, 10, dtype=np.uint8), (8, 1)))


def test_resizing_is_antialiased_and_keeps_the_mean() -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    row = to_row(checks, 1, 8)
    assert row.min() >= 120 and row.max() <= 135  # picking pixels would give 0 or 255
    assert np.array_equal(to_row(np.full((5, 5), 9, np.uint8), 1, 8), np.full((1, 8, 8), 9, np.uint8))


# --- one hostile file ---


def hostile(path: Path) -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8).astype(np.uint8))
    whole = {}
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        whole[kind] = buffer.getvalue()
    return {
        "truncated.png": whole["PNG"][: len(whole["PNG"]) // 2],
        "truncated.jpg": whole["JPEG"][: len(whole["JPEG"]) // 2],
        "truncated.webp": whole["WEBP"][: len(whole["WEBP"]) // 2],
        "flipped.png": whole["PNG"][:200] + b"\0" * 100 + whole["PNG"][300:],
        "empty.png": b"",
        "text.png": b"this is not an image\n",
        "gif.png": whole["GIF"],
        "head.png": whole["PNG"][:20],
    }


HOSTILE = {
    "truncated.png": "cannot be decoded",
    "truncated.jpg": "cannot be decoded",
    "truncated.webp": "cannot be decoded",
    "flipped.png": "cannot be decoded",
    "empty.png": "is empty (0 bytes)",
    "text.png": "is not a PNG, JPEG or WebP image",
    "gif.png": "is not a PNG, JPEG or WebP image",
    "head.png": "cannot be decoded",
}


@pytest.mark.parametrize("name, reason", HOSTILE.items())
def test_a_broken_file_is_refused_by_name(tmp_path: Path, name: str, reason: str) -> None:
    folder = tmp_path / "images"
    for i in range(4):
        save(folder / f"good{i}.png", i)
    (folder / name).write_bytes(hostile(tmp_path)[name])
    sentence = refused(folder)
    assert str(folder / name) in sentence and reason in sentence and "data.bad_images: skip" in sentence


def test_broken_files_are_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    for i in range(8):
        save(folder / f"good{i}.png", i)
    for name, content in hostile(tmp_path).items():
        (folder / name).write_bytes(content)
    save(folder / "large.png", 0, (2000, 600))
    description, arrays = prepared(folder, bad_images="skip", max_megapixels=1.0)
    assert description["skipped"] == {"broken": 8, "too_large": 1}
    assert sorted(all_images(arrays)[:, 0, 0, 0].tolist()) == list(range(8))
    assert description["train"] + description["test"] == 8 == len(arrays["train_labels"]) + len(arrays["test_labels"])
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warned) == 1 and "skipped 9 bad images" in warned[0] and warned[0].count(str(folder)) == 3


def test_too_large_is_seen_in_the_header(tmp_path: Path) -> None:
    path = save(tmp_path / "images" / "huge.png", 0, (20000, 20000), "1")
    save(tmp_path / "images" / "good.png")
    tracemalloc.start()
    sentence = refused(tmp_path / "images")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in sentence and "20000 x 20000" in sentence and "data.max_megapixels: 100" in sentence
    assert peak < 20e6
    with pytest.raises(BadImage) as caught:
        read_picture(path, 399.9)
    assert caught.value.kind == "too_large"


def test_above_pillows_own_limit_but_below_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above its limit and refuses above twice that, in open and in crop: neither may happen."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for width in (36, 70):  # squares of 1296 and of 4900 pixels are cropped
        path = save(tmp_path / f"{width}.png", 50, (width + 6, width))
        assert row_of(path)[:, 0, 0].tolist() == [50, 51, 52]
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(BadImage):
        read_picture(path, 0.004)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("dangling.png", "pipe.png"):
        with pytest.raises(BadImage, match="not a file"):
            read_picture(tmp_path / name, 100)


# --- a folder of images ---


def test_class_folders(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for i in range(3):
        save(folder / "cat" / f"{i}.PNG", 10 + i)
        save(folder / "ant" / "deep" / "deeper" / f"{i}.jpeg", 100 + i)  # nested: the class is the first level
        save(folder / "bee" / f"{i}.WebP", 200 + i, lossless=True)
    description, arrays = prepared(folder, test_fraction=0.2)
    assert description["classes"] == ["ant", "bee", "cat"]
    assert description["class_counts"] == [arrays["train_labels"].tolist().count(label) for label in range(3)]
    assert (description["train"], description["test"]) == (7, 2)  # round(0.2 * 9) = 2
    labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
    by_label = {label: sorted(all_images(arrays)[labels == label, 0, 0, 0].tolist()) for label in range(3)}
    assert by_label[2] == [10, 11, 12] and by_label[1] == [200, 201, 202]
    assert all(abs(value - 101) <= 4 for value in by_label[0]) and len(by_label[0]) == 3
    assert arrays["train_labels"].tolist() == sorted(arrays["train_labels"].tolist())  # the files' order is kept


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    for i in range(8):
        save(tmp_path / "images" / f"{i}.png", i)
    (tmp_path / "images" / "notes").mkdir()  # holds no image, so it is no class
    (tmp_path / "images" / "notes" / "a.txt").write_text("x")
    description, arrays = prepared(tmp_path / "images")
    assert description["classes"] == [] and description["skipped"] == {"other_files": 1}
    assert description["class_counts"] == [6]  # all have label 0
    assert not arrays["train_labels"].any() and not arrays["test_labels"].any()
    assert arrays["train"].shape == (6, 3, 8, 8) and arrays["train"].dtype == np.uint8
    assert arrays["test"].shape == (2, 3, 8, 8) and arrays["test_labels"].dtype == np.int64


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "images" / "cat" / f"{i}.png", i)
    save(tmp_path / "images" / "stray.png")
    sentence = refused(tmp_path / "images")
    assert "stray.png" in sentence and "cat/0.png" in sentence and "move" in sentence


def test_what_is_passed_over_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    for i in range(4):
        save(folder / "cat" / f"{i}.png", i)
    (folder / "cat" / "._0.png").write_bytes(b"junk")
    (folder / ".DS_Store").write_bytes(b"junk")
    save(folder / ".cache" / "0.png", 99)  # a hidden folder is no class
    (folder / "cat" / "readme.txt").write_text("x")
    (folder / "cat" / "x.gif").write_bytes(b"x")
    description, arrays = prepared(folder)
    assert description["skipped"] == {"hidden_files": 2, "other_files": 2} and description["classes"] == ["cat"]
    assert sorted(all_images(arrays)[:, 0, 0, 0].tolist()) == [0, 1, 2, 3]
    error = capsys.readouterr().err
    assert "2 hidden files, 2 other files (" in error and ".gif" in error


def test_linked_folders_are_not_followed_and_linked_files_are(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for i in range(4):
        save(folder / "cat" / f"{i}.png", i)
    (folder / "cat" / "loop").symlink_to(folder)
    save(tmp_path / "elsewhere" / "far.png", 90)
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "linked.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    description, arrays = prepared(folder)
    assert description["skipped"] == {"linked_folders": 2} and description["classes"] == ["cat"]
    assert sorted(all_images(arrays)[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 90]


def test_mixed_sizes(tmp_path: Path) -> None:
    for i, size in enumerate([(8, 8), (40, 20), (3, 5), (16, 16), (1, 9), (300, 8)]):
        save(tmp_path / "images" / f"{i}.png", i, size)
    description, arrays = prepared(tmp_path / "images")
    assert sorted(all_images(arrays)[:, 2, 4, 4].tolist()) == [2, 3, 4, 5, 6, 7]
    assert description["source_size"] == {"crop": "centre", "filter": "lanczos", "images_changed": 5}


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    assert f"{folder} does not exist: set data.root" in refused(folder)
    folder.write_bytes(b"PK")
    assert "is a file, not a folder: unpack it" in refused(folder)
    folder.unlink()
    folder.mkdir()
    assert f"{folder} holds no image (.png, .jpg, .jpeg, .webp)" in refused(folder)
    (folder / "a.gif").write_bytes(b"x")
    assert "holds no image" in refused(folder)


@pytest.mark.parametrize("count, found", [(1, "0 for training, 1 for testing"), (3, "1 for training, 2 for testing")])
def test_too_few_images(tmp_path: Path, count: int, found: str) -> None:
    for i in range(count):
        save(tmp_path / "images" / f"{i}.png", i)
    assert found in refused(tmp_path / "images")


def test_too_few_after_skipping(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "images" / f"{i}.png", i)
        (tmp_path / "images" / f"{i}.png").write_bytes(b"" if i else (tmp_path / "images" / "0.png").read_bytes())
    assert "9 bad" in refused(tmp_path / "images", bad_images="skip")
    for i in range(4):  # four are the fewest that will do: a covariance needs two of each split
        save(tmp_path / "four" / f"{i}.png", i)
    description, _ = prepared(tmp_path / "four")
    assert (description["train"], description["test"]) == (2, 2)
    assert "data.limit" in refused(tmp_path / "four", limit=1)


def test_an_unreadable_subfolder_is_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / "images" / name / "0.png")
    scandir = os.scandir

    def forbidding(path: Any) -> Any:  # tests may run as root, whom no permission stops
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    with pytest.raises(PipelineError, match=r"dog cannot be read \(Permission denied\)"):
        datasets.list_images(tmp_path / "images", datasets.EXTENSIONS)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """300 pictures of 256 x 256 x 3 are 59 MB; at no time may more than a few of them be held."""

    class Many:
        def __len__(self) -> int:
            return 300

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.full((256, 256, 3), index % 256, np.uint8), 0

    tally, settings = preparation._Tally(), params(image_size=256)
    tracemalloc.start()
    assert preparation._write_split(tmp_path, "train", Many(), list(range(300)), settings, tally).tolist() == [0] * 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6
    assert np.load(tmp_path / "train.npy", mmap_mode="r")[:, 0, 0, 0].tolist() == [i % 256 for i in range(300)]


# --- splits, limit, determinism ---


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    for i in range(100):
        save(tmp_path / "images" / f"{i:03d}.png", i)
    return tmp_path / "images"


def test_the_held_out_split_is_disjoint_seeded_and_in_order(hundred: Path) -> None:
    description, arrays = prepared(hundred, test_fraction=0.3)
    train, test = arrays["train"][:, 0, 0, 0].tolist(), arrays["test"][:, 0, 0, 0].tolist()
    assert (len(train), len(test)) == (70, 30) == (description["train"], description["test"])
    assert sorted(train + test) == list(range(100))
    assert train == sorted(train) and test == sorted(test)
    assert test != list(range(30)) and test != list(range(70, 100))
    assert prepared(hundred, test_fraction=0.3, seed=1)[1]["test"][:, 0, 0, 0].tolist() != test
    assert len(prepared(hundred, test_fraction=0.001)[1]["test"]) == 2


def test_limit_takes_a_random_subset_of_each_split(hundred: Path) -> None:
    whole = prepared(hundred)[1]
    description, arrays = prepared(hundred, limit=20)
    assert (description["train"], description["test"]) == (20, 20)
    for split in ("train", "test"):
        values, all_values = arrays[split][:, 0, 0, 0].tolist(), whole[split][:, 0, 0, 0].tolist()
        assert set(values) < set(all_values) and values == sorted(values) and values != all_values[:20]
    assert len(prepared(hundred, limit=60)[1]["train"]) == 60 and len(prepared(hundred, limit=60)[1]["test"]) == 25
    assert prepared(hundred, limit=10**6)[0]["sha256"] == prepared(hundred)[0]["sha256"]


def test_the_same_files_give_the_same_bytes(hundred: Path, tmp_path: Path) -> None:
    prepared(hundred)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "moved").mkdir()
    for i in reversed(range(100)):  # another place, another order of creation
        shutil.copy(hundred / f"{i:03d}.png", tmp_path / "moved")
    prepare(params(root=str(tmp_path / "moved")), tmp_path / "again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == first
    names = ["SHA256SUMS", "dataset.json", "test.npy", "test_labels.npy", "train.npy", "train_labels.npy"]
    assert sorted(first) == names
    assert str(tmp_path).encode() not in first["dataset.json"]
    save(hundred / "050.png", 51)
    assert load_description(tmp_path / "out")["sha256"] != prepared(hundred)[0]["sha256"]


def content_hash(arrays: dict[str, np.ndarray]) -> str:
    order = ("train", "train_labels", "test", "test_labels")
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in order)).hexdigest()


def test_sha256_is_that_of_the_arrays(hundred: Path) -> None:
    description, arrays = prepared(hundred)
    assert description["sha256"] == content_hash(arrays)
    assert description.keys() == DESCRIPTION_KEYS


# --- the registry ---


def test_unknown_name() -> None:
    with pytest.raises(PipelineError, match=r"'digit'; did you mean 'digits'\? Choices: cifar10, digits"):
        prepare(params(dataset="digit"), Path("never"))
    assert not Path("never").exists()


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    settings = params(dataset="digits", channels=1, image_size=8, test_fraction=0.2)
    description, out = prepare(settings, tmp_path / "out"), tmp_path / "out"
    assert (description["train"], description["test"]) == (1438, 359)  # round(0.2 * 1797) = 359
    assert description["classes"] == list("0123456789") and description["image_shape"] == [1, 8, 8]
    train, test = load_images(out, "train", "cpu"), load_images(out, "test", "cpu")
    assert description["class_counts"] == torch.bincount(train.labels).tolist()
    counts = torch.bincount(torch.cat([train.labels, test.labels]))
    assert counts.tolist() == np.bincount(load_digits().target).tolist()
    images = torch.cat([train.images, test.images])
    assert set(images.unique().tolist()) == {round(value * 255 / 16) for value in range(17)}
    assert images.sum().item() == sum(round(value * 255 / 16) for value in load_digits().images.flatten())


def sources() -> list[Any]:
    return [pytest.param(name, id=name) for name in DATASETS]


@pytest.mark.slow
@pytest.mark.parametrize("name", sources())
def test_every_source_keeps_its_contract(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Runs over the registry: what `Source` promises, and what `prepare` makes of it."""
    if name == "folder":
        root = tmp_path / "images"
        for i in range(12):
            save(root / "ab"[i % 2] / f"{i}.png", i)
    else:
        root = tmp_path if name == "digits" else request.getfixturevalue("real_root")
    source = DATASETS[name](params(dataset=name, root=str(root)))
    assert isinstance(source, Source) and len(source.train) >= 2 and source.classes
    picture, label = source.train[len(source.train) - 1]
    assert isinstance(picture, Image.Image | np.ndarray) and 0 <= label < len(source.classes)
    for channels in (1, 3):
        settings = params(dataset=name, root=str(root), channels=channels, image_size=12, limit=50)
        description = prepare(settings, tmp_path / "out")
        images = load_images(tmp_path / "out", "train", "cpu")
        assert images.images.shape == (description["train"], channels, 12, 12)
        assert images.images.float().std() > 1 and description["classes"] == list(source.classes)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_no_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    sentence = refused(tmp_path / "raw", dataset=name)
    kind, file = {
        "mnist": ("MNIST", "MNIST/raw/t10k-labels-idx1-ubyte.gz"),
        "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte.gz"),
        "cifar10": ("CIFAR10", "cifar-10-python.tar.gz"),
    }[name]
    assert sentence.startswith(f"{kind} in {tmp_path / 'raw'}/") and "Name or service not known" in sentence
    assert file in sentence and f"into {tmp_path / 'raw'} and run the command again" in sentence


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03" + b"\0" * 9, b"nonsense, at some length"])
def test_a_damaged_mnist_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in datasets._IDX:
        (raw / name).write_bytes(content)
    sentence = refused(tmp_path / "root", dataset="mnist")
    assert sentence.startswith(f"MNIST in {raw} is damaged") and "delete the files train-images-idx3-ubyte" in sentence


def test_a_forged_cifar10_is_never_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    trap = tmp_path / "executed"
    for name in datasets._CIFAR10:  # protocol 0: call os.system on load
        (folder / name).write_bytes(f"cos\nsystem\n(S'touch {trap}'\ntR.".encode())
    sentence = refused(tmp_path / "root", dataset="cifar10")
    assert sentence.startswith(f"CIFAR10 in {folder} is damaged") and "batches.meta" in sentence
    assert not trap.exists()


# --- loading ---


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """Ten training images in two classes; image i holds i in its left half and 100 + i in its right."""
    for i in range(13):
        array = np.full((4, 4, 1), i, np.uint8).repeat(3, 2)
        array[:, 2:] += 100
        (tmp_path / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png")
    prepare(params(root=str(tmp_path / "images"), image_size=4, test_fraction=0.23), tmp_path / "out")
    return tmp_path / "out"


def test_loaded_arrays_are_those_on_disk(ready: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train = load_images(ready, "train", "cpu")
    assert np.array_equal(train.images.numpy(), np.load(ready / "train.npy"))
    assert np.array_equal(train.labels.numpy(), np.load(ready / "train_labels.npy"))
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    before = (ready / "train.npy").read_bytes()
    train.images.zero_()  # a copy: the file does not change
    assert (ready / "train.npy").read_bytes() == before


def test_what_becomes_of_the_file_changes_no_training(ready: Path) -> None:
    path, images = ready / "train.npy", load_images(ready, "train", "cpu").images
    before = images.clone()
    content = path.read_bytes()
    with path.open("r+b") as file:  # in place, as `cp` does over a file that is there
        file.write(bytes(len(content)))
    assert torch.equal(images, before)
    os.truncate(path, 0)  # of a mapping, every page would now be a bus error
    assert torch.equal(images, before)


def test_missing_and_damaged_files(ready: Path) -> None:
    def sentence() -> str:
        with pytest.raises(PipelineError) as caught:
            load_images(ready, "train", "cpu")
        return str(caught.value)

    path, labels = ready / "train.npy", ready / "train_labels.npy"
    whole = path.read_bytes()
    wrong = {"float": np.zeros((10, 3, 4, 4), np.float32), "short": np.zeros((9, 3, 4, 4), np.uint8),
             "shape": np.zeros((10, 1, 4, 4), np.uint8)}  # fmt: skip
    for name, array in wrong.items():
        np.save(path, array)
        assert f"{path} is damaged (it does not hold uint8 (10, 3, 4, 4)" in sentence(), name
    for content in (b"", whole[:50], whole[:-1], b"PK\x03\x04", b"garbage" * 100, whole[:10] + b"{'''" + whole[14:]):
        path.write_bytes(content)
        assert f"{path} is damaged" in sentence() and "dvc repro" in sentence()
    np.save(path, np.array([{"a": 1}] * 10, dtype=object), allow_pickle=True)
    assert f"{path} is damaged" in sentence()
    path.unlink()
    assert f"{path} does not exist: run `dvc repro`" in sentence()
    path.write_bytes(whole)
    for bad in (2, -1):
        np.save(labels, np.full(10, bad, np.int64))
        assert "labels outside 0..1" in sentence()
    np.save(labels, np.full(10, 1, np.int64))
    assert load_images(ready, "train", "cpu").labels.tolist() == [1] * 10
    (ready / "dataset.json").write_text("{}")
    assert "dataset.json is damaged (it lacks keys)" in sentence()
    (ready / "dataset.json").unlink()
    assert "dataset.json does not exist" in sentence()


def test_meta_images_give_shapes(ready: Path) -> None:
    images = load_images(ready, "train", "meta")
    assert images.images.is_meta and images.images.shape == (10, 3, 4, 4) and images.labels.shape == (10,)
    values, labels = batch(images, 3, 4, 0, flip=True, dequantise=True)
    assert values.is_meta and values.shape == (4, 3, 4, 4) and values.dtype == torch.float32
    assert labels.is_meta and labels.shape == (4,) and labels.dtype == torch.int64


# --- batches ---


@pytest.fixture(scope="module")
def ramp() -> ImageSet:
    """103 images: image i is i on its left and 128 + i on its right; its label is i."""
    images = torch.arange(103, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 4)
    images[..., 2:] += 128
    return ImageSet(images, torch.arange(103), 103)


def plain(images: ImageSet, index: int, size: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return batch(images, index, size, seed, flip=False, dequantise=False)


def test_every_epoch_covers_without_repeats(ramp: ImageSet) -> None:
    epochs = [torch.cat([plain(ramp, 10 * e + i)[1] for i in range(10)]).tolist() for e in range(3)]
    for epoch in epochs:  # 10 whole batches of 10 out of 103
        assert len(epoch) == 100 == len(set(epoch))
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(100))
    assert len({frozenset(range(103)) - frozenset(epoch) for epoch in epochs}) == 3  # others are left out each time


def test_labels_belong_to_their_images_and_values_are_exact(ramp: ImageSet) -> None:
    values, labels = plain(ramp, 7)
    assert values.dtype == torch.float32 and labels.dtype == torch.int64
    left = labels.float() / 127.5 - 1
    assert torch.equal(values[:, 0, 0, 0], left) and torch.equal(values[:, 0, 1, 3], (labels + 128).float() / 127.5 - 1)
    extremes = ImageSet(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), torch.tensor([0, 1]), 2)
    values, labels = plain(extremes, 0, 2)
    assert dict(zip(labels.tolist(), values.flatten().tolist(), strict=True)) == {0: -1.0, 1: 1.0}


def test_a_batch_is_a_pure_function(ramp: ImageSet) -> None:
    wanted = {i: batch(ramp, i, 10, 5, True, True) for i in (0, 9, 10, 31)}
    torch.manual_seed(1)
    for i in (31, 0, 10, 9):  # another order, another global state, an empty cache
        batches._epoch_order.cache_clear()
        values, labels = batch(ramp, i, 10, 5, True, True)
        assert torch.equal(values, wanted[i][0]) and torch.equal(labels, wanted[i][1])
    state = torch.get_rng_state()
    batch(ramp, 3, 10, 5, True, True)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(batch(ramp, 0, 10, 6, True, True)[1], wanted[0][1])
    assert ramp.images[5, 0, 0].tolist() == [5, 5, 133, 133], "the images were written to"


def test_flip_mirrors_about_half_of_the_images(ramp: ImageSet) -> None:
    mirrored, total, patterns = 0, 0, set()
    for i in range(20):
        straight, labels = plain(ramp, i)
        values, same = batch(ramp, i, 10, 0, flip=True, dequantise=False)
        assert torch.equal(labels, same)
        patterns.add(tuple((values != straight).flatten(1).any(1).tolist()))
        for one, other in zip(values, straight, strict=True):
            assert torch.equal(one, other) or torch.equal(one, other.flip(-1))
            mirrored, total = mirrored + (not torch.equal(one, other)), total + 1
    assert 70 <= mirrored <= 130 and total == 200  # 100 +- 4 standard deviations
    assert len(patterns) > 15  # each batch draws anew


def test_dequantise_adds_noise_of_the_stated_range(ramp: ImageSet) -> None:
    differences = []
    for i in range(40):
        noisy, labels = batch(ramp, i, 10, 0, flip=False, dequantise=True)
        exact, same = plain(ramp, i)
        assert torch.equal(labels, same)
        differences.append(noisy - exact)
    noise = torch.stack(differences)  # 3200 draws
    assert noise.min() >= -1e-7 and noise.max() <= 1 / 128 + 1e-7
    assert noise.min() < 0.01 / 128 and noise.max() > 0.99 / 128
    assert abs(noise.mean().item() * 128 - 0.5) < 0.025  # 5 standard errors
    assert not torch.equal(differences[0], differences[1]) and noise[0].std() > 0.1 / 128


def test_a_batch_as_large_as_the_set_and_one_larger(ramp: ImageSet) -> None:
    for index in (0, 5):
        assert sorted(plain(ramp, index, 103)[1].tolist()) == list(range(103))
    with pytest.raises(PipelineError, match="batch_size: must be at most the number of training images, 103, got 104"):
        plain(ramp, 0, 104)


# --- real data ---


@pytest.fixture(scope="session")
def shared_data() -> Path:
    place = os.environ.get("GAN_TEST_DATA")
    if not place:
        pytest.skip("GAN_TEST_DATA is not set: the tests on real data need a folder laid out as its README.md says")
    return Path(place)


@pytest.fixture(scope="session")
def real_root(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST and FashionMNIST as downloaded (.gz, unpacked by torchvision without network), and CIFAR-10 rebuilt."""
    root = tmp_path_factory.mktemp("raw")
    for kind in ("MNIST", "FashionMNIST"):
        (root / kind / "raw").mkdir(parents=True)
        for file in (shared_data / "torchvision-gz" / kind / "raw").glob("*.gz"):
            shutil.copyfile(file, root / kind / "raw" / file.name)
    script, pack = shared_data / "rebuild_cifar10.py", shared_data / "cifar10"
    subprocess.run([sys.executable, script, pack, root], check=True, capture_output=True)
    return root


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, shape, train, test, first",
    [
        ("mnist", (1, 28, 28), MNIST_TRAIN, MNIST_TEST, (5, 7)),
        ("fashion_mnist", (1, 28, 28), [6000] * 10, [1000] * 10, (9, 9)),
        ("cifar10", (3, 32, 32), [5000] * 10, [1000] * 10, (6, 3)),
    ],
)
def test_real_sets(
    name: str, shape: tuple[int, int, int], train: list[int], test: list[int], first: tuple[int, int],
    real_root: Path, tmp_path: Path,
) -> None:  # fmt: skip
    settings = params(dataset=name, root=str(real_root), channels=shape[0], image_size=shape[1])
    description = prepare(settings, tmp_path / "out")
    assert (description["train"], description["test"]) == (sum(train), sum(test))
    assert description["source_size"]["images_changed"] == 0 and description["skipped"] == {}
    kind = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name]
    for split, histogram, label in (("train", train, first[0]), ("test", test, first[1])):
        images = load_images(tmp_path / "out", split, "cpu")
        assert images.images.shape == (sum(histogram), *shape)
        assert torch.bincount(images.labels).tolist() == histogram and images.labels[0] == label
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's on the old pickles
            original = getattr(torchvision_datasets, kind)(real_root, train=split == "train").data
        values = np.asarray(original).reshape(len(original), *shape[1:], shape[0]).transpose(0, 3, 1, 2)
        assert np.array_equal(images.images.numpy(), values)
    arrays = {path.stem: np.load(path) for path in (tmp_path / "out").glob("*.npy")}
    assert description["sha256"] == content_hash(arrays)


def test_a_damaged_real_cifar10(real_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(real_root / "cifar-10-batches-py", root / "cifar-10-batches-py")
    with open(root / "cifar-10-batches-py" / "test_batch", "r+b") as file:
        file.seek(10**6)
        file.write(b"\0\1\2\3")
    assert "CIFAR10 in" in (sentence := refused(root, dataset="cifar10")) and "is damaged" in sentence


def test_real_tiles(shared_data: Path, tmp_path: Path) -> None:
    """Palette, RGBA, RGB, L and LA tiles against the same as arrays: on black, and 14 of them in another order."""
    with zipfile.ZipFile(shared_data / "tiles32" / "tiles32_png.zip") as archive:
        archive.extractall(tmp_path / "images")
    arrays = np.load(shared_data / "tiles32" / "tiles32.npz")
    source = DATASETS["folder"](params(root=str(tmp_path / "images")))
    assert source.classes == tuple(arrays["classes"]) and source.test is None and len(source.train) == 2672
    modes, found, transparent = Counter[str](), Counter[tuple[int, bytes]](), 0
    for i in range(len(source.train)):
        picture, label = source.train[i]
        assert isinstance(picture, Image.Image)
        modes[picture.mode] += 1
        rgba = picture.convert("RGBA")
        alpha, row = np.asarray(rgba)[..., 3], to_row(picture, 3, 32).transpose(1, 2, 0)
        on_black = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba))[..., :3]
        found[label, on_black.tobytes()] += 1
        # On white, a pixel is lighter by what its transparency lets through; rounding may take 1 either way.
        lighter = row.astype(int) - on_black - (255 - alpha[..., None].astype(int))
        assert np.abs(lighter).max() <= 1 and not lighter[(alpha == 255) | (alpha == 0)].any()
        transparent += int((alpha < 255).any())
    assert found == Counter((int(y), x.tobytes()) for x, y in zip(arrays["x"], arrays["y"], strict=True))
    assert modes == {"P": 1877, "RGBA": 536, "RGB": 224, "L": 30, "LA": 5} and transparent > 500
    description = prepare(params(root=str(tmp_path / "images"), image_size=32), tmp_path / "out")
    labels = np.concatenate([np.load(tmp_path / "out" / f"{split}_labels.npy") for split in ("train", "test")])
    assert (np.bincount(labels) == np.bincount(arrays["y"])).all() and description["test"] == 668
