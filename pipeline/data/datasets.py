"""Where images come from: a named data set as a `Source`, whose pictures are read one at a time.

    DATASETS[name](params) -> Source -> Items.picture(i) -> pictures.to_row -> uint8 (C, S, S)

To add a data set, write a function that returns a `Source`, and add one entry to DATASETS.
"""

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError, printable, warn
from pipeline.data import downloads, raw_files, stacked
from pipeline.data.downloads import Archive, fetched
from pipeline.data.folders import LabelledFiles, label_files, list_images, name_classes
from pipeline.data.pictures import FORMATS, Picture, own_limits, read_picture
from pipeline.data.source import Items, Source
from pipeline.data.zips import ZipFolder, is_zip
from pipeline.params import DataParams

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


def _digits(params: DataParams) -> Source:
    from sklearn.datasets import load_digits  # here, since it is slow to import and other stages do not need it

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)  # (1797, 8, 8), from 0..16
    return Source(tuple("0123456789"), Items(digits.target.tolist(), lambda index: images[index]))


def _torchvision(params: DataParams, kind: str, unpacked: Sequence[str], archives: Sequence[Archive]) -> Source:
    """One of torchvision's data sets; `unpacked` are its files below `params.root`, which come from `archives`.

    Existing files are used and checked by torchvision: it unpickles no file of CIFAR whose MD5 differs.
    """
    from torchvision import datasets

    root = folder_of(params)
    with fetched(root, kind, unpacked, archives), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"dtype\(\): align")  # numpy >= 2.4 on CIFAR's old pickles
        train, test = (getattr(datasets, kind)(root, train=flag) for flag in (True, False))
    return Source(tuple(train.classes), _torchvision_items(train), _torchvision_items(test))


def _stacked_mnist(params: DataParams) -> Source:
    """See pipeline.data.stacked."""
    if params.channels != 3:
        raise PipelineError(f"{stacked.NAME} has three channels, a digit in each: set data.channels: 3")
    return stacked.stacked(DATASETS["mnist"](params), params.seed)


def _torchvision_items(split: Any) -> Items:
    return Items(np.asarray(split.targets).tolist(), lambda index: split[index][0])


def _folder(params: DataParams) -> Source:
    """A folder or a zip of images, see pipeline.data.folders."""
    root = folder_of(params)
    place = printable(str(root), 200)
    if not os.path.isdir(root) and not is_zip(root):
        fault = "is a file, not a folder: unpack it and" if os.path.exists(root) else "does not exist:"
        raise PipelineError(f"{place} {fault} set data.root to the folder of your images")
    files, skipped = list_images(root, EXTENSIONS)
    if not files:
        raise PipelineError(f"{place} holds no image ({', '.join(EXTENSIONS)}): put some there, or change data.root")
    found = label_files(root, files)
    if found.splits is None:
        return Source(
            found.classes, _folder_items(root, found, range(len(files)), params.max_megapixels), None, skipped
        )
    held_out = "test" if "test" in found.splits else "val"
    train, test = ([i for i, split in enumerate(found.splits) if split == name] for name in ("train", held_out))
    unused = len(files) - len(train) - len(test)
    if unused:
        warn(f"{place}: the {unused} images for validation are not used, since there is a test split")
    train_items, test_items = (_folder_items(root, found, chosen, params.max_megapixels) for chosen in (train, test))
    return Source(found.classes, train_items, test_items if test else None, skipped)


def _folder_items(root: Path, found: LabelledFiles, chosen: Sequence[int], megapixels: float) -> Items:
    """The chosen files of a folder or a zip. Memory holds their names and one picture."""
    archive = ZipFolder(root) if is_zip(root) else None

    def picture(index: int) -> Picture:
        parts = found.files[chosen[index]]
        if archive is None:
            return read_picture(root.joinpath(*parts), megapixels)
        with own_limits():
            return archive.decode(parts, megapixels, FORMATS, "data.max_megapixels")

    return Items([found.labels[place] for place in chosen], picture)


def expected_classes(params: DataParams) -> int | None:
    """How many classes a data set will have, before anything is prepared; None where that is not known yet.

    It is not known of a folder that cannot be read, which is reported elsewhere, and of a data set that somebody added
    to DATASETS: only to be called would tell, and that may take long, or download.
    """
    if DATASETS.get(params.dataset) is not _folder:
        return CLASSES.get(params.dataset)
    try:
        return len(expected_names(params))
    except (OSError, ValueError, PipelineError):  # ValueError: a name that no file system takes
        return None


def expected_names(params: DataParams) -> tuple[str, ...]:
    """The names of a folder's classes by their numbers; () for other data sets, and for a folder without classes.

    Raises:
        OSError, ValueError, PipelineError: the folder cannot be read.
    """
    return name_classes(folder_of(params), EXTENSIONS) if DATASETS.get(params.dataset) is _folder else ()


def folder_of(params: DataParams) -> Path:
    """`data.root`, with ~ replaced if there is such a user."""
    return Path(os.path.expanduser(params.root))


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# How many classes the data sets of DATASETS have, where that is known without looking at them.
CLASSES = {
    "digits": 10, "mnist": 10, "fashion_mnist": 10, "cifar10": 10, "svhn": 10, "stl10": 10, "cifar100": 100,
    "stl10_unlabelled": 0, "celeba": 0, stacked.NAME: 1000,
}  # fmt: skip
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
    "cifar100": functools.partial(
        _torchvision,
        kind="CIFAR100",
        unpacked=[f"cifar-100-python/{name}" for name in ("train", "test", "meta")],
        archives=downloads.CIFAR100,
    ),
    "svhn": lambda params: raw_files.svhn(folder_of(params)),
    "stl10": lambda params: raw_files.stl10(folder_of(params)),
    "stl10_unlabelled": lambda params: raw_files.stl10(folder_of(params), unlabelled=True),
    "celeba": lambda params: raw_files.celeba(folder_of(params), params.max_megapixels),
    stacked.NAME: _stacked_mnist,
    "folder": _folder,
}
