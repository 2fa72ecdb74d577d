"""Images from an array file: .npy, memory-mapped, or .npz, read row by row; neither is ever in memory as a whole.

uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, or floats of a declared value range, which become uint8 by
rounding to the nearest level, as a PNG would hold them. Whatever could be read in two ways is refused.
"""

import contextlib
import functools
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.core.errors import PipelineError, printable
from pipeline.core.files import sha256
from pipeline.metrics.npz import damage_named, load_arrays, members, open_member, read_header

CHANNELS = (1, 3)
ROUNDING = 1e-6  # of the range: floats that rounding took so far beyond it are clipped; half precision rounds more


class ArrayImages:
    """The images of one array. `member` is its name in an .npz, None for a .npy; `labels` (N,) are those beside it."""

    def __init__(
        self,
        path: Path,
        member: str | None,
        value_range: tuple[float, float] | None,
        max_megapixels: float,
        labels: np.ndarray | None = None,
    ) -> None:
        self.path, self.member, self.value_range = path, member, value_range or (0.0, 1.0)
        self.labels, self.classes, self.skipped = None, tuple[str, ...](), dict[str, int]()
        with damage_named(path), self._opened() as (self.shape, self.dtype, _):
            pass
        if labels is not None and labels.dtype.kind in "iu" and labels.shape == self.shape[:1]:
            names, self.labels = np.unique(labels, return_inverse=True)
            self.classes = tuple(map(str, names.tolist()))
        self.layout = _layout(path, self.shape)
        if math.prod(self.shape[1:]) > 3e6 * max_megapixels:
            raise PipelineError(
                f"{path} has shape {self.shape}, images of more than --max-megapixels {max_megapixels:g}"
            )
        if self.dtype != np.uint8 and self.dtype.kind != "f":
            raise PipelineError(
                f"{path} holds {self.dtype}: save it as uint8, or as floats of the range that --value-range declares"
            )
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.conversion: dict[str, Any] = {"array": f"{self.dtype} {self.layout}"}
        if self.dtype.kind == "f":
            self.conversion["value_range"] = list(self.value_range)

    def __len__(self) -> int:
        return self.shape[0]

    def tasks(self) -> Iterator[Callable[[], np.ndarray]]:
        """A function for each image that gives it as uint8 (C, H, W)."""
        with damage_named(self.path), self._opened() as (_, _, rows):
            for index, row in enumerate(rows):
                yield functools.partial(self._convert, index, row)

    def sha256(self) -> str:
        """The sha256 of the file."""
        return sha256(self.path)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[tuple[int, ...], np.dtype, Iterator[np.ndarray]]]:
        """Shape and dtype, and an iterator over the rows."""
        if self.member is None:
            with open(self.path, "rb") as file:
                shape, fortran, dtype, offset = read_header(file, os.path.getsize(self.path))
            array = np.memmap(self.path, dtype, "r", offset, shape, "F" if fortran else "C")
            yield array.shape, array.dtype, iter(array) if array.ndim else iter(())
            return
        with zipfile.ZipFile(self.path) as archive, open_member(archive, self.member) as (file, header):
            if header.fortran:
                raise ValueError("Fortran order, which cannot be read row by row")
            yield header.shape, header.dtype, _rows(file, header.shape, header.dtype)

    def _convert(self, index: int, row: np.ndarray) -> np.ndarray:
        if row.dtype != np.uint8:
            row = self._quantise(index, row)
        if self.layout == "(N, H, W)":
            return np.array(row[None])  # (H, W) -> (1, H, W)
        return np.array(row.transpose(2, 0, 1) if self.layout == "(N, H, W, C)" else row, order="C")

    def _quantise(self, index: int, row: np.ndarray) -> np.ndarray:
        low, high = self.value_range
        if not np.isfinite(row).all():
            raise PipelineError(f"{self.path}: image {index} holds NaN or infinite values: repair or remove it")
        shares: np.ndarray = (row.astype(np.float64) - low) / (high - low)
        rounding = max(ROUNDING, 2 * float(np.finfo(row.dtype).eps))
        if shares.min() < -rounding or shares.max() > 1 + rounding:
            raise PipelineError(
                f"{self.path}: image {index} has values from {row.min()!s} to {row.max()!s}, outside "
                f"{low:g}..{high:g}: declare their range with --value-range LOW,HIGH"
            )
        quantised: np.ndarray = np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
        return quantised


def open_array(path: Path, value_range: tuple[float, float] | None, max_megapixels: float) -> ArrayImages:
    """The images of a .npy file, or of an .npz file's `arr_0` or only array.

    Whole numbers `arr_1` (N,) beside `arr_0` are its labels, as ADM's and EDM's sample batches have them.

    Raises:
        PipelineError: it is damaged, or what it holds cannot be read as images, or in two ways.
    """
    if path.suffix.lower() == ".npy":
        return ArrayImages(path, None, value_range, max_megapixels)
    names = members(path)
    member = "arr_0" if "arr_0" in names else names[0] if len(names) == 1 else None
    if member is None:
        held = ", ".join(map(printable, names[:8])) or "nothing"
        raise PipelineError(
            f"{path} holds neither images (arr_0, or one array alone) nor statistics (mu and sigma) but {held}: "
            "save the images as arr_0"
        )
    labels = None
    if member == "arr_0" and "arr_1" in names:
        with damage_named(path):
            labels = load_arrays(path, ("arr_1",))["arr_1"]
    return ArrayImages(path, member, value_range, max_megapixels, labels)


def _layout(path: Path, shape: tuple[int, ...]) -> str:
    if len(shape) not in (3, 4):
        raise PipelineError(f"{path} has shape {shape}: save the images as (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if not all(shape[1:]):
        raise PipelineError(f"{path} has shape {shape}, images without pixels: save it again")
    if len(shape) == 3:
        if shape[0] in CHANNELS or shape[2] in CHANNELS:
            raise PipelineError(f"{path} has shape {shape}, one image or several grey ones: save it as (N, H, W, C)")
        return "(N, H, W)"
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first and last:
        raise PipelineError(f"{path} has shape {shape}: channels may come first or last; save such images as PNG files")
    if not first and not last:
        raise PipelineError(f"{path} has shape {shape}, no 1 or 3 channels: save it as (N, H, W, C) or (N, C, H, W)")
    return "(N, C, H, W)" if first else "(N, H, W, C)"


def _rows(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    size = math.prod(shape[1:]) * dtype.itemsize
    for _ in range(shape[0]):
        content = file.read(size)
        if len(content) < size:
            raise EOFError("it ends early")
        yield np.frombuffer(content, dtype).reshape(shape[1:])
