"""A zip as `data.root`: the same data set as the unpacked folder."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.data.datasets import expected_classes
from pipeline.data.zips import ZipFolder, is_zip
from tests.data.samples import params, prepared, refused, save


def packed(folder: Path) -> Path:
    """A zip of a folder, beside it."""
    path = folder.with_name("images.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def make(folder: Path, layout: str) -> None:
    for i in range(12):
        name = {"plain": f"{i}.png", "classes": f"{'ab'[i % 2]}/{i}.png", "stylegan": f"0000{i // 6}/img{i:08d}.png",
                "splits": f"{'train' if i < 8 else 'test'}/{'ab'[i % 2]}/{i}.png"}[layout]  # fmt: skip
        save(folder / name, 20 * i)
    if layout == "stylegan":
        pairs = [[f"0000{i // 6}/img{i:08d}.png", i % 3] for i in range(12)]
        (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))


@pytest.mark.parametrize("layout", ["plain", "classes", "stylegan", "splits"])
def test_a_zip_is_the_folder_that_it_was_made_of(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    make(folder, layout)
    path = packed(folder)
    described, arrays = prepared(folder)
    of_zip, from_zip = prepared(path)
    assert {**of_zip, "name": described["name"]} == described and from_zip.keys() == arrays.keys()
    assert all(np.array_equal(from_zip[name], arrays[name]) for name in arrays)
    wanted = {"plain": 0, "classes": 2, "stylegan": 3, "splits": 2}[layout]
    assert len(of_zip["classes"]) == wanted
    assert expected_classes(params(root=str(path))) == wanted


def test_junk_in_a_zip_is_skipped_and_counted(tmp_path: Path) -> None:
    make(tmp_path / "images", "classes")
    path = packed(tmp_path / "images")
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("__MACOSX/a/._0.png", ".git/x.png", "a/notes.txt"):
            archive.writestr(name, b"x")
    assert prepared(path)[0]["skipped"] == {"hidden_files": 1, "other_files": 1}


def test_what_a_zip_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    path.write_bytes(b"PK")
    assert f"{path} cannot be read (File is not a zip file): save it again" in refused(path)
    assert expected_classes(params(root=str(path))) is None
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", b"x")
    assert "holds no image" in refused(path)
    assert not is_zip(tmp_path / "missing.zip") and not is_zip(tmp_path)


def test_a_name_that_leads_out_is_only_a_name(tmp_path: Path) -> None:
    make(tmp_path / "images", "plain")
    path = packed(tmp_path / "images")
    image = (tmp_path / "images/0.png").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(8):
            archive.writestr(f"/out{i}.png", image)
            archive.writestr(f"../../up{i}.png", image)  # as in a hidden folder
    assert prepared(path)[0]["train"] == 6
    assert not Path("/out0.png").exists() and not (tmp_path.parents[1] / "up0.png").exists()


def test_a_large_label_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "images", "stylegan")
    path = packed(tmp_path / "images")
    monkeypatch.setattr("pipeline.data.zips.MOST_TEXT", 10)
    with pytest.raises(PipelineError, match=r"images\.zip holds a dataset\.json of \d+ bytes: remove it$"):
        ZipFolder(path).text("dataset.json")


def test_a_damaged_image_in_a_zip_is_named(tmp_path: Path) -> None:
    make(tmp_path / "images", "plain")
    path = packed(tmp_path / "images")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 5] ^= 1
    path.write_bytes(content)
    assert "images.zip/0.png cannot be read (Bad CRC-32" in refused(path)
    assert prepared(path, bad_images="skip")[0]["skipped"] == {"broken": 1}
