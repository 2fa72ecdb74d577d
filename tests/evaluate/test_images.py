"""Images from folders and arrays: layouts, conversions, order, what is skipped or refused, and what is said of it."""

import hashlib
import os
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.evaluate import images as images_module
from pipeline.evaluate.images import ImageSource, open_images

RNG = np.random.default_rng(0)


def picture(path: Path, value: int = 0, size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: Any) -> Path:
    """A picture of one colour, of `size` (width, height), but for its first pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, (value,) * 3 if mode == "RGB" else value)
    image.putpixel((0, 0), (255 - value,) * 3 if mode == "RGB" else 255 - value)
    image.save(path, **options)
    return path


def source(path: Path, **changes: Any) -> ImageSource:
    return open_images(path, **{"max_megapixels": 1.0, "bad_images": "refuse", "value_range": None, **changes})


def read(found: ImageSource, size: int = 64, workers: int = 2) -> list[np.ndarray]:
    batches = list(found.batches(size, workers))
    assert all(len(batch) == size for batch in batches[:-1]) and all(0 < len(batch) <= size for batch in batches)
    images = [image for batch in batches for image in batch]
    for image in images:
        assert image.dtype == np.uint8 and image.ndim == 3 and len(image) in (1, 3)
        assert image.flags.writeable and image.flags.c_contiguous  # torch.from_numpy takes it as it is
    return images


def refused(path: Path, **changes: Any) -> str:
    """The sentence with which a source is refused, at once or when it is read."""
    with pytest.raises(PipelineError) as caught:
        read(source(path, **changes))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


# --- folders ---


def test_a_folder_is_walked_and_sorted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["b/deep/9.PNG", "a.JPG", "c.webp", "b/1.gif", "d.jpeg", "z.bmp", "B.Png"]
    for value, name in enumerate(names):
        picture(tmp_path / name, 10 * value, (16, 16))
    for junk in ("._a.png", ".hidden.jpg", "notes.txt", "Thumbs.db", "b/.DS_Store"):
        (tmp_path / junk).write_bytes(b"junk")
    (tmp_path / ".folder").mkdir()
    picture(tmp_path / ".folder" / "x.png")
    found = source(tmp_path)
    assert found.count == 7
    middles = [int(image[0, 12, 12]) for image in read(found)]
    expected = [60, 10, 30, 0, 20, 40, 50]  # B.Png a.JPG b/1.gif b/deep/9.PNG c.webp d.jpeg z.bmp
    assert max(abs(got - want) for got, want in zip(middles, expected, strict=True)) <= 2  # JPEG and WebP lose a little
    assert found.record()["skipped"] == {"hidden_files": 3, "other_files": 2}
    assert "3 hidden files, 2 other files" in capsys.readouterr().err


def test_images_beside_subfolders_are_both_counted(tmp_path: Path) -> None:
    for name in ("top.png", "one/a.png", "two/b.png", "two/c.png"):
        picture(tmp_path / name)
    found = source(tmp_path)
    assert found.count == len(read(found)) == 4
    assert found.labels is None and found.classes == ()


def test_class_folders_are_labels(tmp_path: Path) -> None:
    for name in ("dog/a.png", "ant/a.png", "ant/b.png", "cat/deep/a.png"):
        picture(tmp_path / name)
    found = source(tmp_path)
    read(found)
    assert found.classes == ("ant", "cat", "dog")
    assert found.labels is not None and found.labels.dtype == np.int64 and found.labels.tolist() == [0, 0, 1, 2]
    assert found.record()["classes"] == ["ant", "cat", "dog"]


def test_one_subfolder_is_no_class(tmp_path: Path) -> None:
    for name in ("all/a.png", "all/b.png"):
        picture(tmp_path / name)
    assert source(tmp_path).labels is None and source(tmp_path).classes == ()


def test_sizes_are_width_by_height_and_the_rare_ones_together(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.png", i, (8, 6))
    for width in range(10, 32):  # 22 more sizes: 19 are named, 3 are not
        picture(tmp_path / f"w{width}.png", 1, (width, 5))
    found = source(tmp_path)
    read(found)
    sizes = found.record()["sizes"]
    assert sizes["8x6"] == 3 and sizes["other"] == 3 and len(sizes) == 21 and sum(sizes.values()) == 25
    assert any("23 sizes" in sentence for sentence in found.warnings)


@pytest.mark.parametrize("size", [1, 4, 7, 64])
@pytest.mark.parametrize("workers", [1, 5])
def test_order_depends_on_neither_batches_nor_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, workers: int
) -> None:
    for i in range(12):
        picture(tmp_path / f"{i:02}.png", i)
    decode = images_module.decode

    def uneven(path: Path, *rest: Any) -> Image.Image:
        time.sleep(0.004 if int(path.stem) % 3 == 0 else 0)  # the first ones take the longest
        return decode(path, *rest)

    monkeypatch.setattr(images_module, "decode", uneven)
    assert [int(image[0, 3, 4]) for image in read(source(tmp_path), size, workers)] == list(range(12))


def test_only_a_batch_is_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        picture(tmp_path / f"{i:02}.png", i)
    started, lock, decode = [0], threading.Lock(), images_module.decode

    def counting(*arguments: Any) -> Image.Image:
        with lock:
            started[0] += 1
        return decode(*arguments)

    monkeypatch.setattr(images_module, "decode", counting)
    batches: Any = source(tmp_path).batches(5, 2)
    for taken in range(1, 5):
        next(batches)
        time.sleep(0.02)
        assert 5 * taken <= started[0] <= 5 * taken + 5
    batches.close()
    time.sleep(0.02)
    assert started[0] <= 25 and Image.MAX_IMAGE_PIXELS is not None  # nothing goes on, Pillow's limit is back


def test_threads_share_one_limit_and_what_waits_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        picture(tmp_path / f"{i:02}.png", i)
    limits, decode = [], images_module.decode

    def slow(*arguments: Any) -> Image.Image:
        limits.append(Image.MAX_IMAGE_PIXELS)
        time.sleep(0.01)
        return decode(*arguments)

    monkeypatch.setattr(images_module, "decode", slow)
    batches: Any = source(tmp_path).batches(20, 2)
    next(batches)
    batches.close()
    assert len(limits) < 40 and set(limits) == {None} and Image.MAX_IMAGE_PIXELS is not None


def test_a_second_pass_is_the_first(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"{i}.png", 7)
    found = source(tmp_path)
    read(found)
    first = (found.record(), found.warnings)
    read(found, 2, 1)
    assert (found.record(), found.warnings) == first
    assert found.stats.duplicates == 4


# --- conversions ---


def two(folder: Path, save: Callable[[Path], object]) -> np.ndarray:
    """The first of two images, the other one being plain."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "a.png")
    picture(folder / "b.png")
    return read(source(folder))[0]


def test_grey_has_one_channel_and_16_bits_become_8(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    eight = two(tmp_path / "8", lambda path: Image.fromarray(grey).save(path))
    sixteen = two(tmp_path / "16", lambda path: Image.fromarray(grey.astype(np.uint16) * 257).save(path))
    assert np.array_equal(eight, grey[None]) and np.array_equal(sixteen, grey[None])


def test_alpha_lies_on_white_and_palettes_are_looked_up(tmp_path: Path) -> None:
    clear = two(tmp_path / "rgba", lambda path: Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(path))
    assert clear.shape == (3, 4, 4) and (clear == 255).all()
    half = two(tmp_path / "half", lambda path: Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(path))
    assert (half == 127).all()

    def palette(path: Path) -> None:
        image = Image.new("P", (4, 4), 1)
        image.putpalette([1, 2, 3, 200, 100, 50])
        image.save(path)

    assert two(tmp_path / "p", palette)[:, 2, 2].tolist() == [200, 100, 50]


def test_cmyk_exif_and_the_first_frame(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = two(tmp_path / "cmyk", lambda path: cmyk.save(path, "JPEG", quality=100))[:, 4, 4].tolist()
    assert red[0] >= 250 and red[1] <= 5 and red[2] <= 5
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = two(tmp_path / "exif", lambda path: Image.new("RGB", (16, 8)).save(path, exif=exif))
    assert turned.shape == (3, 16, 8)
    frames = [Image.new("L", (8, 8), value) for value in (50, 200)]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    assert (two(tmp_path / "gif", lambda path: frames[0].save(path, "GIF", **options)) == 50).all()


def test_rgb_keeps_its_channels_in_order(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = two(tmp_path, lambda path: Image.fromarray(pixels).save(path))
    assert np.array_equal(image, pixels.transpose(2, 0, 1))


# --- hostile folders ---


def bad_folder(folder: Path) -> Path:
    for i in range(5):
        picture(folder / f"{i}.png", i)
    Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / "1b.png")
    (folder / "1b.png").write_bytes((folder / "1b.png").read_bytes()[:2000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "link.png").symlink_to(folder / "nothing.png")
    os.mkfifo(folder / "pipe.png")
    picture(folder / "zlarge.png", 0, (2000, 600))
    return folder


def test_the_first_bad_file_is_named(tmp_path: Path) -> None:
    sentence = refused(bad_folder(tmp_path))
    assert "1b.png cannot be decoded" in sentence and "--bad-images skip" in sentence


@pytest.mark.parametrize(
    ("name", "text"),
    [("empty.png", "is empty (0 bytes)"), ("pipe.png", "is not a file"), ("zlarge.png", "--max-megapixels: 1:")],
)
def test_each_bad_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    folder = bad_folder(tmp_path)
    for other in ("1b.png", "empty.png", "link.png", "pipe.png", "zlarge.png"):
        if other != name:
            (folder / other).unlink()
    assert name in refused(folder) and text in refused(folder)


def test_bad_files_are_skipped_and_counted(tmp_path: Path) -> None:
    found = source(bad_folder(tmp_path), bad_images="skip")
    assert found.count == 10
    assert [int(image[0, 3, 4]) for image in read(found, 2)] == list(range(5))
    assert found.count == 5 and found.stats.bad == [2, 6, 7, 8, 9]
    assert found.record()["skipped"] == {"broken": 4, "too_large": 1} and found.record()["images"] == 5
    assert f"{tmp_path}: 5 bad images were skipped" in found.warnings
    assert len(found.content_sha256()) == 64


def test_labels_follow_what_is_skipped(tmp_path: Path) -> None:
    for name in ("ant/a.png", "ant/b.png", "bee/c.png"):
        picture(tmp_path / name)
    (tmp_path / "ant" / "aa.png").write_bytes(b"")
    found = source(tmp_path, bad_images="skip")
    read(found)
    assert found.labels is not None and found.labels.tolist() == [0, 0, 1]


def test_too_few_images(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "missing")
    assert "holds no image:" in refused(tmp_path)
    picture(tmp_path / "a.png")
    assert "holds 1 image: a covariance needs at least 2" in refused(tmp_path)
    (tmp_path / "b.png").write_bytes(b"")
    assert "holds 1 image that can be used (1 were skipped)" in refused(tmp_path, bad_images="skip")


@pytest.mark.parametrize("name", ["a.7z", "a.tar", "a.tar.gz", "a.TGZ"])
def test_archives_are_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    assert "unpack it first" in refused(tmp_path / name)


def test_other_files_are_no_sets(tmp_path: Path) -> None:
    assert "is neither a folder of images" in refused(picture(tmp_path / "a.png"))
    os.mkfifo(tmp_path / "a.npy")
    assert "is neither a folder of images" in refused(tmp_path / "a.npy")


def test_warnings_on_constant_and_repeated_and_dark_images(tmp_path: Path) -> None:
    for i, color in enumerate([(9, 9, 9), (1, 2, 3), (1, 2, 3)]):  # one colour is constant, grey or not
        Image.new("RGB", (4, 4), color).save(tmp_path / f"{i}.png")
    picture(tmp_path / "x.png", 100, (4, 4))
    found = source(tmp_path)
    read(found)
    assert (found.stats.constant, found.stats.duplicates, found.stats.low, found.stats.high) == (3, 1, 1, 155)
    assert [sentence.split(": ")[1] for sentence in found.warnings] == [
        "3 of 4 images are of one colour throughout",
        "1 of 4 images repeat an earlier one exactly",
    ]
    (tmp_path / "x.png").unlink()
    read(found := source(tmp_path))
    assert any("all values lie in 1..9 of 0..255" in sentence for sentence in found.warnings)


def test_the_same_bytes_in_another_shape_are_no_repetition(tmp_path: Path) -> None:
    for name, shape in [("a", (4, 6)), ("b", (6, 4))]:
        Image.fromarray(np.arange(24, dtype=np.uint8).reshape(shape)).save(tmp_path / f"{name}.png")
    read(found := source(tmp_path))
    assert found.stats.duplicates == 0


def test_the_content_hash_is_of_the_files_in_order(tmp_path: Path) -> None:
    for name in ("one/a.png", "one/b.png", "two/x.png", "two/y.png"):
        picture(tmp_path / name, 3 if name[-5] in "ax" else 4)
    digests = [hashlib.sha256((tmp_path / "one" / name).read_bytes()).hexdigest() for name in ("a.png", "b.png")]
    expected = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert source(tmp_path / "one").content_sha256() == expected == source(tmp_path / "two").content_sha256()
    (tmp_path / "two" / "x.png").rename(tmp_path / "two" / "z.png")
    assert source(tmp_path / "two").content_sha256() != expected


# --- arrays ---

ROWS = RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)  # (N, H, W, C)


def saved(path: Path, array: np.ndarray, **others: np.ndarray) -> Path:
    """A .npy, or by the path's ending an .npz, compressed where its name says so."""
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        (np.savez_compressed if "small" in path.name else np.savez)(path, array, **others)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "small.npz"])
def test_array_layouts(tmp_path: Path, name: str) -> None:
    expected = ROWS.transpose(0, 3, 1, 2)
    for array in (ROWS, expected):
        images = read(source(saved(tmp_path / name, array)), 4)
        assert np.array_equal(np.stack(images), expected)
    for grey in (ROWS[..., 0], ROWS[..., :1], expected[:, :1]):
        assert np.array_equal(np.stack(read(source(saved(tmp_path / name, grey)))), expected[:, :1])


def test_fortran_order_is_kept_straight(tmp_path: Path) -> None:
    images = read(source(saved(tmp_path / "a.npy", np.asfortranarray(ROWS))))
    assert np.array_equal(np.stack(images), ROWS.transpose(0, 3, 1, 2))
    assert "Fortran order" in refused(saved(tmp_path / "a.npz", np.asfortranarray(ROWS)))


def test_the_array_of_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert len(read(source(saved(path, ROWS, labels=np.zeros(6))))) == 6  # arr_0 among others
    np.savez(path, samples=ROWS)
    assert len(read(source(path))) == 6
    np.savez(path, samples=ROWS, others=ROWS)
    assert "holds neither images" in refused(path) and "samples, others" in refused(path)
    np.savez(path)
    assert "but nothing" in refused(path)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((6, 3, 8, 3), "channels may come first or last"),
        ((6, 1, 8, 1), "channels may come first or last"),
        ((6, 8, 8, 4), "no 1 or 3 channels"),
        ((6, 8, 8, 2), "no 1 or 3 channels"),
        ((32, 32, 3), "one image or several grey ones"),
        ((3, 32, 32), "one image or several grey ones"),
        ((6, 64), "save the images as (N, H, W)"),
        ((6,), "save the images as (N, H, W)"),
        ((), "save the images as (N, H, W)"),
        ((6, 8, 8, 3, 1), "save the images as (N, H, W)"),
        ((6, 0, 8, 3), "without pixels"),
        ((0, 8, 8, 3), "holds no image"),
        ((1, 8, 8, 3), "holds 1 image"),
    ],
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_shapes_that_are_refused(tmp_path: Path, shape: tuple[int, ...], text: str, name: str) -> None:
    assert text in refused(saved(tmp_path / name, np.zeros(shape, np.uint8)))


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint16, np.int8, np.complex64, "U3", object])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_types_that_are_refused(tmp_path: Path, dtype: Any, name: str) -> None:
    sentence = refused(saved(tmp_path / name, np.zeros((6, 8, 8, 3)).astype(dtype)))
    assert "save it as uint8" in sentence or "object" in sentence.lower()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("value_range", [None, (-1.0, 1.0), (0.0, 255.0)])
def test_floats_become_the_levels_they_came_from(
    tmp_path: Path, name: str, dtype: Any, value_range: tuple[float, float] | None
) -> None:
    low, high = value_range or (0.0, 1.0)
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    floats = (low + levels.astype(np.float64) / 255 * (high - low)).clip(low, high).astype(dtype)
    found = source(saved(tmp_path / name, floats), value_range=value_range)
    assert np.array_equal(np.concatenate(read(found)), levels)
    assert found.record()["value_range"] == [low, high] and "(N, H, W)" in found.record()["array"]


def test_floats_are_rounded_to_the_nearest_level(tmp_path: Path) -> None:
    floats = np.full((2, 4, 4), 0.0)
    floats[0, 0] = np.array([0.4, 0.6, 127.49, 127.51]) / 255
    assert read(source(saved(tmp_path / "a.npy", floats)))[0][0, 0].tolist() == [0, 1, 127, 128]


@pytest.mark.parametrize("bad_images", ["refuse", "skip"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.nan, "image 3 holds NaN"),
        (np.inf, "image 3 holds NaN or infinite"),
        (1.5, "image 3 has values from 0.0 to 1.5, outside 0..1: declare their range with --value-range"),
        (-0.01, "image 3 has values from -0.01 to 0.0, outside 0..1"),
        (1.000002, "image 3 has values from 0.0 to 1.000002, outside 0..1"),
    ],
)
def test_float_values_that_are_refused(tmp_path: Path, value: float, text: str, bad_images: str) -> None:
    floats = np.zeros((6, 8, 8), np.float32)
    floats[3, 2, 2] = value
    assert text in refused(saved(tmp_path / "a.npy", floats), bad_images=bad_images)


@pytest.mark.parametrize(
    ("dtype", "value_range", "near", "far"),
    [
        (np.float64, (0.0, 1.0), 1 + 9e-7, 1 + 1.1e-6),
        (np.float32, (0.0, 1.0), 1.0000008, 1.000002),
        (np.float32, (0.0, 1.0), -8e-7, -1.2e-6),
        (np.float32, (-1.0, 1.0), 1.0000018, 1.0000025),
        (np.float32, (0.0, 255.0), 255.0002, 255.0003),
        (np.float16, (0.0, 1.0), 1.001, 1.003),
    ],
)
def test_floats_that_rounding_took_beyond_their_range_are_clipped(
    tmp_path: Path, dtype: Any, value_range: tuple[float, float], near: float, far: float
) -> None:
    floats = np.full((2, 6, 6), value_range[0], dtype)
    floats[0, 0, 1:] = [near, *[value_range[1]] * 4]
    level = 255 if near > 0 else 0
    found = read(source(saved(tmp_path / "near.npy", floats), value_range=value_range))
    assert found[0][0, 0].tolist() == [0, level, 255, 255, 255, 255]
    floats[0, 0, 1] = far
    told = refused(saved(tmp_path / "far.npy", floats), value_range=value_range)
    assert f"values from {floats.min()!s} to {floats.max()!s}, outside" in told


def test_a_value_range_that_is_too_wide_is_warned_of(tmp_path: Path) -> None:
    floats = RNG.random((6, 8, 8))  # 0..1, declared as 0..255: all nearly black
    read(found := source(saved(tmp_path / "a.npy", floats), value_range=(0.0, 255.0)))
    assert any("all values lie in 0..1 of 0..255" in sentence for sentence in found.warnings)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "small.npz"])
@pytest.mark.parametrize("damage", ["cut", "half", "empty", "text"])
def test_damaged_arrays(tmp_path: Path, name: str, damage: str) -> None:
    content = saved(tmp_path / name, ROWS).read_bytes()
    damaged = {"cut": content[:-1], "half": content[: len(content) // 2], "empty": b"", "text": b"<html>404</html>"}
    (tmp_path / name).write_bytes(damaged[damage])
    assert "cannot be read" in refused(tmp_path / name)


def test_a_flipped_byte_in_an_npz_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", ROWS)
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("arr_0.npy").file_size
    content = bytearray(path.read_bytes())
    content[size // 2] ^= 1
    path.write_bytes(content)
    assert "cannot be read (Bad CRC-32" in refused(path)


def test_arrays_that_shrink_in_the_header(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", ROWS)
    with zipfile.ZipFile(path) as archive:
        member = archive.read("arr_0.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", member[:-10])
    assert "it ends early" in refused(path)


def test_the_hash_of_an_array_is_its_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", ROWS)
    assert source(path).content_sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
