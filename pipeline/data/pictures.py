"""Picture files as pixels: decoded within bounds of memory and time, then as rows of uint8.

read_picture(path) -> PIL image -> to_row -> uint8 (C, S, S)
"""

import contextlib
import io
import os
import re
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import printable

FORMATS = ("PNG", "JPEG", "WEBP")
RESIZE_FILTER = Image.Resampling.LANCZOS  # antialiased, smaller or larger
MOST_SCANS = 100  # in a JPEG: a progressive one has about 10, and each costs as much time as all the pixels
SECONDS = 5.0  # of CPU time for decoding a file, and as many more per megapixel as here: an ordinary file needs 1%
SECONDS_PER_MEGAPIXEL = 0.2
ROWS = 256  # of a 16-bit picture that are converted at a time
PNG_SIGNATURE, JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
ORIENTATION = 0x0112  # EXIF's tag
ENTROPY_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the marker after a scan's data: not stuffing, restart, filling

Picture = Image.Image | np.ndarray


class BadImage(Exception):
    """An image file that cannot be used: `kind` is "broken" or "too_large"; the text names the file and says why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(printable(message, 1000))
        self.kind = kind


class _Clock:
    """The CPU time that this thread may spend on one file. Millions of tiny pieces of metadata would take hours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = time.thread_time() + SECONDS

    def allow(self, megapixels: float) -> None:
        self._end += megapixels * SECONDS_PER_MEGAPIXEL

    def check(self) -> None:
        """Raises BadImage once the time is up."""
        if time.thread_time() > self._end:
            raise BadImage("broken", f"{self._path} takes too long to decode: save it again in an image editor")


class _Content(io.BytesIO):
    """A file in memory, of which nothing can be read any more once the time is up."""

    def __init__(self, content: bytes, clock: _Clock) -> None:
        super().__init__(content)
        self._clock = clock

    def read(self, size: int | None = -1, /) -> bytes:
        self._clock.check()
        return super().read(size)


@contextlib.contextmanager
def own_limits() -> Iterator[None]:
    """Switch off Pillow's size limit and warnings: `max_megapixels` replaces the limit, and we report faults.

    Both are global: threads that decode do so within one such block of the thread that started them.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@own_limits()
def read_picture(path: Path, max_megapixels: float) -> Image.Image:
    """Decode a PNG, JPEG or WebP file (whatever its name says; the first frame), upright by its EXIF.

    Raises:
        BadImage: it is not such an image, is damaged, or its header announces more than `max_megapixels`.
    """
    return decode(path, max_megapixels, FORMATS, "data.max_megapixels")


def decode(path: Path, max_megapixels: float, formats: tuple[str, ...], limit: str) -> Image.Image:
    """`read_picture` for any of Pillow's `formats`, to be called within `own_limits`; `limit` is what users call it.

    Its cost is bounded by `max_megapixels`: bytes read, pixels held, and CPU time. Unreadable metadata does not make an
    image a broken one: its orientation is then ignored.
    """
    if not os.path.isfile(path):  # a pipe would block forever
        raise BadImage("broken", f"{path} is not a file, or a link to nothing")
    try:
        if fault := size_fault(path.stat().st_size, max_megapixels):
            raise BadImage("too_large", f"{path} holds {fault}; see {limit}")
        content = path.read_bytes()
    except BadImage:
        raise
    except OSError as error:
        raise BadImage("broken", f"{path} cannot be read ({reason_of(error)})") from error
    return decode_bytes(content, path, max_megapixels, formats, limit)


def size_fault(held: int, max_megapixels: float) -> str | None:
    """Why a file of so many bytes cannot be an image of so few megapixels; None if it can."""
    if held <= most_bytes(max_megapixels):
        return None
    return f"{held / 1e6:.0f} MB, more than any image of {max_megapixels:g} megapixels"


def decode_bytes(
    content: bytes, path: Path, max_megapixels: float, formats: tuple[str, ...], limit: str
) -> Image.Image:
    """`decode` for the content of a file, which errors call `path`."""
    clock = _Clock(path)
    try:
        if (count := _scans(content, clock)) > MOST_SCANS:
            raise BadImage("too_large", f"{path} has {count} scans, more than {MOST_SCANS}: save it again")
        try:
            return _decoded(content, path, max_megapixels, formats, limit, clock)
        except (BadImage, UnidentifiedImageError):
            raise
        except Exception:  # possibly caused by metadata: without it, only errors in the pixels remain
            return _decoded(_without_metadata(content, clock), path, max_megapixels, formats, limit, clock)
    except BadImage:
        raise
    except UnidentifiedImageError:
        *first, last = ("WebP" if name == "WEBP" else name for name in formats)
        reason = f"is not a {', '.join(first)} or {last} image" if content else "is empty (0 bytes)"
        raise BadImage("broken", f"{path} {reason}") from None
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, ValueError, struct.error ...
        raise BadImage("broken", f"{path} cannot be decoded ({reason_of(error)})") from error


def _decoded(
    content: bytes, path: Path, max_megapixels: float, formats: tuple[str, ...], limit: str, clock: _Clock
) -> Image.Image:
    with Image.open(_Content(content, clock), formats=formats) as image:
        if image.width * image.height > max_megapixels * 1e6:
            size = f"{image.width} x {image.height} pixels"
            raise BadImage("too_large", f"{path} has {size}, more than {limit}: {max_megapixels:g}")
        clock.allow(image.width * image.height / 1e6)
        image.load()
        if not image.width * image.height:
            raise ValueError("it has no pixels")
        picture = _png_depths(image, content, clock) if image.format == "PNG" else image
        with contextlib.suppress(Exception):  # an EXIF block that cannot be parsed
            picture.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
            ImageOps.exif_transpose(picture, in_place=True)
        picture.filename = str(path)  # type: ignore[attr-defined]  # for what `converted` finds
        return picture


def _png_depths(image: Image.Image, content: bytes, clock: _Clock) -> Image.Image:
    """Correct what Pillow gets wrong: the transparent value of 2 and 4 bits is not scaled; 16-bit colour loses 8 bits.

    PNG specification, sections 11.2.1 (IHDR) and 11.3.1 (tRNS).
    """
    depth, colour = content[24], content[25]
    key = image.info.get("transparency")
    if depth < 8 and colour == 0 and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**depth - 1)
    if depth < 16 or colour == 0:
        return image
    high, low = _sixteen_bits(_without_metadata(content, clock), colour)
    eight = np.empty((*high.shape[:2], 1 if colour == 4 else 3), np.uint8)
    for start in range(0, len(eight), ROWS):  # whole pictures of float64 would need eight times the memory
        rows = slice(start, start + ROWS)
        values = high[rows] * 256.0 + low[rows]
        channels = values[..., : eight.shape[2]]
        if colour in (4, 6):
            opaque = values[..., -1:] / 65535
            channels = channels * opaque + 65535 * (1 - opaque)
        elif isinstance(key, tuple):
            channels[(channels == key).all(axis=-1)] = 65535
        eight[rows] = np.rint(channels / 257)
    return Image.fromarray(eight[..., 0] if colour == 4 else eight)


def _sixteen_bits(content: bytes, colour: int) -> tuple[np.ndarray, np.ndarray]:
    """The high and the low bytes of a PNG with 16 bits and colour type 2, 4 or 6: uint8 (H, W, C).

    Pillow reduces these to 8 bits. Grey with alpha has the bytes of an 8-bit RGBA image, so a changed header is enough.
    In the other types Pillow takes the high bytes if it reads big-endian numbers, as PNG has them, and the low bytes if
    it reads little-endian ones.
    """
    if colour != 4:
        return _bytes_of(content, "B"), _bytes_of(content, "L")
    start = len(PNG_SIGNATURE)
    header = content[start + 4 : start + 16] + bytes([8, 6]) + content[start + 18 : start + 21]
    checksum = zlib.crc32(header).to_bytes(4, "big")
    with Image.open(io.BytesIO(content[: start + 4] + header + checksum + content[start + 25 :])) as image:
        halves = np.asarray(image)
    return halves[..., ::2], halves[..., 1::2]


def _bytes_of(content: bytes, order: str) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        (tile,) = image.tile
        image.tile = [tile._replace(args=f"{image.mode};16{order}")]
        return np.asarray(image)


def _scans(content: bytes, clock: _Clock) -> int:
    """How many scans a JPEG has, 0 for other files. (ITU-T T.81, annex B: markers, segments, entropy-coded data.)"""
    return sum(marker == 0xDA for marker, _, _ in _jpeg_segments(content, clock))


def _jpeg_segments(content: bytes, clock: _Clock) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG; that of a scan includes its data. It ends with the file."""
    place = 2 if content.startswith(JPEG_SIGNATURE) else len(content)
    while place + 4 <= len(content) and content[place] == 0xFF:
        clock.check()
        marker, start = content[place + 1], place
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker == 0xD9:  # end of image
            return
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD8  # markers without a segment
        place += 2 if alone else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xDA:
            end = ENTROPY_END.search(content, place)
            place = end.start() if end else len(content)
        yield marker, start, place


def _without_metadata(content: bytes, clock: _Clock) -> bytes:
    """A PNG or JPEG with only the parts that its pixels need; other files unchanged."""
    if content.startswith(JPEG_SIGNATURE):
        kept, last = [content[:2]], 2
        for marker, start, end in _jpeg_segments(content, clock):
            last = end
            if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):  # application data (not JFIF, Adobe), comments
                kept.append(content[start:end])
        return b"".join([*kept, content[last:]])
    if not content.startswith(PNG_SIGNATURE):
        return content
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while place + 8 <= len(content):
        clock.check()
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def converted(image: Image.Image) -> Image.Image:
    """`eight_bit`, or BadImage: decoders accept some files that cannot be converted."""
    try:
        return eight_bit(image)
    except Exception as error:
        name = getattr(image, "filename", "") or "an image"
        raise BadImage("broken", f"{name} cannot be converted ({reason_of(error)})") from error


def most_bytes(max_megapixels: float) -> float:
    """The most bytes of a file, which is read whole: 16 bits for each of four channels, and 16 MB of metadata."""
    return max_megapixels * 8e6 + 16e6


@own_limits()
def to_row(picture: Picture, channels: int, size: int) -> np.ndarray:
    """Crop a picture to its central square and resize it: uint8 (channels, size, size). May raise `BadImage`."""
    image = converted(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))
    image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), RESIZE_FILTER)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)


def eight_bit(image: Image.Image) -> Image.Image:
    """The same picture in mode L or RGB; transparent pixels become white."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow itself would clip at 255
        values = np.asarray(image)  # 0..65535; x / 257 maps 65535 to 255
        grey = np.rint(values.clip(0, 65535) / np.float32(257)).astype(np.uint8)
        if isinstance(key := image.info.get("transparency"), int):
            grey[values == key] = 255
        return Image.fromarray(grey)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def reason_of(error: Exception) -> str:
    """The last line of an error's text: torchvision's first lines list what it tried."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
