"""The registry of data sets, downloads, and real data."""

import shutil
import urllib.error
import urllib.request
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from pipeline.core.errors import PipelineError
from pipeline.data import datasets
from pipeline.data.datasets import DATASETS, expected_classes
from pipeline.data.pictures import to_row
from pipeline.data.prepared import load_images, prepare
from pipeline.data.source import Items, Source
from pipeline.data.stacked import stacked
from tests.data.samples import content_hash, params, refused, save
from tests.data.test_raw_files import MADE

pytestmark = pytest.mark.filterwarnings("error")  # Pillow's and numpy's warnings must never reach a user


def test_unknown_name() -> None:
    with pytest.raises(
        PipelineError, match=r"'digit'; did you mean 'digits'\? Choices: celeba, cifar10, cifar100, digits"
    ):
        prepare(params(dataset="digit"), Path("never"))
    assert not Path("never").exists()


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    settings = params(dataset="digits", channels=1, image_size=8, test_fraction=0.2)
    description, out = prepare(settings, tmp_path / "out"), tmp_path / "out"
    assert (description["train"], description["test"]) == (1438, 359)  # round(0.2 * 1797) = 359
    assert description["classes"] == list("0123456789") and description["image_shape"] == [1, 8, 8]
    train, test = load_images(out, "train", "cpu"), load_images(out, "test", "cpu")
    assert description["class_counts"] == torch.bincount(train.labels).tolist()
    counts = torch.bincount(torch.cat([train.labels, test.labels]))
    assert counts.tolist() == np.bincount(load_digits().target).tolist()
    images = torch.cat([train.images, test.images])
    assert set(images.unique().tolist()) == {round(value * 255 / 16) for value in range(17)}
    assert images.sum().item() == sum(round(value * 255 / 16) for value in load_digits().images.flatten())


def sources() -> list[Any]:
    return [pytest.param(name, id=name) for name in DATASETS if name not in MADE]


@pytest.mark.slow
@pytest.mark.parametrize("name", sources())
def test_every_source_keeps_its_contract(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Runs over the registry: what `Source` promises, and what `prepare` makes of it."""
    if name == "folder":
        root = tmp_path / "images"
        for i in range(12):
            save(root / "ab"[i % 2] / f"{i}.png", i)
    else:
        root = tmp_path if name == "digits" else request.getfixturevalue("real_root")
    source = DATASETS[name](params(dataset=name, root=str(root)))
    assert isinstance(source, Source) and len(source.train.labels) >= 2 and source.classes
    assert isinstance(source.train.picture(len(source.train.labels) - 1), Image.Image | np.ndarray)
    assert all(type(label) is int and 0 <= label < len(source.classes) for label in source.train.labels)
    for channels in (3,) if name == "stacked_mnist" else (1, 3):
        settings = params(dataset=name, root=str(root), channels=channels, image_size=12, limit=50)
        description = prepare(settings, tmp_path / "out")
        images = load_images(tmp_path / "out", "train", "cpu")
        assert images.images.shape == (description["train"], channels, 12, 12)
        assert images.images.float().std() > 1 and description["classes"] == list(source.classes)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_no_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    sentence = refused(tmp_path / "raw", dataset=name)
    kind, file = {
        "mnist": ("MNIST", "MNIST/raw/t10k-labels-idx1-ubyte.gz"),
        "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte.gz"),
        "cifar10": ("CIFAR10", "cifar-10-python.tar.gz"),
    }[name]
    assert sentence.startswith(f"{kind} in {tmp_path / 'raw'}/") and "Name or service not known" in sentence
    assert file in sentence and f"into {tmp_path / 'raw'} and run the command again" in sentence


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03" + b"\0" * 9, b"nonsense, at some length"])
def test_a_damaged_mnist_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in datasets._IDX:
        (raw / name).write_bytes(content)
    sentence = refused(tmp_path / "root", dataset="mnist")
    assert sentence.startswith(f"MNIST in {raw} is damaged") and "delete the files train-images-idx3-ubyte" in sentence


def test_a_forged_cifar10_is_never_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    trap = tmp_path / "executed"
    for name in datasets._CIFAR10:  # protocol 0: call os.system on load
        (folder / name).write_bytes(f"cos\nsystem\n(S'touch {trap}'\ntR.".encode())
    sentence = refused(tmp_path / "root", dataset="cifar10")
    assert sentence.startswith(f"CIFAR10 in {folder} is damaged") and "batches.meta" in sentence
    assert not trap.exists()


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, shape, train, test, first",
    [
        ("mnist", (1, 28, 28), MNIST_TRAIN, MNIST_TEST, (5, 7)),
        ("fashion_mnist", (1, 28, 28), [6000] * 10, [1000] * 10, (9, 9)),
        ("cifar10", (3, 32, 32), [5000] * 10, [1000] * 10, (6, 3)),
    ],
)
def test_real_sets(
    name: str, shape: tuple[int, int, int], train: list[int], test: list[int], first: tuple[int, int],
    real_root: Path, tmp_path: Path,
) -> None:  # fmt: skip
    settings = params(dataset=name, root=str(real_root), channels=shape[0], image_size=shape[1])
    description = prepare(settings, tmp_path / "out")
    assert (description["train"], description["test"]) == (sum(train), sum(test))
    assert description["source_size"]["images_changed"] == 0 and description["skipped"] == {}
    kind = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name]
    for split, histogram, label in (("train", train, first[0]), ("test", test, first[1])):
        images = load_images(tmp_path / "out", split, "cpu")
        assert images.images.shape == (sum(histogram), *shape)
        assert torch.bincount(images.labels).tolist() == histogram and images.labels[0] == label
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's on the old pickles
            original = getattr(torchvision_datasets, kind)(real_root, train=split == "train").data
        values = np.asarray(original).reshape(len(original), *shape[1:], shape[0]).transpose(0, 3, 1, 2)
        assert np.array_equal(images.images.numpy(), values)
    arrays = {path.stem: np.load(path) for path in (tmp_path / "out").glob("*.npy")}
    assert description["sha256"] == content_hash(arrays)


class Made:
    """A data set of grey digits: image i of a split is all `first` + i, and its label is i % 10."""

    def __init__(self, first: int, count: int) -> None:
        self.items = Items([i % 10 for i in range(count)], lambda i: np.full((6, 5), first + i, np.uint8))


def test_stacked_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digits = Source(tuple("0123456789"), Made(0, 100).items, Made(100, 30).items, {"junk": 2})
    monkeypatch.setitem(DATASETS, "mnist", lambda settings: digits)
    source = DATASETS["stacked_mnist"](params(dataset="stacked_mnist", channels=3, seed=4))
    assert len(source.classes) == 1000 and source.classes[:2] == ("000", "001") and source.classes[-1] == "999"
    assert source.test is not None and source.skipped == {"junk": 2}
    for items, first, count in ((source.train, 0, 100), (source.test, 100, 30)):
        pictures = [np.asarray(items.picture(i)) for i in range(len(items.labels))]
        assert len(pictures) == count and {picture.shape for picture in pictures} == {(6, 5, 3)}
        values = np.stack([picture[0, 0].astype(int) - first for picture in pictures])  # (N, 3)
        assert [sorted(column) for column in values.T.tolist()] == [list(range(count))] * 3  # each digit once
        assert items.labels == (values % 10 @ [100, 10, 1]).tolist()
        assert len({tuple(row) for row in values.T.tolist()}) == 3  # in other orders
    again, other = (stacked(digits, seed).train.labels for seed in (4, 5))
    assert again == source.train.labels != other
    description = prepare(params(dataset="stacked_mnist", channels=3, image_size=8), tmp_path / "out")
    assert description["name"] == "stacked_mnist" and len(description["classes"]) == 1000
    assert "set data.channels: 3" in refused(tmp_path, dataset="stacked_mnist", channels=1)
    assert expected_classes(params(dataset="stacked_mnist")) == 1000 and expected_classes(params(dataset="mnist")) == 10


@pytest.mark.slow
def test_a_damaged_real_cifar10(real_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(real_root / "cifar-10-batches-py", root / "cifar-10-batches-py")
    with open(root / "cifar-10-batches-py" / "test_batch", "r+b") as file:
        file.seek(10**6)
        file.write(b"\0\1\2\3")
    assert "CIFAR10 in" in (sentence := refused(root, dataset="cifar10")) and "is damaged" in sentence


@pytest.mark.slow
def test_real_tiles(shared_data: Path, tmp_path: Path) -> None:
    """Palette, RGBA, RGB, L and LA tiles against the same as arrays: on black, and 14 of them in another order."""
    with zipfile.ZipFile(shared_data / "tiles32" / "tiles32_png.zip") as archive:
        archive.extractall(tmp_path / "images")
    arrays = np.load(shared_data / "tiles32" / "tiles32.npz")
    source = DATASETS["folder"](params(root=str(tmp_path / "images")))
    assert source.classes == tuple(arrays["classes"]) and source.test is None and len(source.train.labels) == 2672
    modes, found, transparent = Counter[str](), Counter[tuple[int, bytes]](), 0
    for i, label in enumerate(source.train.labels):
        picture = source.train.picture(i)
        assert isinstance(picture, Image.Image)
        modes[picture.mode] += 1
        rgba = picture.convert("RGBA")
        alpha, row = np.asarray(rgba)[..., 3], to_row(picture, 3, 32).transpose(1, 2, 0)
        on_black = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba))[..., :3]
        found[label, on_black.tobytes()] += 1
        # On white, a pixel is lighter by what its transparency lets through; rounding may take 1 either way.
        lighter = row.astype(int) - on_black - (255 - alpha[..., None].astype(int))
        assert np.abs(lighter).max() <= 1 and not lighter[(alpha == 255) | (alpha == 0)].any()
        transparent += int((alpha < 255).any())
    assert found == Counter((int(y), x.tobytes()) for x, y in zip(arrays["x"], arrays["y"], strict=True))
    assert modes == {"P": 1877, "RGBA": 536, "RGB": 224, "L": 30, "LA": 5} and transparent > 500
    description = prepare(params(root=str(tmp_path / "images"), image_size=32), tmp_path / "out")
    labels = np.concatenate([np.load(tmp_path / "out" / f"{split}_labels.npy") for split in ("train", "test")])
    assert (np.bincount(labels) == np.bincount(arrays["y"])).all() and description["test"] == 668
