"""Where images come from: a named data set as a `Source`, read one picture at a time.

    DATASETS[name](params) -> Source -> items (picture, label) -> pictures.to_row -> uint8 (C, S, S)

To add a data set, write a function that returns a `Source` and one entry in DATASETS.
"""

import functools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.core.errors import PipelineError, printable, warn
from pipeline.core.files import storage_errors
from pipeline.data import downloads
from pipeline.data.downloads import Archive, fetch
from pipeline.data.pictures import Picture, read_picture, reason_of
from pipeline.params import DataParams

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


class Items(Protocol):
    """A split before preparation: item i is (picture, label), read only when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Picture, int]:
        """A PIL image or a uint8 array (H, W) or (H, W, 3); may raise `BadImage`."""


@dataclass(frozen=True)
class Source:
    """A data set before preparation. `test` is None where a test split has to be held out of `train`."""

    classes: tuple[str, ...]  # () = unlabelled: every label is 0
    train: Items
    test: Items | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)  # files passed over while listing, by reason


def _digits(params: DataParams) -> Source:
    from sklearn.datasets import load_digits  # here, since no other stage needs to wait for it

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)  # (1797, 8, 8), from 0..16
    return Source(tuple("0123456789"), list(zip(images, digits.target.tolist(), strict=True)))


def _torchvision(params: DataParams, kind: str, unpacked: Sequence[str], archives: Sequence[Archive]) -> Source:
    """One of torchvision's data sets; `unpacked` are its files, relative to `params.root`, and come from `archives`.

    What is there is used as it is, and torchvision checks it: it unpickles no file of CIFAR-10 whose MD5 differs.
    """
    from torchvision import datasets

    root = folder_of(params)
    download = not all(os.path.isfile(root / file) for file in unpacked)
    try:
        with storage_errors(root), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"dtype\(\): align")  # numpy >= 2.4 on CIFAR-10's old pickles
            for archive in archives if download else ():
                fetch(archive, root)
            train, test = (getattr(datasets, kind)(root, train=flag) for flag in (True, False))
    except PipelineError:
        raise
    except Exception as error:  # torchvision raises whatever it meets: URLError, RuntimeError, ValueError, KeyError ...
        reason, place = printable(reason_of(error), 200), printable(str(root), 200)
        folder = f"{place}/{Path(unpacked[0]).parent}"
        if download:
            packed = ", ".join(archive.path for archive in archives)
            fault, remedy = "is not there and cannot be downloaded", f"put {packed} into {place}"
        else:
            fault, remedy = "is damaged", f"delete the files {', '.join(Path(file).name for file in unpacked)} there"
        raise PipelineError(f"{kind} in {folder} {fault} ({reason}): {remedy} and run the command again") from error
    return Source(tuple(train.classes), train, test)


def _folder(params: DataParams) -> Source:
    """A folder of images: labelled by its class subfolders, or flat and unlabelled."""
    root = folder_of(params)
    place = printable(str(root), 200)
    if not os.path.isdir(root):
        fault = "is a file, not a folder: unpack it and" if os.path.exists(root) else "does not exist:"
        raise PipelineError(f"{place} {fault} set data.root to the folder of your images")
    files, skipped = list_images(root, EXTENSIONS)
    if not files:
        raise PipelineError(f"{place} holds no image ({', '.join(EXTENSIONS)}): put some there, or change data.root")
    beside = [file for file in files if len(file) == 1]
    if beside and len(beside) < len(files):
        below = next(file for file in files if len(file) > 1)
        pair = f"{printable(beside[0][0])} beside {printable('/'.join(below), 200)}"
        remedy = "move each into a class subfolder, or all into one folder"
        raise PipelineError(f"{place} holds images beside class subfolders ({pair}): {remedy}")
    classes = () if beside else tuple(sorted({file[0] for file in files}))
    for name in classes:  # they go into JSON, MLflow and the report
        if os.fsencode(name).decode(errors="replace") != name:
            raise PipelineError(f"{place} has the class subfolder {printable(name)}, whose name is no UTF-8: rename it")
    return Source(classes, _FolderItems(root, files, classes, params.max_megapixels), None, skipped)


def expected_classes(params: DataParams) -> int:
    """How many classes a data set will have, told before anything is read: the class subfolders of `folder`, else 10.

    Where the folder is not there, 2: that it is missing is said elsewhere.
    """
    if DATASETS.get(params.dataset) is not _folder:
        return 10
    try:
        with os.scandir(folder_of(params)) as entries:
            return sum(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
    except (OSError, ValueError):  # ValueError: a name that no file system takes
        return 2


def folder_of(params: DataParams) -> Path:
    """`data.root`, its ~ replaced where there is such a user."""
    return Path(os.path.expanduser(params.root))


def list_images(root: Path, extensions: tuple[str, ...]) -> tuple[list[tuple[str, ...]], dict[str, int]]:
    """The parts of the relative paths of all images, sorted; and how many other things were passed over, by reason.

    Linked folders are not followed (they may form loops or lead anywhere); linked files are.
    """
    files: list[tuple[str, ...]] = []
    skipped: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for folder, subfolders, names in _walk(root):
        skipped["linked_folders"] += sum(os.path.islink(os.path.join(folder, name)) for name in subfolders)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        parts = Path(folder).relative_to(root).parts
        for name in names:
            if name.startswith("."):  # ._x.png: what macOS leaves on other file systems
                skipped["hidden_files"] += 1
            elif name.lower().endswith(extensions):
                files.append((*parts, name))
            else:
                skipped["other_files"] += 1
                other[Path(name).suffix.lower() or "no extension"] += 1
    counts = {reason: count for reason, count in sorted(skipped.items()) if count}
    if counts:
        passed = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items())
        kinds = f" ({', '.join(printable(suffix) for suffix, _ in other.most_common(5))})" if other else ""
        warn(f"{printable(str(root), 200)}: passed over {passed}{kinds}")
    return sorted(files), counts


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    try:
        yield from os.walk(root, onerror=_refuse_folder)
    except RecursionError:
        raise PipelineError(
            f"{printable(str(root), 200)} holds folders within folders without end: move the images up"
        ) from None


def _refuse_folder(error: OSError) -> None:
    name = printable(str(error.filename), 1000)
    raise PipelineError(f"{name} cannot be read ({error.strerror}): check its permissions") from error


class _FolderItems:
    """The images of a folder as `Items`; memory holds their names and one image."""

    def __init__(self, root: Path, files: list[tuple[str, ...]], classes: tuple[str, ...], megapixels: float) -> None:
        self.root, self.files, self.megapixels = root, files, megapixels
        self.labels = {name: label for label, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        file = self.files[index]
        return read_picture(self.root.joinpath(*file), self.megapixels), self.labels.get(file[0], 0)


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR10 = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")


def _idx(kind: str, archives: Sequence[Archive]) -> Callable[[DataParams], Source]:
    unpacked = [f"{kind}/raw/{name}" for name in _IDX]
    return functools.partial(_torchvision, kind=kind, unpacked=unpacked, archives=archives)


DATASETS: dict[str, Callable[[DataParams], Source]] = {
    "digits": _digits,
    "mnist": _idx("MNIST", downloads.MNIST),
    "fashion_mnist": _idx("FashionMNIST", downloads.FASHION_MNIST),
    "cifar10": functools.partial(
        _torchvision,
        kind="CIFAR10",
        unpacked=[f"cifar-10-batches-py/{name}" for name in _CIFAR10],
        archives=downloads.CIFAR10,
    ),
    "folder": _folder,
}
