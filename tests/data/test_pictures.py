"""Decoding: the right pixels at every depth, whatever the metadata, within bounds of time."""

import contextlib
import io
import itertools
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import pictures
from pipeline.data.pictures import MOST_SCANS, BadImage, decode, eight_bit, own_limits, read_picture, to_row

RNG = np.random.default_rng(0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, depth: int, colour: int, *extra: bytes) -> bytes:
    """A PNG of values (H, W, C) of so many bits, by the specification alone; `extra` are chunks before the pixels."""
    height, width, _ = values.shape
    rows = []
    for row in values.reshape(height, -1):
        if depth == 16:
            rows.append(b"\0" + row.astype(">u2").tobytes())
            continue
        bits = "".join(format(int(value), f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows.append(b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def decoded(content: bytes, folder: Path) -> np.ndarray:
    """The pixels (H, W, 3) as the pipeline reads them."""
    path = folder / "a.png"
    path.write_bytes(content)
    with own_limits():
        return np.asarray(eight_bit(read_picture(path, 100)).convert("RGB")).astype(int)


@pytest.mark.parametrize(("depth", "key"), [(1, 0), (1, 1), (2, 1), (2, 3), (4, 6), (8, 77), (16, 0x1234)])
def test_a_transparent_grey(tmp_path: Path, depth: int, key: int) -> None:
    values = RNG.integers(0, 2**depth, (8, 8, 1))
    values[2, 3] = values[5, 5] = key
    found = decoded(png(values, depth, 0, chunk(b"tRNS", struct.pack(">H", key))), tmp_path)
    expected = np.where(values == key, 255, np.rint(values * 255 / (2**depth - 1)))
    assert np.array_equal(found, np.broadcast_to(expected, (8, 8, 3)))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour(tmp_path: Path, depth: int) -> None:
    values = RNG.integers(0, 2**depth, (8, 8, 3))
    key = values[2, 3]
    values[4, 4] = key
    values[6, 6] = (key[0], key[1], key[2] ^ 1)  # all but the same: not transparent
    found = decoded(png(values, depth, 2, chunk(b"tRNS", struct.pack(">3H", *map(int, key)))), tmp_path)
    transparent = (values == key).all(axis=2, keepdims=True)
    assert transparent.sum() == 2
    assert np.array_equal(found, np.where(transparent, 255, np.rint(values * 255 / (2**depth - 1))))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_with_alpha(tmp_path: Path, depth: int) -> None:
    values, palette = RNG.integers(0, 2**depth, (8, 8, 1)), RNG.integers(0, 256, (2**depth, 3))
    alpha = RNG.integers(0, 256, 2**depth)
    extra = chunk(b"PLTE", bytes(palette.ravel().tolist())), chunk(b"tRNS", bytes(alpha.tolist()))
    found = decoded(png(values, depth, 3, *extra), tmp_path)
    colours, opaque = palette[values[..., 0]], alpha[values[..., 0]][..., None] / 255
    assert np.abs(found - (colours * opaque + 255 * (1 - opaque))).max() <= 0.51


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_sixteen_bits_are_rounded_for_grey_and_colour_alike(tmp_path: Path, colour: int, channels: int) -> None:
    values = RNG.integers(0, 65536, (16, 16, channels))
    found = decoded(png(values, 16, colour), tmp_path)
    shown = values[..., : 1 if colour in (0, 4) else 3].astype(float)
    if colour in (4, 6):
        opaque = values[..., -1:] / 65535
        shown = shown * opaque + 65535 * (1 - opaque)
    assert np.array_equal(found, np.broadcast_to(np.rint(shown / 257), (16, 16, 3)))


PIXELS = RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)
EXIF = b"Exif\0\0garbage that is no TIFF"
ODD_CHUNKS = {
    "exif": chunk(b"eXIf", b"MM\0*garbage"),
    "icc": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(1_500_000))),
    "text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_500_000))),
    "plain text": chunk(b"tEXt", b"Comment\0" + bytes(1_500_000)),
    "raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 12\nnot hexadecimal")),
    "unknown": chunk(b"grBg", bytes(range(256))),
}


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_a_png_with_odd_metadata_has_its_pixels(tmp_path: Path, name: str) -> None:
    assert np.array_equal(decoded(png(PIXELS, 8, 2, ODD_CHUNKS[name]), tmp_path), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("odd", [{"exif": EXIF}, {"icc_profile": bytes(1_500_000)}])
def test_other_formats_with_odd_metadata_have_their_pixels(tmp_path: Path, kind: str, odd: dict[str, bytes]) -> None:
    plain, strange = io.BytesIO(), io.BytesIO()
    Image.fromarray(PIXELS).save(plain, kind)
    Image.fromarray(PIXELS).save(strange, kind, **odd)
    assert np.array_equal(decoded(strange.getvalue(), tmp_path), decoded(plain.getvalue(), tmp_path))


def test_damaged_pixels_are_damaged_whatever_the_metadata(tmp_path: Path) -> None:
    content = png(PIXELS, 8, 2, ODD_CHUNKS["icc"])
    place = content.index(b"IDAT") + 100
    with pytest.raises(BadImage, match="cannot be decoded"):
        decoded(content[:place] + b"\0\0\0" + content[place + 3 :], tmp_path)


def progressive(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan is repeated until it has so many: each costs time and adds nothing."""
    whole = io.BytesIO()
    Image.new("L", (side, side), 90).save(whole, "JPEG", progressive=True)
    content = whole.getvalue()
    last = content.rindex(b"\xff\xda")
    held = content.count(b"\xff\xda")
    return content[:last] + content[last:-2] * (scans - held + 1) + content[-2:]


def test_an_ordinary_progressive_jpeg_is_read(tmp_path: Path) -> None:
    assert (decoded(progressive(20), tmp_path) == 90).all()
    assert (decoded(progressive(MOST_SCANS), tmp_path) == 90).all()


def test_thousands_of_scans_are_refused_at_once(tmp_path: Path) -> None:
    content, started = progressive(20_000, side=4096), time.perf_counter()
    with pytest.raises(BadImage, match=rf"has 20000 scans, more than {MOST_SCANS}") as caught:
        decoded(content, tmp_path)
    assert caught.value.kind == "too_large" and time.perf_counter() - started < 5


def test_a_thumbnail_in_the_metadata_is_no_scan(tmp_path: Path) -> None:
    picture, thumbnails = io.BytesIO(), b"\xff\xda" * 10_000
    Image.fromarray(PIXELS).save(picture, "JPEG", exif=b"Exif\0\0" + thumbnails)
    assert decoded(picture.getvalue(), tmp_path).shape == (16, 24, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_only_the_first_of_many_frames_is_decoded(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (400, 400), (level % 256, 0, 0)) for level in range(400)]
    path = tmp_path / "a.webp"
    frames[9].save(path, kind, save_all=True, append_images=frames[10:], duration=10)
    started = time.perf_counter()
    if kind == "GIF":
        with pytest.raises(BadImage, match="is not a PNG"):
            read_picture(path, 100)
    else:
        row = to_row(read_picture(path, 100), 3, 8)
        assert abs(int(row[0, 0, 0]) - 9) <= 3
    assert time.perf_counter() - started < 2


def test_garbage_within_a_jpeg_ends(tmp_path: Path) -> None:
    whole = progressive(12)
    for place, value in itertools.product(range(2, len(whole), 7), (0x00, 0xDA, 0xFF)):
        spoilt = bytearray(whole)
        spoilt[place] = value
        with contextlib.suppress(BadImage):
            decoded(bytes(spoilt), tmp_path)


TINY_PNG = png(np.full((8, 8, 1), 7, np.uint8), 8, 0)
HEAD = len(b"\x89PNG\r\n\x1a\n") + 25  # the signature and IHDR


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("P" if kind == "GIF" else "L", (8, 8), 7).save(buffer, kind)
    return buffer.getvalue()


def many_pieces(kind: str) -> bytes:
    """A picture of 8 x 8 with 4 MB of tiny pieces of metadata."""
    if kind == "profiles":
        profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20 - 100)))
        return TINY_PNG[:HEAD] + profile * (2**22 // len(profile)) + TINY_PNG[HEAD:]
    if kind == "segments":
        jpeg = saved("JPEG")
        return jpeg[:2] + b"\xff\xe5\0\2" * 2**20 + jpeg[2:]
    gif = saved("GIF")
    image = gif.index(b",")  # the first block after the colour table, or the extension before it
    return gif[:image] + b"\x21\xfe" + b"\1a" * 2**21 + b"\0" + gif[image:]


@pytest.mark.parametrize("kind", ["profiles", "segments", "comments"])
def test_millions_of_pieces_of_metadata_end_in_time(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / kind
    path.write_bytes(many_pieces(kind))
    monkeypatch.setattr(pictures, "SECONDS", 0.3)
    started = time.process_time()
    with own_limits(), pytest.raises(BadImage, match="takes too long to decode: save it again") as caught:
        decode(path, 100, ("PNG", "JPEG", "WEBP", "GIF"), "")
    assert time.process_time() - started < 1.5 and caught.value.kind == "broken"


def test_time_is_allowed_for_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RNG.integers(0, 256, (1500, 2000), dtype=np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "SECONDS", 0.02)
    assert read_picture(tmp_path / "a.png", 100).size == (2000, 1500)
    monkeypatch.setattr(pictures, "SECONDS_PER_MEGAPIXEL", 0.0)
    monkeypatch.setattr(pictures, "SECONDS", -1.0)
    with pytest.raises(BadImage, match="takes too long"):
        read_picture(tmp_path / "a.png", 100)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_sixteen_bits_of_a_large_picture_need_little_memory(mode: str, tmp_path: Path) -> None:
    """Of float64, the 3 megapixels would be 72 or 96 MB, several times over."""
    channels = len(mode)
    values = RNG.integers(0, 65536, (1000, 3000, channels), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(values, 16, 2 if mode == "RGB" else 6))
    tracemalloc.start()
    picture = read_picture(tmp_path / "a.png", 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    content = 1000 * 3000 * channels * 2
    assert peak < 7 * content and picture.size == (3000, 1000)
    if mode == "RGB":
        assert (np.asarray(picture)[::100] == np.rint(values[::100] / 257)).all()
