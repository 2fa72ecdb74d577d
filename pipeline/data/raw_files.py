"""SVHN, STL-10 and CelebA, read from the files that their authors published."""

from pathlib import Path

import numpy as np

from pipeline.core.files import sha256
from pipeline.data import downloads
from pipeline.data.downloads import fetched
from pipeline.data.pictures import FORMATS, Picture, own_limits
from pipeline.data.source import Items, Source
from pipeline.data.zips import ZipFolder

STL10_SIDE = 96
CELEBA_TRAIN, CELEBA_TEST = range(1, 162_771), range(182_638, 202_600)  # numbers of images; between them: validation


def svhn(root: Path) -> Source:
    """House numbers, 32 x 32 (Netzer et al. 2011): 73,257 to train, 26,032 to test. torchvision checks the MD5."""
    from torchvision import datasets

    with fetched(root, "SVHN", [archive.path for archive in downloads.SVHN], downloads.SVHN):
        train, test = (datasets.SVHN(root / "svhn", split=split) for split in ("train", "test"))

    def items(split: datasets.SVHN) -> Items:
        return Items(
            split.labels.tolist(), lambda index: split.data[index].transpose(1, 2, 0)
        )  # (3, H, W) -> (H, W, 3)

    return Source(tuple("0123456789"), items(train), items(test))


def stl10(root: Path, unlabelled: bool = False) -> Source:
    """Photographs, 96 x 96 (Coates et al. 2011): 5,000 to train, 8,000 to test, in ten classes; MD5 as torchvision's.

    unlabelled: the 100,000 without labels to train, and the test images without theirs.
    """
    from torchvision.datasets import STL10
    from torchvision.datasets.utils import check_integrity

    sums = dict([*STL10.train_list, *STL10.test_list])
    names = (
        ["unlabeled_X.bin", "test_X.bin"] if unlabelled else ["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"]
    )
    files = [f"stl10_binary/{name}" for name in names]
    with fetched(root, "STL10", files, downloads.STL10):
        for name, file in zip(names, files, strict=True):
            if not check_integrity(str(root / file), sums[name]):
                raise ValueError(f"{name} has another MD5 than the published one")
        folder = root / "stl10_binary"
        if unlabelled:
            return Source((), _stl10_items(folder, "unlabeled"), _stl10_items(folder, "test", labelled=False))
        classes = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
        return Source(
            classes, _stl10_items(folder, "train", labelled=True), _stl10_items(folder, "test", labelled=True)
        )


def _stl10_items(folder: Path, split: str, labelled: bool = False) -> Items:
    images = np.memmap(folder / f"{split}_X.bin", np.uint8, "r").reshape(-1, 3, STL10_SIDE, STL10_SIDE)  # (N, 3, W, H)
    labels = [0] * len(images)
    if labelled:
        labels = (np.fromfile(folder / f"{split}_y.bin", np.uint8).astype(int) - 1).tolist()  # 1..10 in the file
    return Items(labels, lambda index: images[index].transpose(2, 1, 0))  # (3, W, H) -> (H, W, 3)


def celeba(root: Path, megapixels: float) -> Source:
    """Faces, 178 x 218, aligned (Liu et al. 2015), read in their zip: 162,770 to train, 19,962 to test; no labels."""
    (archive,) = downloads.CELEBA
    with fetched(root, "CelebA", [archive.path], downloads.CELEBA):
        if sha256(root / archive.path) != archive.sha256:
            raise ValueError("it has another sha256 than the published one")
        images = ZipFolder(root / archive.path)

    def items(numbers: range) -> Items:
        def picture(index: int) -> Picture:
            with own_limits():
                name = ("img_align_celeba", f"{numbers[index]:06d}.jpg")
                return images.decode(name, megapixels, FORMATS, "data.max_megapixels")

        return Items([0] * len(numbers), picture)

    return Source((), items(CELEBA_TRAIN), items(CELEBA_TEST))
