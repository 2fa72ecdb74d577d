"""Picture files as pixels: decoded within bounds of memory and time, then as rows of uint8.

read_picture(path) -> PIL image -> to_row -> uint8 (C, S, S)
"""

import contextlib
import io
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import printable

FORMATS = ("PNG", "JPEG", "WEBP")
RESIZE_FILTER = Image.Resampling.LANCZOS  # antialiased, smaller or larger
MOST_SCANS = 100  # of a JPEG: a progressive one has about 10, and each costs as much time as all the pixels
PNG_SIGNATURE, JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
ORIENTATION = 0x0112  # EXIF's tag
ENTROPY_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the marker after a scan's data: not stuffing, restart, filling

Picture = Image.Image | np.ndarray


class BadImage(Exception):
    """An image file that cannot be used: `kind` is "broken" or "too_large"; the text names the file and says why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(printable(message, 1000))
        self.kind = kind


@contextlib.contextmanager
def own_limits() -> Iterator[None]:
    """Switch Pillow's size limit and its warnings off: `max_megapixels` takes their place, and we report faults.

    Both are global: threads that decode do so within one block of the thread that started them.
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

    What it costs is bounded by `max_megapixels`: bytes read, pixels held, and time. Metadata that cannot be read does
    not make an image a broken one; its orientation is then unknown.
    """
    if not os.path.isfile(path):  # a pipe would block for ever
        raise BadImage("broken", f"{path} is not a file, or a link to nothing")
    try:
        if (held := path.stat().st_size) > most_bytes(max_megapixels):
            size = f"{held / 1e6:.0f} MB, more than any image of {max_megapixels:g} megapixels"
            raise BadImage("too_large", f"{path} holds {size}; see {limit}")
        content = path.read_bytes()
        if (count := _scans(content)) > MOST_SCANS:
            raise BadImage("too_large", f"{path} has {count} scans, more than {MOST_SCANS}: save it anew")
        try:
            return _decoded(content, path, max_megapixels, formats, limit)
        except (BadImage, UnidentifiedImageError):
            raise
        except Exception:  # perhaps of metadata: without any, only faults of the pixels are left
            return _decoded(_without_metadata(content), path, max_megapixels, formats, limit)
    except BadImage:
        raise
    except UnidentifiedImageError:
        *first, last = ("WebP" if name == "WEBP" else name for name in formats)
        reason = f"is not a {', '.join(first)} or {last} image" if path.stat().st_size else "is empty (0 bytes)"
        raise BadImage("broken", f"{path} {reason}") from None
    except Exception as error:  # decoders raise whatever they meet: OSError, SyntaxError, ValueError, struct.error ...
        raise BadImage("broken", f"{path} cannot be decoded ({reason_of(error)})") from error


def _decoded(content: bytes, path: Path, max_megapixels: float, formats: tuple[str, ...], limit: str) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=formats) as image:
        if image.width * image.height > max_megapixels * 1e6:
            size = f"{image.width} x {image.height} pixels"
            raise BadImage("too_large", f"{path} has {size}, more than {limit}: {max_megapixels:g}")
        image.load()
        if not image.width * image.height:
            raise ValueError("it has no pixels")
        picture = _png_depths(image, content) if image.format == "PNG" else image
        with contextlib.suppress(Exception):  # of an EXIF block that cannot be parsed
            picture.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
            ImageOps.exif_transpose(picture, in_place=True)
        return picture


def _png_depths(image: Image.Image, content: bytes) -> Image.Image:
    """What Pillow gets wrong: the transparent value of 2 and 4 bits stays unscaled; 16 bits of colour lose 8.

    PNG specification, sections 11.2.1 (IHDR) and 11.3.1 (tRNS).
    """
    depth, colour = content[24], content[25]
    if depth < 8 and colour == 0 and isinstance(key := image.info.get("transparency"), int):
        image.info["transparency"] = key * 255 // (2**depth - 1)
    if depth < 16 or colour == 0:
        return image
    values = _sixteen_bits(_without_metadata(content), colour)  # (C, H, W)
    channels = values[: 1 if colour == 4 else 3]
    if colour in (4, 6):
        opaque = values[-1] / 65535
        channels = channels * opaque + 65535 * (1 - opaque)
    elif isinstance(keys := image.info.get("transparency"), tuple):
        channels[:, (channels == np.reshape(keys, (3, 1, 1))).all(axis=0)] = 65535
    eight = np.rint(channels / 257).astype(np.uint8)
    return Image.fromarray(eight[0] if len(eight) == 1 else eight.transpose(1, 2, 0).copy())


def _sixteen_bits(content: bytes, colour: int) -> np.ndarray:
    """The values 0..65535 of a PNG with 16 bits and colour type 2, 4 or 6: float64 (C, H, W).

    Pillow gives 8 bits. Grey and alpha have the bytes of an 8-bit RGBA image, so that a changed header is enough. Of
    colours it gives the higher bytes, or the lower ones where it takes their order to be the other one.
    """
    if colour == 4:
        start = len(PNG_SIGNATURE)
        header = content[start + 4 : start + 16] + bytes([8, 6]) + content[start + 18 : start + 21]
        changed = header + zlib.crc32(header).to_bytes(4, "big")
        with Image.open(io.BytesIO(content[: start + 4] + changed + content[start + 25 :])) as image:
            halves = np.asarray(image, np.float64)
        high, low = halves[..., ::2], halves[..., 1::2]
    else:
        high, low = (_bytes_of(content, order) for order in ("B", "L"))
    return (high * 256 + low).transpose(2, 0, 1)


def _bytes_of(content: bytes, order: str) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        (tile,) = image.tile
        image.tile = [tile._replace(args=f"{image.mode};16{order}")]
        return np.asarray(image, np.float64)


def _scans(content: bytes) -> int:
    """How many scans a JPEG has, 0 for other files. (ITU-T T.81, annex B: markers, segments, entropy-coded data.)"""
    return sum(marker == 0xDA for marker, _, _ in _jpeg_segments(content))


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG; that of a scan holds its data. It ends where the file does."""
    place = 2 if content.startswith(JPEG_SIGNATURE) else len(content)
    while place + 4 <= len(content) and content[place] == 0xFF:
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


def _without_metadata(content: bytes) -> bytes:
    """A PNG or JPEG with only what its pixels need; other files as they are."""
    if content.startswith(JPEG_SIGNATURE):
        kept, last = [content[:2]], 2
        for marker, start, end in _jpeg_segments(content):
            last = end
            if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):  # application data (not JFIF, Adobe), comments
                kept.append(content[start:end])
        return b"".join([*kept, content[last:]])
    if not content.startswith(PNG_SIGNATURE):
        return content
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while place + 8 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def converted(image: Image.Image) -> Image.Image:
    """`eight_bit` of a picture from a file, or BadImage: the decoders take some that cannot be converted."""
    try:
        return eight_bit(image)
    except Exception as error:
        name = getattr(image, "filename", "") or "an image"
        raise BadImage("broken", f"{name} cannot be converted ({reason_of(error)})") from error


def most_bytes(max_megapixels: float) -> float:
    """No image file is larger: 16 bits for each of four channels, and 16 MB beside the pixels; files are read whole."""
    return max_megapixels * 8e6 + 16e6


@own_limits()
def to_row(picture: Picture, channels: int, size: int) -> np.ndarray:
    """Crop a picture to its central square and resize that: uint8 (channels, size, size); may raise `BadImage`."""
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
    """The same picture in mode L or RGB; what is transparent lies on white."""
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
    """The last line of an error's text: torchvision's first ones list what it tried."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
