"""Pictures of uint8 images: grids, PNGs, animations. It needs no torch, for pages are made without it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.files import atomic_path

COLUMNS = 10  # of every grid
GAP = 2  # white pixels around every image of a grid
LEAST_SIDE = 32  # pixels: smaller images are enlarged
LONGEST_NAME = 16  # letters of a class shown beside its row


def grid(images: ArrayLike, columns: int) -> Image.Image:
    """Images uint8 (N, C, S, S) side by side on white, row by row, enlarged without smoothing to at least 32 pixels.

    The picture is RGB, for C = 1 as well as for C = 3.
    """
    images = np.asarray(images)
    count, channels, height, width = images.shape
    scale, columns = max(1, -(-LEAST_SIDE // width)), min(columns, count)
    missing = -count % columns
    cells = np.broadcast_to(images, (count, 3, height, width)) if channels == 1 else images
    cells = cells.repeat(scale, axis=2).repeat(scale, axis=3)
    cells = np.pad(cells, ((0, missing), (0, 0), (GAP, 0), (GAP, 0)), constant_values=255)
    rows = cells.reshape(-1, columns, *cells.shape[1:]).transpose(2, 0, 3, 1, 4)  # (3, rows, S, columns, S)
    sheet = rows.reshape(3, rows.shape[1] * rows.shape[2], columns * rows.shape[4])
    return picture(np.pad(sheet, ((0, 0), (0, GAP), (0, GAP)), constant_values=255))


def name_rows(sheet: Image.Image, names: Sequence[str]) -> Image.Image:
    """A grid with a name to the left of each row, black on white; names are cut to 16 letters."""
    height = (sheet.height - GAP) // len(names)
    font = ImageFont.load_default(size=min(14, height // 2))
    shown = [name[:LONGEST_NAME] for name in names]
    margin = GAP + max(round(font.getlength(name)) for name in shown) + 2 * GAP
    wider = Image.new("RGB", (margin + sheet.width, sheet.height), "white")
    wider.paste(sheet, (margin, 0))
    draw = ImageDraw.Draw(wider)
    for row, name in enumerate(shown):
        draw.text((margin - 2 * GAP, GAP + row * height + height // 2), name, "black", font, anchor="rm")
    return wider


def picture(image: ArrayLike) -> Image.Image:
    """One image uint8 (C, S, S) for PIL; C is 1 or 3."""
    array = np.asarray(image)
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))  # (C, S, S) -> (S, S, C)


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def save_animation(frames: Sequence[Image.Image], path: Path, seconds: float = 0.4) -> None:
    """Write an endless GIF atomically: `seconds` a frame, the last one four times as long."""
    durations = [round(seconds * 1000)] * (len(frames) - 1) + [round(seconds * 4000)]
    with atomic_path(path) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
