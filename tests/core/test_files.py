"""Files are whole or absent, whatever happens while they are written."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core import files
from pipeline.core.errors import PipelineError
from pipeline.core.files import (
    ArrayWriter,
    atomic_folder,
    atomic_path,
    exclusive,
    read_json,
    sha256,
    storage_errors,
    write_bytes,
    write_json,
)

ROOT = Path(__file__).resolve().parents[2]
REMEDIES = {
    errno.ENOSPC: "No space left on device; free some space and run the command again",
    errno.EDQUOT: "Disk quota exceeded; free some space and run the command again",
    errno.EACCES: "Permission denied; check the path and its permissions and run the command again",
    errno.EPERM: "Operation not permitted; check the path and its permissions and run the command again",
    errno.EROFS: "Read-only file system; check the path and its permissions and run the command again",
    errno.ENOTDIR: "Not a directory; check the path and its permissions and run the command again",
}


class Crash(Exception):
    """Whatever may go wrong."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, number: int, name: str | None = None) -> None:
    """Let a function of `os` fail as the operating system would."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(files.os, function, fail)


# One file.


def test_a_new_file_and_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # the same file system, so that a rename is atomic
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and names(path.parent) == ["c.txt"]


def test_a_file_is_replaced_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with atomic_path(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["f"]


@pytest.mark.parametrize("crash", [Crash, KeyboardInterrupt, SystemExit])
def test_a_crash_leaves_the_old_file(tmp_path: Path, crash: type[BaseException]) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(crash), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise crash
    assert path.read_text() == "old" and names(tmp_path) == ["f"]


def test_a_crash_before_the_first_byte(tmp_path: Path) -> None:
    with pytest.raises(Crash), atomic_path(tmp_path / "f"):
        raise Crash
    assert names(tmp_path) == []


def test_a_file_reaches_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut may leave the new name with nothing in it."""
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        files.os, "fsync", lambda fd: (done.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd))[1]
    )
    monkeypatch.setattr(files.os, "replace", lambda a, b: (done.append("replace"), replace(a, b))[1])
    write_bytes(tmp_path / "f", b"x")
    assert done == [f".f.{os.getpid()}.tmp", "replace", tmp_path.name]
    done.clear()
    with atomic_folder(tmp_path / "d") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "g").write_text("x")
    assert done == ["g", "replace", tmp_path.name]


@pytest.mark.parametrize("number", REMEDIES)
def test_the_operating_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        refuse(patch, "fsync", number)
        with pytest.raises(PipelineError) as caught:
            write_bytes(path, b"new")
    assert str(caught.value) == f"{path}: {REMEDIES[number]}"
    assert path.read_bytes() == b"old" and names(tmp_path) == ["f"]


def test_the_place_that_was_refused_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "replace", errno.EACCES, "/the/real/place")
    with pytest.raises(PipelineError) as caught:
        write_bytes(tmp_path / "f", b"")
    assert str(caught.value) == f"/the/real/place: {REMEDIES[errno.EACCES]}"


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(OSError, match="Input/output error"), storage_errors(Path("f")):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(Crash), storage_errors(Path("f")):
        raise Crash


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(PipelineError, match=r"/f.*: Not a directory; check the path"):
        write_bytes(tmp_path / "f" / "g" / "h", b"")


def test_a_full_disk(tmp_path: Path) -> None:
    """/dev/full refuses every byte, as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(PipelineError) as caught, atomic_folder(tmp_path / "d") as folder:
        (folder / "rows.npy").symlink_to("/dev/full")
        with ArrayWriter(folder / "rows.npy", (4,), np.uint8) as rows:
            rows.append(np.zeros((2**16, 4), np.uint8))
    assert str(caught.value) == f"{tmp_path / 'd'}: {REMEDIES[errno.ENOSPC]}"
    assert names(tmp_path) == []
    assert rows._file.closed


# One folder.


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "d"
    for content in ("one", "two"):
        with atomic_folder(path) as folder:
            assert folder.parent == path.parent and names(folder) == []
            (folder / content).write_text(content)
    assert names(path) == ["two"] and names(path.parent) == ["d"]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("crash", [Crash, KeyboardInterrupt])
def test_a_crash_leaves_the_old_folder(tmp_path: Path, crash: type[BaseException]) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(crash), atomic_folder(path) as folder:
        (folder / "half").write_text("half")
        raise crash
    assert names(tmp_path) == ["d"] and names(path) == ["old"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for leftover in (f".d.{ended.pid}.x1.tmp", f".d.{ended.pid}.x1.former.tmp"):
        (tmp_path / leftover / "deep").mkdir(parents=True)
    others = [f".e.{ended.pid}.x.tmp", "d.tmp", f".dd.{ended.pid}.x.tmp", f".d.{os.getppid()}.x.tmp"]
    for other in others:
        (tmp_path / other).mkdir()
    with atomic_folder(tmp_path / "d"):
        assert len(names(tmp_path)) == 5
    assert names(tmp_path) == sorted(["d", *others])


def test_two_processes_that_make_the_same_folder_leave_a_whole_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "d") as first:
        (first / "a").write_text("first")
        other = (
            "from pipeline.core.files import atomic_folder\nwith atomic_folder('d') as f: (f / 'a').write_text('other')"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", other], cwd=tmp_path, env=environment, check=True)
        assert (tmp_path / "d/a").read_text() == "other"
        (first / "b").write_text("first")
    assert {path.name: path.read_text() for path in (tmp_path / "d").iterdir()} == {"a": "first", "b": "first"}
    assert names(tmp_path) == ["d"]


def test_what_is_mounted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(source: Path, target: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source))

    (tmp_path / "d").mkdir()
    monkeypatch.setattr(files.os, "replace", busy)
    told = pytest.raises(PipelineError, match=r"/d: Device or resource busy: .* mount the folder above it instead$")
    with told, atomic_folder(tmp_path / "d"):
        pass
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_renames_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(files.os, "replace", unable(number))
    with pytest.raises(PipelineError, match=r"by its file system: move the project to another file system"):
        files.write_bytes(tmp_path / "f", b"1")
    assert names(tmp_path) == []


def test_a_file_system_without_fsync_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "fsync", unable(errno.ENOSYS))
    files.write_bytes(tmp_path / "f", b"1")
    assert (tmp_path / "f").read_bytes() == b"1"
    monkeypatch.setattr(files.os, "fsync", unable(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        files.write_bytes(tmp_path / "f", b"2")
    assert (tmp_path / "f").read_bytes() == b"1"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").write_text("old")
    with monkeypatch.context() as patch:
        refuse(patch, "fsync", number)
        with pytest.raises(PipelineError) as caught, atomic_folder(path) as folder:
            (folder / "new").write_text("new")
    assert str(caught.value) == f"{path}: {REMEDIES[number]}"
    assert names(tmp_path) == ["d"] and names(path) == ["old"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, there: bool) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "far")
    if there:
        (tmp_path / "far").mkdir()
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert names(tmp_path) == ["far"] * there + ["link"] and names(tmp_path / "link") == ["a"]
    assert not (tmp_path / "link").is_symlink()


# JSON and hashes.


def test_json_is_the_same_bytes_for_the_same_value(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_json(path, {"b": [1, 0.1], "a": None})
    assert path.read_bytes() == b'{\n  "a": null,\n  "b": [\n    1,\n    0.1\n  ]\n}\n'
    first = path.read_bytes()
    write_json(path, {"a": None, "b": [1, 0.1]})
    assert path.read_bytes() == first
    assert read_json(path) == {"a": None, "b": [1, 0.1]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"a": [float("nan")]}])
def test_json_refuses_what_is_no_number(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "f.json"
    path.write_text("1")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, value)
    assert path.read_text() == "1" and names(tmp_path) == ["f.json"]


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    with pytest.raises(PipelineError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path} does not exist: run `dvc repro`, which makes it"
    for content in (b"", b"{", b"\xff", b"nope"):
        path.write_bytes(content)
        with pytest.raises(PipelineError) as caught:
            read_json(path)
        assert str(caught.value).startswith(f"{path} is not valid JSON (")
        assert str(caught.value).endswith("): delete it and run `dvc repro` again")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Arrays.


@pytest.mark.parametrize("row_shape", [(), (3,), (1, 2, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
@pytest.mark.parametrize("counts", [[], [0], [1], [2, 0, 3], [1] * 101])
def test_arrays_are_read_back(tmp_path: Path, row_shape: tuple[int, ...], dtype: Any, counts: list[int]) -> None:
    total, size = sum(counts), int(np.prod(row_shape))
    rows = np.arange(total * size).reshape(total, *row_shape).astype(dtype)
    with ArrayWriter(tmp_path / "a.npy", row_shape, dtype) as writer:
        for part in np.split(rows, np.cumsum(counts)[:-1]) if counts else []:
            writer.append(part)
        assert writer.count == total
    back = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert back.dtype == dtype and back.shape == rows.shape and np.array_equal(back, rows)
    np.save(tmp_path / "b.npy", rows)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_rows_in_another_memory_order(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.int64).reshape(4, 6).T  # (6, 4), column by column
    with ArrayWriter(tmp_path / "a.npy", (4,), np.int64) as writer:
        writer.append(rows)
        writer.append(rows[::2])
    back = np.load(tmp_path / "a.npy")
    assert np.array_equal(back, np.concatenate([rows, rows[::2]]))


def test_the_header_has_room_for_many_rows(tmp_path: Path) -> None:
    """Rows of no bytes: a billion of them cost nothing, and their number has ten digits."""
    with ArrayWriter(tmp_path / "a.npy", (0,), np.uint8) as writer:
        before = len(writer._header())
        writer.append(np.zeros((10**9, 0), np.uint8))
        assert len(writer._header()) == before
    assert np.load(tmp_path / "a.npy").shape == (10**9, 0)


def test_rows_of_another_shape_or_type(tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "a.npy", (2,), np.uint8) as writer:
        for rows in (np.zeros((1, 3), np.uint8), np.zeros((1, 2), np.float32), np.zeros((2,), np.uint8)):
            with pytest.raises(AssertionError):
                writer.append(rows)
    assert np.load(tmp_path / "a.npy").shape == (0, 2)


# Locks.

HOLD = """
import sys, time
from pathlib import Path
from pipeline.core.files import exclusive
with exclusive(Path(sys.argv[1]), "dcgan-0"):
    print("held", flush=True)
    time.sleep(120)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of `folder`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "work"
    process = hold(folder)
    try:
        for _ in range(2):  # to be refused must not harm the lock or the holder's name
            with pytest.raises(PipelineError) as caught, exclusive(folder, "dcgan-0"):
                raise AssertionError("two holders")
            assert str(caught.value) == f"dcgan-0 is in use by process {process.pid}: wait for it, or stop it"
        with exclusive(tmp_path / "other", "x"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        if process.stdout:
            process.stdout.close()
    with exclusive(folder, "dcgan-0"):
        assert (folder / "lock").read_text() == str(os.getpid())


def test_a_lock_is_released_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(Crash), exclusive(tmp_path, "x"):
            raise Crash
    holder = rf"by process {os.getpid()}:"
    with exclusive(tmp_path, "x"), pytest.raises(PipelineError, match=holder), exclusive(tmp_path, "x"):
        raise AssertionError("two holders")


def test_a_lock_whose_holder_is_unknown(tmp_path: Path) -> None:
    with exclusive(tmp_path, "x"):
        (tmp_path / "lock").write_text("")
        with pytest.raises(PipelineError, match=r"^x is in use by process unknown: "), exclusive(tmp_path, "x"):
            raise AssertionError("two holders")


def test_an_error_within_a_lock_is_not_an_error_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), exclusive(tmp_path, "x"):
        raise BlockingIOError(errno.EAGAIN, "of something else")


def test_json_module_agrees(tmp_path: Path) -> None:
    value = {"é": [True, {}], "n": 2**70}
    write_json(tmp_path / "f", value)
    assert json.loads((tmp_path / "f").read_bytes()) == value == read_json(tmp_path / "f")


# File systems that cannot do everything.


def unable(number: int) -> Any:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(files.fcntl, "flock", unable(number))
    told = pytest.raises(PipelineError, match=r"this file system has no file locks .*move the project")
    with told, files.exclusive(tmp_path / "work", "dcgan-0"):
        raise AssertionError("it must not run without its lock")


def test_one_without_fsync_of_folders_modes_or_folder_renames_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fsync, replace = tmp_path / "out", os.fsync, os.replace
    with files.atomic_folder(folder) as first:
        (first / "old.txt").write_text("old")

    def of_files_only(descriptor: int) -> None:
        unable(errno.EINVAL)() if os.path.isdir(f"/proc/self/fd/{descriptor}") else fsync(descriptor)

    def not_of_old_folders(source: Path, target: Path) -> None:
        unable(errno.EXDEV)() if Path(source) == folder else replace(source, target)

    monkeypatch.setattr(files.os, "fsync", of_files_only)
    monkeypatch.setattr(files.os, "replace", not_of_old_folders)
    monkeypatch.setattr(Path, "chmod", unable(errno.EPERM))
    with files.atomic_folder(folder) as second:
        (second / "new.txt").write_text("new")
    files.write_bytes(tmp_path / "file", b"whole")
    assert [path.name for path in folder.iterdir()] == ["new.txt"] and (folder / "new.txt").read_text() == "new"
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_who_waits_says_so_once_and_goes_on_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[float] = []
    with contextlib.ExitStack() as first:
        first.enter_context(files.exclusive(tmp_path, "dcgan-0"))

        def sleep(seconds: float) -> None:
            asked.append(seconds)
            if len(asked) == 3:
                first.close()

        monkeypatch.setattr(files.time, "sleep", sleep)
        with files.exclusive(tmp_path, "dcgan-0", waits=True):
            assert len(asked) == 3
    assert capsys.readouterr().err.count(f"in use by process {os.getpid()}: waiting for it") == 1
    held, refused = files.exclusive(tmp_path, "dcgan-0"), pytest.raises(files.InUse)
    with held, refused, files.exclusive(tmp_path, "dcgan-0", waits=False):
        raise AssertionError
