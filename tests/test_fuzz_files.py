"""Images, arrays and statistics mutated at random: read, refused or skipped in one sentence, and nothing half-written.

FUZZ_CASES=2000 python -m pytest tests/test_fuzz_files.py     the long run
"""

import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.data.prepared import prepare
from pipeline.evaluate.images import open_images
from pipeline.evaluate.statistics import is_statistics, read_statistics
from pipeline.params import DataParams
from tests.test_fuzz import assert_clear, fuzz

DIM = 4


def _encoded(kind: str, mode: str, **options: Any) -> bytes:
    image, buffer = Image.effect_noise((24, 18), 60).convert(mode), io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010F] = 6, "maker"
FRAMES: dict[str, Any] = {"save_all": True, "append_images": [Image.new("L", (24, 18), 9)] * 3}
WHOLE = [
    *(_encoded("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    _encoded("PNG", "P", transparency=0),
    _encoded("PNG", "RGB", transparency=(1, 2, 3)),
    _encoded("PNG", "RGB", icc_profile=b"\0" * 300, exif=EXIF, dpi=(72, 72)),
    _encoded("PNG", "RGB", **FRAMES),
    *(_encoded("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    _encoded("JPEG", "RGB", progressive=True, exif=EXIF, icc_profile=b"\0" * 300),
    *(_encoded("WEBP", "RGBA", lossless=lossless, exif=EXIF) for lossless in (True, False)),
    _encoded("WEBP", "RGB", **FRAMES),
    *(_encoded("GIF", "P", **options) for options in ({}, FRAMES)),
    *(_encoded("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(_encoded("TIFF", mode) for mode in ("L", "RGB", "CMYK")),
]
NUMBERS = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\1\0\0",
    b"\0\0\1\0",
    b"\xff" * 8,
]


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """One of `whole` with up to four changes, most of them in its first 200 bytes: flipped bits, huge numbers, cuts,
    parts of it twice or in another order, and bytes of another one."""
    content = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 4))):
        last = max(len(content) - 1, 0)
        at, to = draw(st.integers(0, min(last, 200))), draw(st.integers(0, last))
        kind = draw(st.sampled_from(["bit", "bit", "number", "number", "cut", "drop", "again", "swap", "other"]))
        if kind == "bit" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            content[at : at + 4] = draw(st.sampled_from(NUMBERS))
        elif kind == "cut":
            del content[to:]
        elif kind == "drop":
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == "again":
            content[to:to] = content[at : at + draw(st.integers(1, 200))] * draw(st.integers(1, 50))
        elif kind == "swap":
            content[at : at + 16], content[to : to + 16] = content[to : to + 16], content[at : at + 16]
        elif kind == "other":
            content[at : at + 30] = draw(st.sampled_from(whole))[at : at + 30]
    return bytes(content)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight whole pictures."""
    folder = tmp_path_factory.mktemp("files") / "images"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (20, 20), (index, 9, 9)).save(folder / f"{index}.png")
    return folder


def data_params(root: Path, bad_images: str) -> DataParams:
    return DataParams(dataset="folder", root=str(root), image_size=8, channels=3, test_fraction=0.5, limit=None,
                      bad_images=bad_images, max_megapixels=0.05, seed=0)  # fmt: skip


def refused(call: Any, *arguments: Any) -> bool:
    """Whether it raises a PipelineError, whose message is one clear line."""
    try:
        call(*arguments)
    except PipelineError as error:
        assert "\n" not in str(error)
        assert_clear(str(error))
        return True
    return False


@pytest.mark.slow
@fuzz(100)
@given(content=damaged(WHOLE), suffix=st.sampled_from([".png", ".jpg", ".webp", ".gif", ".bmp"]))
def test_a_damaged_image_is_read_refused_or_skipped(images: Path, content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory(dir=images.parent) as place:
        file, out, root = Path(place) / "images" / f"3b{suffix}", Path(place) / "out", Path(place) / "images"
        shutil.copytree(images, root)
        file.write_bytes(content)
        bad = refused(prepare, data_params(root, "refuse"), out)
        assert [path.name for path in Path(place).iterdir() if path != root] == ([] if bad else ["out"])
        description = prepare(data_params(root, "skip"), out)
        assert description["train"] + description["test"] == 8 + (suffix in (".png", ".jpg", ".webp") and not bad)
        source = open_images(root, 0.05, "skip", None)
        read = [image for batch in source.batches(4, 1) for image in batch]
        assert len(read) == source.stats.images == 9 - sum(source.stats.reasons.values())
        assert refused(lambda: [*open_images(root, 0.05, "refuse", None).batches(4, 1)]) == (len(read) == 8)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


STATISTICS = [
    npz(mu=np.zeros(DIM), sigma=np.eye(DIM)),
    npz(
        mu=np.zeros(DIM, np.float32), sigma=np.eye(DIM), factor=np.eye(DIM), count=np.array(50), protocol=np.array("{}")
    ),
    npz(mu=np.zeros(DIM), sigma=np.array([{}, 1], object)),
]
PIXELS = [npz(arr_0=np.zeros((4, 6, 6, 3), np.uint8)), npy(np.zeros((4, 6, 6), np.uint8)), npy(np.zeros((3, 6, 6)))]


@fuzz(250)
@given(content=damaged(STATISTICS))
def test_damaged_statistics_are_read_or_refused(images: Path, content: bytes) -> None:
    path = images.parent / "s.npz"
    path.write_bytes(content)
    refused(is_statistics, path)
    refused(read_statistics, path, DIM, {})
    path.unlink()


@fuzz(250)
@given(content=damaged(PIXELS), suffix=st.sampled_from([".npy", ".npz"]))
def test_damaged_arrays_are_read_or_refused(images: Path, content: bytes, suffix: str) -> None:
    path = images.parent / f"a{suffix}"
    path.write_bytes(content)
    refused(lambda: [*open_images(path, 1.0, "refuse", None).batches(4, 1)])
    path.unlink()


DTYPES = [
    "|u1",
    "<f8",
    "<f4",
    ">f8",
    "<c16",
    "|O",
    "<U3",
    "|S4",
    "<M8[s]",
    "|V8",
    "<f16",
    "<i8",
    "<u8",
    "|b1",
    "<f2",
    "x",
]
SIZES = st.sampled_from([0, 1, 2, 3, DIM, DIM * DIM, -1, 2**31, 2**62, 2**64, 10**30])
SHAPES = st.lists(SIZES, max_size=5).map(tuple) | st.just((DIM, DIM)) | st.just((DIM,)) | st.just((4, 6, 6, 3))
HEADERS = st.builds(
    "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}}}".format,
    st.sampled_from(DTYPES) | st.just([("a", "<f8"), ("b", "|O")]),
    st.sampled_from(["True", "False", "1", "None"]),
    SHAPES | st.just("(1L, 4L)") | st.just("(" * 300) | st.just("__import__('os')"),
)


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """An array in numpy's format with any header, and any values behind it."""
    header = draw(HEADERS).encode() + draw(st.sampled_from([b"\n", b"", b" " * 20_000 + b"\n"]))
    version = draw(st.sampled_from([(1, 2), (2, 4), (3, 4), (9, 2)]))
    length = draw(st.just(len(header)) | st.sampled_from([0, 65535, 2**32 - 1]))
    place = (length % 256 ** version[1]).to_bytes(version[1], "little")
    values = draw(st.binary(max_size=40) | st.just(np.eye(DIM).tobytes()) | st.just(b"\xff" * 8 * DIM * DIM))
    return b"\x93NUMPY" + bytes([version[0], 0]) + place + header + values


SOUND = [npy(np.zeros(DIM)), npy(np.eye(DIM))]
NAMES = ["mu.npy", "sigma.npy", "factor.npy", "count.npy", "protocol.npy", "arr_0.npy", "../../x.npy", "\x1b[2J.npy"]


@pytest.mark.slow
@fuzz(250)
@given(
    held=st.lists(
        st.tuples(st.sampled_from(NAMES), members() | st.sampled_from([npy(np.zeros(DIM)), npy(np.eye(DIM))]))
    ),
    packing=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
)
def test_any_header_of_an_array(images: Path, held: list[tuple[str, bytes]], packing: int) -> None:
    with tempfile.TemporaryDirectory(dir=images.parent) as place:
        path, single = Path(place) / "s.npz", Path(place) / "a.npy"
        with zipfile.ZipFile(path, "w", packing) as archive:
            for name, content in dict(held).items():
                archive.writestr(name, content)
        single.write_bytes(held[0][1] if held else b"")
        refused(read_statistics, path, DIM, {})
        for file in (path, single):
            refused(lambda file=file: [*open_images(file, 1.0, "refuse", None).batches(4, 1)])
        assert sorted(file.name for file in Path(place).iterdir()) == ["a.npy", "s.npz"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


@fuzz(100)
@given(protocol=JSON.map(json.dumps) | st.text(max_size=30) | st.sampled_from(["[" * 100_000, "9" * 9000]))
def test_any_protocol(images: Path, protocol: str) -> None:
    path = images.parent / "s.npz"
    np.savez(path, mu=np.zeros(DIM), sigma=np.eye(DIM), protocol=np.array(protocol))
    refused(read_statistics, path, DIM, {"extractor": "toy"})
    path.unlink()
