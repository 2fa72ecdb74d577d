"""Images that stay in their file, read batch by batch: for a set that is larger than a device's memory.

A row is read with `pread`, never mapped: a file that is cut short gives an error, where mapped memory kills the process
with a bus error. While one batch is used, a thread reads the next one, and on CUDA copies it from pinned memory on a
stream of its own: so a step waits neither for the disk nor for the bus.
"""

import math
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import PipelineError, printable
from pipeline.core.files import damaged

AHEAD = 4  # batches read and not yet asked for that are kept: a step with paired losses draws from two sequences


@dataclass(frozen=True)
class _Read:
    """A batch on the device, and on CUDA the event after which its copy is there."""

    rows: Tensor
    copied: torch.cuda.Event | None


class HostImages:
    """The images of a .npy file, uint8 (N, C, H, W), of which only the rows asked for are brought to `device`.

    It stands where a tensor on the device would: it has `device`, `shape` and a length, and is indexed by numbers.

    Raises:
        PipelineError: the file is missing, damaged, or does not hold images of `shape`.
    """

    def __init__(self, path: Path, shape: Sequence[int], device: torch.device | str) -> None:
        self.path, self.shape, self.device = path, torch.Size(shape), torch.device(device)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from None
        weakref.finalize(self, os.close, self._descriptor)
        self._start, self._row = self._header(), math.prod(self.shape[1:])
        found = os.fstat(self._descriptor)
        if found.st_size != self._start + self._row * len(self):
            raise damaged(path, f"it has {found.st_size} bytes, not those of {tuple(self.shape)} and a header")
        self._opened = found.st_mtime_ns
        self._pinned = self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if self._pinned else None
        self._thread = ThreadPoolExecutor(1, "images")
        self._waiting: dict[bytes, Future[_Read]] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """The images of these numbers, int64 (n,), on the device."""
        return self._arrived(self._read(index.cpu()))

    def batch(self, index: Tensor, following: Tensor) -> Tensor:
        """The images of these numbers, int64 (n,) on the CPU, on the device; `following` are then read ahead.

        Raises:
            PipelineError: the file was changed or cut short since it was opened.
        """
        ahead = self._waiting.pop(_key(index), None)
        read = self._read(index) if ahead is None else ahead.result()
        if _key(following) not in self._waiting:
            while len(self._waiting) >= AHEAD:
                self._waiting.pop(next(iter(self._waiting))).cancel()
            self._waiting[_key(following)] = self._thread.submit(self._read, following)
        return self._arrived(read)

    def copy(self, rows: int = 256) -> Tensor:
        """All images, uint8 (N, C, H, W), on the device; read so many at a time."""
        whole = torch.empty(self.shape, dtype=torch.uint8, device=self.device)
        if self.device.type != "meta":
            for numbers in torch.arange(len(self)).split(rows):
                whole[numbers[0] : numbers[-1] + 1] = self[numbers]
        return whole

    def _arrived(self, read: _Read) -> Tensor:
        """Its rows, for work that is given to the device from now on."""
        if read.copied is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(read.copied)
            read.rows.record_stream(now)
        return read.rows

    def _read(self, index: Tensor) -> _Read:
        rows = torch.empty((len(index), *self.shape[1:]), dtype=torch.uint8, pin_memory=self._pinned)
        places = rows.view(-1).numpy().data
        for place, number in enumerate(index.tolist()):
            into = places[place * self._row : (place + 1) * self._row]
            try:
                got = os.preadv(self._descriptor, [into], self._start + number * self._row)
            except OSError as error:
                raise damaged(self.path, error.strerror or str(error)) from None
            if got != self._row:
                raise damaged(self.path, f"image {number} is cut short")
        if os.fstat(self._descriptor).st_mtime_ns != self._opened:
            raise damaged(self.path, "it was written to while it was read")
        if self._stream is None:
            return _Read(rows.to(self.device), None)
        with torch.cuda.stream(self._stream):
            return _Read(rows.to(self.device, non_blocking=True), self._stream.record_event())

    def _header(self) -> int:
        """Where the first image begins, in a file whose header says what it should."""
        try:
            with open(self._descriptor, "rb", closefd=False) as file:
                major, _ = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                (shape, fortran, dtype), start = read(file), file.tell()
        except Exception as error:  # OSError, ValueError, or anything that a garbled header causes
            raise damaged(self.path, printable(str(error)) or type(error).__name__) from None
        if dtype != np.uint8 or shape != tuple(self.shape) or fortran:
            raise damaged(self.path, f"it does not hold uint8 {tuple(self.shape)}, as dataset.json says")
        return start


def _key(index: Tensor) -> bytes:
    return index.numpy().tobytes()
