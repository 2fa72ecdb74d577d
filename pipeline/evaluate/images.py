"""Images of the user, from a folder or an array, one at a time: uint8 (C, H, W) with C 1 or 3, of any sizes.

    open_images(path, ...) -> ImageSource -> batches -> lists of arrays; then record and warnings say what was found

Images are taken as a PNG would hold them: 16-bit grey is divided by 257, transparency lies on white, EXIF turns, of an
animation the first frame counts, floats are rounded to the nearest of 256 levels. What cannot be used is refused by
name, or skipped and counted.
"""

import functools
import hashlib
import itertools
import math
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.core.files import sha256
from pipeline.data.folders import label_files, list_images
from pipeline.data.pictures import BadImage, converted, decode, most_bytes, own_limits
from pipeline.data.zips import Parts, ZipFolder, is_zip
from pipeline.evaluate.arrays import ArrayImages, open_array

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SIZES_NAMED = 20  # in a record; the others are counted together
BadImages = Literal["refuse", "skip"]
MOST_WAITING = 2**28  # bytes of images in a batch, and of those that are decoded ahead; or one image, if it is larger
PICKLED = (".pkl", ".pickle")
PACKED = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


class _Seen(NamedTuple):
    """One image and what was learnt of it in the thread that decoded it."""

    image: np.ndarray
    low: int
    high: int
    constant: bool
    digest: bytes


@dataclass
class ReadStats:
    """What one pass over a source found, as plain values, so that it can be cached.

    bad: the places of the images that were skipped, in the source's order, and `reasons` how many for which reason.
    """

    images: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    bad: list[int] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    constant: int = 0
    duplicates: int = 0
    low: int = 255
    high: int = 0


class ImageSource:
    """A sequence of images of which only a few are in memory. `batches` reads it; `stats` then says what it found."""

    def __init__(self, path: Path, content: "FolderImages | ArrayImages", bad_images: BadImages) -> None:
        self.path, self.content, self.bad_images = path, content, bad_images
        self.stats = ReadStats()

    @property
    def count(self) -> int:
        """Images in it, less those that were skipped so far."""
        return len(self.content) - len(self.stats.bad)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class subfolders; () = unlabelled."""
        return self.content.classes

    @property
    def labels(self) -> np.ndarray | None:
        """int64 (count,), indices into `classes`, of the images that were not skipped; None = unlabelled."""
        labels = self.content.labels
        return None if labels is None else np.delete(labels, self.stats.bad)

    def batches(self, size: int, workers: int) -> Iterator[list[np.ndarray]]:
        """Lists of `size` images uint8 (C, H, W) in order, a last shorter one included, and fewer of very large ones.

        `workers` threads decode about a batch ahead of the consumer; the result does not depend on how many they are.

        Raises:
            PipelineError: an image is bad and is not to be skipped, or fewer than 2 are left.
        """
        self.stats, digests, batch = ReadStats(), set[bytes](), list[np.ndarray]()
        ahead = max(size, 2 * workers)
        if self.content.row_bytes:
            ahead = min(ahead, 1 + MOST_WAITING // self.content.row_bytes)
        for index, seen in enumerate(_decoded(self.content.tasks(), workers, ahead)):
            if isinstance(seen, BadImage):
                self._skip(index, seen)
                continue
            self._count(seen)
            self.stats.duplicates += seen.digest in digests
            digests.add(seen.digest)
            batch.append(seen.image)
            if len(batch) == size or sum(image.nbytes for image in batch) >= MOST_WAITING:
                yield batch
                batch = []
        _require_two(self.path, self.count, self.stats.reasons)
        if batch:
            yield batch

    def _skip(self, index: int, bad: BadImage) -> None:
        if self.bad_images == "refuse":
            raise PipelineError(f"{bad}: repair or delete it, or give --bad-images skip")
        self.stats.bad.append(index)
        self.stats.reasons[bad.kind] = self.stats.reasons.get(bad.kind, 0) + 1

    def _count(self, seen: _Seen) -> None:
        stats, (_, height, width) = self.stats, seen.image.shape
        stats.images += 1
        stats.sizes[f"{width}x{height}"] = stats.sizes.get(f"{width}x{height}", 0) + 1
        stats.constant += seen.constant
        stats.low, stats.high = min(stats.low, seen.low), max(stats.high, seen.high)

    def content_sha256(self) -> str:
        """One hash of all images' bytes, in order: that of the file, or of a folder's files' hashes."""
        return self.content.sha256()

    def record(self) -> dict[str, Any]:
        """What was measured, after a pass: how many images, of which sizes, what was skipped, how they were read."""
        sizes = Counter(self.stats.sizes).most_common()
        named = dict(sizes[:SIZES_NAMED])
        if other := sum(count for _, count in sizes[SIZES_NAMED:]):
            named["other"] = other
        return {
            "path": str(self.path),
            "images": self.stats.images,
            "sizes": named,
            "skipped": {**self.content.skipped, **self.stats.reasons},
            "classes": list(self.classes),
            **self.content.conversion,
        }

    @property
    def warnings(self) -> list[str]:
        """Sentences, after a pass, on what can be read but may not be what the user intended."""
        stats, found = self.stats, []
        if stats.constant:
            found.append(f"{stats.constant} of {stats.images} images are of one colour throughout")
        if stats.duplicates:
            found.append(f"{stats.duplicates} of {stats.images} images repeat an earlier one exactly")
        if len(stats.sizes) > 1:
            found.append(f"the images have {len(stats.sizes)} sizes; each is resized by itself")
        if stats.high - stats.low <= 127 and stats.images:
            found.append(
                f"all values lie in {stats.low}..{stats.high} of 0..255: check the value range that the images were "
                "written with"
            )
        if bad := sum(stats.reasons.values()):
            found.append(f"{bad} bad images were skipped")
        return [f"{self.path}: {sentence}" for sentence in found]


def open_images(
    path: Path,
    max_megapixels: float,
    bad_images: BadImages,
    value_range: tuple[float, float] | None,
) -> ImageSource:
    """A folder of images, subfolders included, a zip of one, or an array file (.npy, .npz).

    max_megapixels: an image file with more is bad. value_range: of float arrays; None is 0..1.

    Raises:
        PipelineError: nothing is there, it is neither, or it holds fewer than 2 images.
    """
    if os.path.isdir(path) or is_zip(path):
        content: FolderImages | ArrayImages = FolderImages(path, max_megapixels)
    elif not os.path.exists(path):
        raise PipelineError(f"{path} does not exist: name a folder of images, a .zip, .npy or .npz file")
    elif path.suffix.lower() in PACKED:
        raise PipelineError(f"{path} is an archive: unpack it first, and name the folder")
    elif path.suffix.lower() in PICKLED:
        raise PipelineError(
            f"{path} is a pickle, which can run programs when it is read, and is refused: where you trust it, run "
            "`import pickle, numpy; d = pickle.load(open(FILE, 'rb')); numpy.savez('a.npz', **d.get('fid', d))`"
        )
    elif os.path.isfile(path) and path.suffix.lower() in (".npy", ".npz"):
        content = open_array(path, value_range, max_megapixels)
    else:
        raise PipelineError(f"{path} is neither a folder of images nor a .zip, .npy or .npz file: name one of these")
    _require_two(path, len(content), {})
    return ImageSource(path, content, bad_images)


class FolderImages:
    """The image files below a folder or in a zip, in sorted order; labelled if they have at least two classes."""

    def __init__(self, root: Path, max_megapixels: float) -> None:
        self.conversion: dict[str, Any] = {"alpha": "on white", "animation": "the first frame", "16_bit": "x / 257"}
        files, self.skipped = list_images(root, EXTENSIONS)
        self.root, self.files, self.max_megapixels = root, files, max_megapixels
        self.archive = ZipFolder(root) if is_zip(root) else None
        found = label_files(root, files, mixed=True)
        self.classes = found.classes if len(found.classes) > 1 else ()
        self.labels = np.array(found.labels, np.int64) if self.classes else None
        self.row_bytes = 0  # that are read before an image is decoded

    def __len__(self) -> int:
        return len(self.files)

    def tasks(self) -> Iterator[Callable[[], np.ndarray]]:
        """A function for each image that gives it as uint8 (C, H, W), to be called within `own_limits`."""
        return (functools.partial(self._read, file) for file in self.files)

    def _read(self, file: Parts) -> np.ndarray:
        given = (self.max_megapixels, FORMATS, "--max-megapixels")
        picture = self.archive.decode(file, *given) if self.archive else decode(self.root.joinpath(*file), *given)
        pixels = np.asarray(converted(picture))
        return np.array(np.atleast_3d(pixels).transpose(2, 0, 1), order="C")  # (H, W) or (H, W, C) -> (C, H, W)

    def sha256(self) -> str:
        """The sha256 of the zip, or that over the sha256 of each file."""
        if self.archive is not None:
            return sha256(self.root)
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(_file_sha256(self.root.joinpath(*file), most_bytes(self.max_megapixels)).encode())
        return digest.hexdigest()


def _file_sha256(path: Path, most: float) -> str:
    """Of what cannot be read, or is larger than any image, "": what that means is decided where it is decoded."""
    try:
        readable = os.path.isfile(path) and path.stat().st_size <= most  # a pipe would block for ever
        return sha256(path) if readable else ""
    except OSError:
        return ""


def _decoded(tasks: Iterator[Callable[[], np.ndarray]], workers: int, ahead: int) -> Iterator[_Seen | BadImage]:
    """The results of `tasks`, in order; at most `ahead` of them are computed before they are asked for."""
    with own_limits():
        pool, gate, numbered = ThreadPoolExecutor(workers), _Gate(), enumerate(tasks)
        try:
            waiting = deque(pool.submit(gate.examine, *task) for task in itertools.islice(numbered, ahead))
            while waiting:
                seen = waiting.popleft().result()
                gate.take(seen)
                waiting.extend(pool.submit(gate.examine, *task) for task in itertools.islice(numbered, 1))
                yield seen
        finally:
            gate.open()
            pool.shutdown(cancel_futures=True)


class _Gate:
    """Holds threads back while the images that wait fill `MOST_WAITING` bytes, but never the image that is next."""

    def __init__(self) -> None:
        self._changed, self._held, self._next = threading.Condition(), 0, 0.0

    def examine(self, index: int, task: Callable[[], np.ndarray]) -> _Seen | BadImage:
        with self._changed:
            self._changed.wait_for(lambda: self._held < MOST_WAITING or index <= self._next)
        seen = _examine(task)
        with self._changed:
            self._held += _size(seen)
        return seen

    def take(self, seen: _Seen | BadImage) -> None:
        with self._changed:
            self._held, self._next = self._held - _size(seen), self._next + 1
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._next = math.inf
            self._changed.notify_all()


def _size(seen: _Seen | BadImage) -> int:
    return seen.image.nbytes if isinstance(seen, _Seen) else 0


def _examine(task: Callable[[], np.ndarray]) -> _Seen | BadImage:
    try:
        image = task()
    except BadImage as bad:
        return bad
    digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).digest()
    constant = bool((image == image[:, :1, :1]).all())
    return _Seen(image, int(image.min()), int(image.max()), constant, digest)


def _require_two(path: Path, count: int, reasons: dict[str, int]) -> None:
    if count >= 2:
        return
    held = "1 image" if count else "no image"
    skipped = f" that can be used ({sum(reasons.values())} were skipped)" if reasons else ""
    raise PipelineError(f"{path} holds {held}{skipped}: a covariance needs at least 2, name a set with more")
