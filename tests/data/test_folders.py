"""Folders of images: their classes, splits, and what is skipped in them."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.data.datasets import EXTENSIONS, expected_classes
from pipeline.data.folders import class_order, list_images
from tests.data.samples import all_images, params, prepared, refused, save

pytestmark = pytest.mark.filterwarnings("error")  # Pillow's and numpy's warnings must never reach a user


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


def test_what_is_skipped_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
        list_images(tmp_path / "images", EXTENSIONS)


# Classes, in every kind of folder: `expected_classes` is what check counts before anything is prepared.


def classes_of(folder: Path) -> tuple[list[str], dict[str, Any], dict[str, np.ndarray]]:
    """The classes of a prepared folder, which are as many as expected."""
    description, arrays = prepared(folder)
    assert expected_classes(params(root=str(folder))) == len(description["classes"])
    return description["classes"], description, arrays


def test_numbers_in_names_are_in_natural_order(tmp_path: Path) -> None:
    for label in range(12):
        for i in range(4):
            save(tmp_path / "images" / f"{label}" / f"{i}.png", 20 * label)
    classes, _, arrays = classes_of(tmp_path / "images")
    assert classes == [str(label) for label in range(12)]
    assert arrays["train"][:, 0, 0, 0].tolist() == [20 * label for label in arrays["train_labels"].tolist()]
    names = ["v2", "v10", "v1.10", "v1.9", "01", "1", "b", "a1x", "a01", "", "½"]
    assert class_order(names) == ("", "01", "1", "a01", "a1x", "b", "v1.9", "v1.10", "v2", "v10", "½")


def test_a_name_is_the_same_composed_or_decomposed(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for place, name, value in [
        ("a", composed, 0),
        ("b", decomposed, 0),
        ("both", composed, 0),
        ("both", decomposed, 9),
    ]:
        for i in range(4):
            save(tmp_path / place / "images" / name / f"{i}.png", value)
            save(tmp_path / place / "images" / "zoo" / f"{i}.png", 100)
    for place in ("a", "b", "both"):
        classes, _, arrays = classes_of(tmp_path / place / "images")
        assert classes == [composed, "zoo"], place
        labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
        assert ((all_images(arrays)[:, 0, 0, 0] == 100) == (labels == 1)).all()


def test_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    """As of an unpacked zip: __MACOSX/cat/._0.png."""
    folder = tmp_path / "images"
    for i in range(4):
        save(folder / "cat" / f"{i}.png", i)
        save(folder / "dog" / "young" / f"{i}.png", i)
    (folder / "__MACOSX" / "cat").mkdir(parents=True)
    (folder / "__MACOSX" / "cat" / "._0.png").write_bytes(b"junk")
    (folder / "empty" / "deeper").mkdir(parents=True)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("x")
    save(folder / ".thumbnails" / "0.png")
    (folder / "link").symlink_to(folder / "cat")
    assert classes_of(folder)[0] == ["cat", "dog"]


@pytest.mark.parametrize("held_out", ["test", "Val", "validation"])
def test_train_and_test_folders_are_the_splits(tmp_path: Path, held_out: str) -> None:
    for split, first in (("train", 0), (held_out, 100)):
        for i in range(3):
            save(tmp_path / "images" / split / "cat" / f"{i}.png", first + i)
            save(tmp_path / "images" / split / "dog" / f"{i}.png", first + 50 + i)
    classes, description, arrays = classes_of(tmp_path / "images")
    assert classes == ["cat", "dog"] and description["class_counts"] == [3, 3]
    assert arrays["train"][:, 0, 0, 0].tolist() == [0, 1, 2, 50, 51, 52]
    assert arrays["train_labels"].tolist() == arrays["test_labels"].tolist() == [0, 0, 0, 1, 1, 1]
    assert arrays["test"][:, 0, 0, 0].tolist() == [100, 101, 102, 150, 151, 152]


def test_flat_splits_and_a_third_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, value in (("train", 0), ("test", 100), ("val", 200)):
        for i in range(3):
            save(tmp_path / "images" / split / f"{i}.png", value + i)
    classes, description, arrays = classes_of(tmp_path / "images")
    assert classes == [] and (description["train"], description["test"]) == (3, 3)
    assert arrays["test"][:, 0, 0, 0].tolist() == [100, 101, 102]
    assert "the 3 images for validation are not used" in capsys.readouterr().err


def test_a_lone_train_folder_and_a_class_called_train(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "lone" / "images" / "train" / "cat" / f"{i}.png", i)
        save(tmp_path / "lone" / "images" / "train" / "dog" / f"{i}.png", i)
        for name in ("bus", "train", "test"):
            save(tmp_path / "cars" / "images" / name / f"{i}.png", i)
    classes, description, _ = classes_of(tmp_path / "lone" / "images")
    assert classes == ["cat", "dog"] and (description["train"], description["test"]) == (6, 2)
    assert classes_of(tmp_path / "cars" / "images")[0] == ["bus", "test", "train"]


def test_images_beside_class_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for i in range(3):
            save(tmp_path / "images" / split / "cat" / f"{i}.png", i)
    save(tmp_path / "images" / "test" / "stray.png")
    assert "test/stray.png beside test/cat/0.png" in refused(tmp_path / "images")


def label_file(folder: Path, labels: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))


def test_a_label_file_has_the_labels_and_folders_are_only_chunks(tmp_path: Path) -> None:
    folder, labels = tmp_path / "images", []
    for i in range(24):  # as StyleGAN's dataset_tool.py writes them, but 8 in a folder
        name = f"{i // 8:05d}/img{i:08d}.png"
        save(folder / name, i)
        labels.append([name, i % 3])
    for form in (labels, dict(labels)):
        label_file(folder, form)
        classes, description, arrays = classes_of(folder)
        assert classes == ["0", "1", "2"] and description["skipped"] == {}
        for split in ("train", "test"):
            assert arrays[f"{split}_labels"].tolist() == (arrays[split][:, 0, 0, 0] % 3).tolist()
    label_file(folder, None)
    assert classes_of(folder)[0] == []
    (folder / "dataset.json").write_text('{"other": 1}')  # another kind of file
    assert classes_of(folder)[0] == ["00000", "00001", "00002"]
    for damaged in ('{"labels": [["0', "", "[" * 100_000):
        (folder / "dataset.json").write_text(damaged)
        assert "dataset.json is not valid JSON: write it again, or remove it" in refused(folder)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [["0.png", 0], ["1.png", 1], ["2.png", 0]],
            r"has no label for 3\.png: add it, or remove the image",
        ),
        ([["0.png", 0], ["1.png", -1]], "labels must be pairs of a file name and a class from 0"),
        ([["0.png", [1.0, 0.0]]], "labels must be pairs"),
        ([["0.png", True]], "labels must be pairs"),
        ("cat", "labels must be pairs"),
        ([["0.png", 10**9], ["1.png", 0]], "has the class 1000000000 for 2 images"),
    ],
)
def test_a_label_file_that_does_not_fit_is_one_sentence(tmp_path: Path, labels: Any, message: str) -> None:
    for i in range(4):
        save(tmp_path / "images" / f"{i}.png", i)
    label_file(tmp_path / "images", labels)
    assert re.search(message, refused(tmp_path / "images"))


def test_what_may_not_have_been_meant_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        save(tmp_path / "deep" / "cat" / "young" / f"{i}.png", i)
        save(tmp_path / "deep" / "cat" / f"{i}.png", i)
        for chunk in ("00000", "00001"):
            save(tmp_path / "chunks" / chunk / f"{i}.png", i)
    prepared(tmp_path / "deep")
    said = capsys.readouterr().err
    assert "4 images in deeper folders have the class of the upper one, such as cat/young/0.png" in said
    prepared(tmp_path / "chunks")
    assert "00000 to 00001 are taken for 2 classes" in capsys.readouterr().err
