import hashlib
import subprocess
from pathlib import Path

import pytest

from pipeline.core.checksums import verify_checksums, write_sums
from pipeline.core.errors import PipelineError

CONTENT = {"a.npy": b"\x00\x01", "grids/0.png": b"picture", "grids/1.png": b"", "two  spaces.csv": b"1,2\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_sums(folder)
    return folder


def test_the_file_is_that_of_sha256sum(folder: Path) -> None:
    expected = [f"{hashlib.sha256(CONTENT[name]).hexdigest()}  {name}" for name in sorted(CONTENT)]
    assert (folder / "SHA256SUMS").read_text().splitlines() == expected
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_what_is_whole_passes_and_other_files_do_not_matter(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    verify_checksums(folder)
    verify_checksums(folder, "grids")
    verify_checksums(folder, "a.npy", "grids/0.png")


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("damage", [b"\x01", b"picturf", b"12345"])
def test_a_changed_file_is_named_with_its_folder(folder: Path, name: str, damage: bytes) -> None:
    (folder / name).write_bytes(damage)
    with pytest.raises(PipelineError) as caught:
        verify_checksums(folder)
    path = folder / name
    remedy = f"delete {path.parent} and run `dvc repro` again"
    assert str(caught.value) == f"{path} is damaged (its sha256 is not the one in SHA256SUMS): {remedy}"


def test_only_the_files_asked_for_are_read(folder: Path) -> None:
    (folder / "a.npy").write_bytes(b"?")
    verify_checksums(folder, "grids", "two  spaces.csv")
    with pytest.raises(PipelineError, match=r"a\.npy is damaged"):
        verify_checksums(folder, "grids", "a.npy")


def test_missing_files(folder: Path) -> None:
    (folder / "grids/1.png").unlink()
    with pytest.raises(PipelineError, match=r"grids/1\.png does not exist: run `dvc repro`"):
        verify_checksums(folder)
    (folder / "grids/1.png").mkdir()
    with pytest.raises(PipelineError, match=r"grids/1\.png is damaged \(Is a directory\)"):
        verify_checksums(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(PipelineError, match=r"SHA256SUMS does not exist: run `dvc repro`"):
        verify_checksums(folder, "a.npy")


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"a.npy\n", b"\x00" * 20, b""])
def test_a_garbled_list(folder: Path, content: bytes) -> None:
    (folder / "SHA256SUMS").write_bytes(content)
    with pytest.raises(PipelineError, match=r"SHA256SUMS is damaged \("):
        verify_checksums(folder)


def test_a_list_that_was_cut_short_does_not_vouch_for_what_it_lost(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text(lines[0])
    with pytest.raises(PipelineError, match=r"SHA256SUMS is damaged \(it does not list grids"):
        verify_checksums(folder, "a.npy", "grids")


def test_only_what_is_named_is_listed(folder: Path) -> None:
    write_sums(folder, "a.npy", "grids")
    names = [line.split("  ", 1)[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert names == ["a.npy", "grids/0.png", "grids/1.png"]


def test_files_of_other_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    scores, picture = Path("scores/toy-0"), Path("closest/toy-0.png")
    for path in (scores / "record.json", picture):
        path.parent.mkdir(parents=True)
        path.write_text("1")
    write_sums(scores, "record.json", "../../made/SHA256SUMS", "../../closest/toy-0.png")
    names = [line.split("  ", 1)[1] for line in (scores / "SHA256SUMS").read_text().splitlines()]
    assert names == ["../../closest/toy-0.png", "../../made/SHA256SUMS", "record.json"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=scores, check=True)
    verify_checksums(scores)
    picture.write_text("2")
    said = (
        r"^closest/toy-0\.png is damaged \(its sha256 is not the one in scores/toy-0/SHA256SUMS\): delete closest and"
    )
    for partial in (False, True):
        with pytest.raises(PipelineError, match=said):
            verify_checksums(scores, partial=partial)
    picture.unlink()
    verify_checksums(scores, partial=True)  # a clone has what git has
    with pytest.raises(PipelineError, match=r"^closest/toy-0\.png does not exist: run `dvc repro`"):
        verify_checksums(scores)
    (scores / "record.json").unlink()
    with pytest.raises(PipelineError, match=r"^scores/toy-0/record\.json does not exist: run `dvc repro`"):
        verify_checksums(scores, partial=True)
