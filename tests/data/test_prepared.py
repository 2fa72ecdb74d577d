"""Preparation: splits, limit, determinism and memory; and reading the arrays back."""

import os
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.data import prepared as preparation
from pipeline.data.batches import batch
from pipeline.data.prepared import DESCRIPTION_KEYS, load_description, load_images, prepare
from pipeline.data.source import Items
from tests.data.samples import all_images, content_hash, params, prepared, refused, save

pytestmark = pytest.mark.filterwarnings("error")  # Pillow's and numpy's warnings must never reach a user


def test_mixed_sizes(tmp_path: Path) -> None:
    for i, size in enumerate([(8, 8), (40, 20), (3, 5), (16, 16), (1, 9), (300, 8)]):
        save(tmp_path / "images" / f"{i}.png", i, size)
    description, arrays = prepared(tmp_path / "images")
    assert sorted(all_images(arrays)[:, 2, 4, 4].tolist()) == [2, 3, 4, 5, 6, 7]
    assert description["source_size"] == {"crop": "centre", "filter": "lanczos", "images_changed": 5}


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


def test_memory_is_bounded(tmp_path: Path) -> None:
    """300 pictures of 256 x 256 x 3 are 59 MB; at no time may more than a few of them be held."""

    many = Items([0] * 300, lambda index: np.full((256, 256, 3), index % 256, np.uint8))
    tally, settings = preparation._Tally(), params(image_size=256)
    tracemalloc.start()
    assert preparation._write_split(tmp_path, "train", many, list(range(300)), settings, tally).tolist() == [0] * 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6
    assert np.load(tmp_path / "train.npy", mmap_mode="r")[:, 0, 0, 0].tolist() == [i % 256 for i in range(300)]


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


def test_splits_and_limit_have_each_class_in_proportion(tmp_path: Path) -> None:
    sizes = {"large": 60, "middle": 30, "small": 10, "single": 1}
    for name, count in sizes.items():
        for i in range(count):
            save(tmp_path / "images" / name / f"{i:02d}.png", i)
    description, arrays = prepared(tmp_path / "images", test_fraction=0.3)
    assert description["classes"] == ["large", "middle", "single", "small"]
    # 30 of 101: 18 of 60, 9 of 30, 3 of 10; the only one of its class stays for training
    assert np.bincount(arrays["test_labels"]).tolist() == [18, 9, 0, 3]
    assert description["class_counts"] == [42, 21, 1, 7]
    again = prepared(tmp_path / "images", test_fraction=0.3, seed=1)[1]
    assert np.bincount(again["test_labels"]).tolist() == [18, 9, 0, 3]
    assert again["test"][:18, 0, 0, 0].tolist() != arrays["test"][:18, 0, 0, 0].tolist()
    limited = prepared(tmp_path / "images", test_fraction=0.3, limit=20)[1]
    assert np.bincount(limited["train_labels"], minlength=4).tolist() == [12, 6, 0, 2]  # of 42, 21, 1, 7
    assert np.bincount(limited["test_labels"], minlength=4).tolist() == [12, 6, 0, 2]  # of 18, 9, 0, 3


def test_each_class_is_spread_evenly_over_the_order() -> None:
    """Image r of the n of its class has the place (r + 1/2) / n: of one the middle, of two the quarters."""
    labels = [0, 0, 0, 0, 0, 1, 1, 2]  # at .1 .3 .5 .7 .9, .25 .75, .5
    for name in range(5):
        found = [labels[index] for index in preparation._stratified(labels, name)]
        assert found in ([0, 1, 0, 0, 2, 0, 1, 0], [0, 1, 0, 2, 0, 0, 1, 0])


def test_a_class_without_training_images_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, names in (("train", ["ant", "cat"]), ("test", ["ant", "bee", "cat"])):
        for name in names:
            for i in range(3):
                save(tmp_path / "images" / split / name / f"{i}.png", i)
    assert prepared(tmp_path / "images")[0]["class_counts"] == [3, 0, 3]
    assert "no training image of class 1 (bee): add images of it" in capsys.readouterr().err


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


def test_sha256_is_that_of_the_arrays(hundred: Path) -> None:
    description, arrays = prepared(hundred)
    assert description["sha256"] == content_hash(arrays)
    assert description.keys() == DESCRIPTION_KEYS


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
