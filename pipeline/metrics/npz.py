"""Arrays from .npy and .npz files of any origin: nothing in them is executed, and no size in them is believed."""

import contextlib
import io
import math
import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from pipeline.core.errors import PipelineError, printable

HEADER = 2**14  # bytes: numpy refuses a longer one, but only after it has read the length that the file announces
MOST_BYTES = 2**28  # of an array that is read as a whole


class Header(NamedTuple):
    """What an array in numpy's format says of itself; `offset` is where in the file its first value lies, in bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int


def members(path: Path) -> list[str]:
    """The names of the arrays in an .npz file, in its order.

    Raises:
        PipelineError: the file is damaged.
    """
    with damage_named(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def load_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of `names` that an .npz file holds.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is damaged, or an array holds Python objects or more than 256 MiB; the text says why.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read(archive, name) for name in names if f"{name}.npy" in archive.namelist()}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(_reason(error)) from None


@contextlib.contextmanager
def open_member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[BinaryIO, Header]]:
    """An array of an .npz: the file at its first value, and its header."""
    with archive.open(f"{name}.npy") as stream:
        file = cast(BinaryIO, stream)
        header = read_header(file, archive.getinfo(f"{name}.npy").file_size)
        file.seek(header.offset)
        yield file, header


def read_header(file: BinaryIO, held: int) -> Header:
    """The header of an array in numpy's format, in a file that holds `held` bytes.

    Raises:
        ValueError, EOFError: it is none that can be read safely, or announces more than the file holds.
    """
    start = io.BytesIO(file.read(HEADER))
    version = np.lib.format.read_magic(start)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"array format {version}")
    with warnings.catch_warnings(action="ignore"):  # on headers that Python 2 wrote
        shape, fortran, dtype = readers[version](start)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if min(shape, default=0) < 0 or start.tell() + math.prod(shape) * dtype.itemsize > held:
        raise EOFError(f"it ends early: {dtype} {shape} is announced")
    return Header(shape, fortran, dtype, start.tell())


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged file ends in into a `PipelineError` that names it."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # what garbled headers and archives end in: ValueError, zlib.error, OverflowError ...
        raise PipelineError(f"{path} cannot be read ({_reason(error)}): save it again") from None


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with open_member(archive, name) as (file, (shape, fortran, dtype, _)):
        if (size := math.prod(shape) * dtype.itemsize) > MOST_BYTES:
            raise ValueError(f"{name} has shape {shape}, more than {MOST_BYTES >> 20} MiB")
        return np.ndarray(shape, dtype, bytearray(file.read(size)), order="F" if fortran else "C")


def _reason(error: Exception) -> str:
    """The first line: numpy's further ones advise to trust the file."""
    return printable((str(error).splitlines() or [type(error).__name__])[0], 200)
