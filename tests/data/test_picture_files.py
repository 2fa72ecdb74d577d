"""One picture file: its modes, orientation, crop and size; and files that are broken."""

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.pictures import BadImage, read_picture, to_row
from tests.data.samples import all_images, prepared, refused, save

pytestmark = pytest.mark.filterwarnings("error")  # Pillow's and numpy's warnings must never reach a user


def png(width: int, height: int, bits: int, color: int, raw: bytes, extra: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow cannot write; `color` 0 is grey."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", extra) if extra else b"") + end


def row_of(path: Path, channels: int = 3, size: int = 8) -> np.ndarray:
    return to_row(read_picture(path, 100), channels, size)


def test_grey_and_rgb_become_each_other(tmp_path: Path) -> None:
    grey, color = save(tmp_path / "grey.png", 77, mode="L"), save(tmp_path / "color.png", 100)
    assert np.array_equal(row_of(grey), np.full((3, 8, 8), 77, np.uint8))
    # Pillow's luma: 0.299 R + 0.587 G + 0.114 B of (100, 101, 102) = 100.815
    assert np.array_equal(row_of(color, channels=1), np.full((1, 8, 8), 101, np.uint8))
    assert row_of(color)[:, 3, 3].tolist() == [100, 101, 102]


def test_arrays_are_pictures_too() -> None:
    array = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert np.array_equal(to_row(array, 3, 8), array.transpose(2, 0, 1))
    assert np.array_equal(to_row(array[..., 0], 1, 8), array[None, :, :, 0])


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    picture.paste((10, 20, 30, 0), (0, 0, 8, 4))  # the upper half is transparent
    picture.putpixel((0, 7), (0, 0, 0, 128))  # half: 255 * 127 / 255 = 127
    picture.save(tmp_path / "a.png")
    row = row_of(tmp_path / "a.png")
    assert row[:, 0, 0].tolist() == [255, 255, 255]
    assert row[:, 4, 4].tolist() == [10, 20, 30]
    assert row[:, 7, 0].tolist() == [127, 127, 127]


def test_grey_with_alpha(tmp_path: Path) -> None:
    picture = Image.new("LA", (8, 8), (40, 255))
    picture.putpixel((0, 0), (40, 0))
    picture.save(tmp_path / "a.png")
    row = row_of(tmp_path / "a.png", channels=1)
    assert row[0, 0, 0] == 255 and row[0, 0, 1] == 40


@pytest.mark.parametrize("transparency, corner", [(None, [1, 2, 3]), (0, [255, 255, 255])])
def test_palette(tmp_path: Path, transparency: int | None, corner: list[int]) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([1, 2, 3, 200, 100, 50])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    assert read_picture(tmp_path / "a.png", 100).mode == "P"
    row = row_of(tmp_path / "a.png")
    assert row[:, 0, 0].tolist() == corner
    assert row[:, 5, 5].tolist() == [200, 100, 50]


def test_black_and_white(tmp_path: Path) -> None:
    picture = Image.new("1", (8, 8), 0)
    picture.putpixel((0, 0), 1)
    picture.save(tmp_path / "a.png")
    assert row_of(tmp_path / "a.png")[0, 0, :2].tolist() == [255, 0]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = row_of(tmp_path / "a.jpg")[:, 4, 4].tolist()
    assert red >= 250 and green <= 5 and blue <= 5


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.zeros((8, 8), np.uint16)
    values[0] = [0, 128, 129, 257, 32768, 32896, 65406, 65535]  # by 257: 0, 0.498, 0.502, 1, 127.5+, 128, 254.498, 255
    Image.fromarray(values).save(tmp_path / "a.png")
    assert row_of(tmp_path / "a.png", channels=1)[0, 0].tolist() == [0, 0, 1, 1, 128, 128, 254, 255]
    assert row_of(tmp_path / "a.png")[2, 0].tolist() == [0, 0, 1, 1, 128, 128, 254, 255]


def test_16_bit_grey_with_a_transparent_value(tmp_path: Path) -> None:
    raw = b"".join(b"\0" + struct.pack(">4H", 1000, 1001, 0, 65535) for _ in range(4))
    (tmp_path / "a.png").write_bytes(png(4, 4, 16, 0, raw, struct.pack(">H", 1000)))
    assert row_of(tmp_path / "a.png", channels=1, size=4)[0, 0].tolist() == [255, 4, 0, 255]


def test_16_bit_old_mode() -> None:
    picture = Image.fromarray(np.array([[0, 257], [25700, 65535]], np.int32))
    assert picture.mode == "I"
    assert to_row(picture, 1, 2)[0].tolist() == [[0, 1], [100, 255]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_honoured(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("L", (16, 8), 0)
    picture.paste(255, (0, 0, 8, 8))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: what is left comes to the top
    picture.convert("RGB").save(tmp_path / f"a.{suffix}", exif=exif)
    upright = read_picture(tmp_path / f"a.{suffix}", 100)
    assert upright.size == (8, 16)
    top, bottom = np.asarray(upright)[2, :, 0], np.asarray(upright)[13, :, 0]
    assert top.min() > 240 and bottom.max() < 15


@pytest.mark.parametrize("transpose", [False, True])
def test_the_centre_is_cropped(transpose: bool) -> None:
    array = np.zeros((8, 13), np.uint8)
    array[:] = np.arange(13)  # columns 2..9: (13 - 8) // 2 = 2
    row = to_row(array.T.copy() if transpose else array, 1, 8)[0]
    assert np.array_equal(row.T if transpose else row, np.tile(np.arange(2, 10, dtype=np.uint8), (8, 1)))


def test_resizing_is_antialiased_and_keeps_the_mean() -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    row = to_row(checks, 1, 8)
    assert row.min() >= 120 and row.max() <= 135  # picking pixels would give 0 or 255
    assert np.array_equal(to_row(np.full((5, 5), 9, np.uint8), 1, 8), np.full((1, 8, 8), 9, np.uint8))


def hostile(path: Path) -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8).astype(np.uint8))
    whole = {}
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        whole[kind] = buffer.getvalue()
    return {
        "truncated.png": whole["PNG"][: len(whole["PNG"]) // 2],
        "truncated.jpg": whole["JPEG"][: len(whole["JPEG"]) // 2],
        "truncated.webp": whole["WEBP"][: len(whole["WEBP"]) // 2],
        "flipped.png": whole["PNG"][:200] + b"\0" * 100 + whole["PNG"][300:],
        "empty.png": b"",
        "text.png": b"this is not an image\n",
        "gif.png": whole["GIF"],
        "head.png": whole["PNG"][:20],
        "colourless.png": png(8, 8, 8, 3, bytes(8 * 9)),  # a palette image without its palette
    }


HOSTILE = {
    "truncated.png": "cannot be decoded",
    "truncated.jpg": "cannot be decoded",
    "truncated.webp": "cannot be decoded",
    "flipped.png": "cannot be decoded",
    "empty.png": "is empty (0 bytes)",
    "text.png": "is not a PNG, JPEG or WebP image",
    "gif.png": "is not a PNG, JPEG or WebP image",
    "head.png": "cannot be decoded",
    "colourless.png": "cannot be converted",
}


@pytest.mark.parametrize("name, reason", HOSTILE.items())
def test_a_broken_file_is_refused_by_name(tmp_path: Path, name: str, reason: str) -> None:
    folder = tmp_path / "images"
    for i in range(4):
        save(folder / f"good{i}.png", i)
    (folder / name).write_bytes(hostile(tmp_path)[name])
    sentence = refused(folder)
    assert str(folder / name) in sentence and reason in sentence and "data.bad_images: skip" in sentence


def test_broken_files_are_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    for i in range(8):
        save(folder / f"good{i}.png", i)
    for name, content in hostile(tmp_path).items():
        (folder / name).write_bytes(content)
    save(folder / "large.png", 0, (2000, 600))
    description, arrays = prepared(folder, bad_images="skip", max_megapixels=1.0)
    assert description["skipped"] == {"broken": 9, "too_large": 1}
    assert sorted(all_images(arrays)[:, 0, 0, 0].tolist()) == list(range(8))
    assert description["train"] + description["test"] == 8 == len(arrays["train_labels"]) + len(arrays["test_labels"])
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warned) == 1 and "skipped 10 bad images" in warned[0] and warned[0].count(str(folder)) == 3


def test_too_large_is_seen_in_the_header(tmp_path: Path) -> None:
    path = save(tmp_path / "images" / "huge.png", 0, (20000, 20000), "1")
    save(tmp_path / "images" / "good.png")
    tracemalloc.start()
    sentence = refused(tmp_path / "images")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in sentence and "20000 x 20000" in sentence and "data.max_megapixels: 100" in sentence
    assert peak < 20e6
    with pytest.raises(BadImage) as caught:
        read_picture(path, 399.9)
    assert caught.value.kind == "too_large"


def test_above_pillows_own_limit_but_below_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above its limit and refuses above twice that, in open and in crop: neither may happen."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for width in (36, 70):  # squares of 1296 and of 4900 pixels are cropped
        path = save(tmp_path / f"{width}.png", 50, (width + 6, width))
        assert row_of(path)[:, 0, 0].tolist() == [50, 51, 52]
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(BadImage):
        read_picture(path, 0.004)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("dangling.png", "pipe.png"):
        with pytest.raises(BadImage, match="not a file"):
            read_picture(tmp_path / name, 100)
