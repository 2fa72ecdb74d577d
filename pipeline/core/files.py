"""Atomic files and folders: each is written under a temporary name beside its own and then renamed. Locks. Hashes."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.core.errors import PipelineError, log_line

UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}  # by a file system


class InUse(PipelineError):
    """Another process holds the lock."""


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, on failure removed.

    Raises:
        PipelineError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            fsync(temporary)
            os.replace(temporary, path)
            _fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new empty folder beside `path`; on success it takes the place of `path`, on failure it is removed.

    Leftovers of a killed process beside it are removed first.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".tmp", dir=path.parent))
        with contextlib.suppress(PermissionError, NotImplementedError):  # some file systems have no modes
            temporary.chmod(0o755)
        try:
            yield temporary
            for file in filter(Path.is_file, temporary.rglob("*")):
                fsync(file)
            former = temporary.with_suffix(".former.tmp")
            if path.is_symlink():  # also if its target does not exist
                path.unlink()
            elif path.exists():
                _set_aside(path, former)
            os.replace(temporary, path)
            shutil.rmtree(former, ignore_errors=True)
            _fsync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left beside `path`; each temporary name contains the pid of its writer."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = leftover.name.removeprefix(f".{path.name}.").split(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system while writing `path` into one sentence."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    forbidden = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
    try:
        yield
    except OSError as error:
        place = error.filename or path
        if error.errno in UNSUPPORTED - {errno.EINVAL}:
            remedy = "move the project to another file system, such as a local disk"
            raise PipelineError(f"{place}: {error.strerror} by its file system: {remedy}") from error
        if error.errno == errno.EBUSY:
            remedy = "something is mounted there, so it cannot be replaced: mount the folder above it instead"
            raise PipelineError(f"{place}: {error.strerror}: {remedy}") from error
        if error.errno not in full | forbidden:
            raise
        remedy = "free some space" if error.errno in full else "check the path and its permissions"
        raise PipelineError(f"{place}: {error.strerror}; {remedy} and run the command again") from error


def require_space(folder: Path, needed: int) -> None:
    """Check before long work that the disk of `folder` has `needed` bytes free; the estimate may be rough.

    Raises:
        PipelineError: it has less.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise PipelineError(
            f"{folder} needs about {_size(needed)} of disk space, but {_size(free)} are free: "
            "free some space and run the command again"
        )


def _size(count: int) -> str:
    """
    >>> _size(512), _size(2_500_000), _size(3 * 10**12)
    ('512 B', '2.5 MB', '3000.0 GB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def fsync(path: Path) -> None:
    """Make the present content of a file or folder survive a power cut, if the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _fsync_folder(folder: Path) -> None:
    """`fsync` a folder if the file system can: without it a power cut can undo the last rename."""
    try:
        fsync(folder)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EBADF, errno.EACCES}:
            raise


def _set_aside(path: Path, former: Path) -> None:
    """Rename a folder, or remove it if the file system cannot rename it (a lower layer of overlayfs)."""
    try:
        os.replace(path, former)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EXDEV}:
            raise
        shutil.rmtree(path)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` to `path` atomically, as JSON with sorted keys: equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """The value in a JSON file.

    Raises:
        PipelineError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path} is not valid JSON ({error}): delete it and run `dvc repro` again") from None


def damaged(path: Path, reason: str) -> PipelineError:
    """The error for a damaged file in a folder that a stage wrote."""
    return PipelineError(f"{path} is damaged ({reason}): delete {path.parent} and run `dvc repro` again")


def sha256(path: Path | str) -> str:
    """The sha256 of a file, as 64 hexadecimal digits, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ArrayWriter:
    """Write a .npy file row by row without knowing their number in advance.

    >>> with ArrayWriter("rows.npy", (2,), np.uint8) as rows:      # doctest: +SKIP
    ...     rows.append(np.zeros((3, 2), np.uint8))
    """

    def __init__(self, path: Path | str, row_shape: tuple[int, ...], dtype: Any) -> None:
        self.row_shape, self.dtype, self.count = row_shape, np.dtype(dtype), 0
        self._file = open(path, "wb")  # noqa: SIM115  closed in __exit__
        self._file.write(self._header())

    def _header(self) -> bytes:
        # numpy pads the header so that the first axis can grow in place: its length does not depend on `count`.
        buffer = io.BytesIO()
        description = np.lib.format.dtype_to_descr(self.dtype)
        shape = (self.count, *self.row_shape)
        np.lib.format.write_array_header_1_0(buffer, {"descr": description, "fortran_order": False, "shape": shape})
        return buffer.getvalue()

    def append(self, rows: np.ndarray) -> None:
        """Add `rows` (n, *row_shape), of the writer's dtype."""
        assert rows.shape[1:] == self.row_shape and rows.dtype == self.dtype, (rows.shape, rows.dtype)
        self._file.write(np.ascontiguousarray(rows).tobytes())
        self.count += len(rows)

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:  # closed even if the disk is full
            self._file.seek(0)
            self._file.write(self._header())


def flock(file: IO[Any], wait: bool = True) -> None:
    """Take the exclusive lock of an open file; the kernel releases it when the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        PipelineError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        raise PipelineError(
            f"{file.name}: this file system has no file locks ({error.strerror}), so two processes could overwrite "
            "each other's files: move the project to another file system, such as a local disk"
        ) from None


@contextlib.contextmanager
def exclusive(folder: Path, what: str, waits: bool = False) -> Iterator[None]:
    """Hold the lock of `folder` while the body runs.

    Args:
        waits: whether to wait while another process holds the lock; it looks once a second.

    Raises:
        InUse: another process holds the lock, and it does not wait; the message has its pid.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "a+") as file:
            said = False
            while True:
                try:
                    flock(file, wait=False)
                    break
                except BlockingIOError:
                    file.seek(0)
                    holder = file.read().strip() or "unknown"
                    if not waits:
                        raise InUse(f"{what} is in use by process {holder}: wait for it, or stop it") from None
                if not said:
                    log_line(f"{what} is in use by process {holder}: waiting for it")
                    said = True
                time.sleep(1)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
