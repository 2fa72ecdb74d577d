"""Archives of data sets, downloaded by https and used only if their sha256 is the known one.

torchvision would check an MD5 instead, and fall back to http if https fails.
"""

import contextlib
import gzip
import os
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import PipelineError, printable
from pipeline.core.files import atomic_path, sha256, storage_errors
from pipeline.data.pictures import reason_of

TIMEOUT = 60  # seconds without an answer


@dataclass(frozen=True)
class Archive:
    """A file to be had from `url`; `path` is its path below data.root. A .gz and a .tar.gz are unpacked beside it."""

    url: str
    path: str
    sha256: str


def fetch(archive: Archive, root: Path) -> None:
    """Unpack an archive below `root`; download it first if it is missing or has another sha256.

    Raises:
        OSError, ValueError: the download failed or has another sha256; then nothing is written.
    """
    path = root / archive.path
    if not (os.path.isfile(path) and sha256(path) == archive.sha256):
        with atomic_path(path) as temporary:
            _download(archive.url, temporary)
            if (found := sha256(temporary)) != archive.sha256:
                raise ValueError(f"{archive.url} has sha256 {found[:16]}..., expected {archive.sha256[:16]}...")
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as packed:
            packed.extractall(path.parent, filter="data")
    elif path.suffix == ".gz":
        with gzip.open(path) as content, atomic_path(path.with_suffix("")) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(content, file)


@contextlib.contextmanager
def fetched(root: Path, kind: str, files: Sequence[str], archives: Sequence[Archive]) -> Iterator[None]:
    """The data set `kind`: its `files` below `root`, downloaded first if one is missing, and read in the block.

    Raises:
        PipelineError: they cannot be had, or the block raised anything: they are damaged.
    """
    download = not all(os.path.isfile(root / file) for file in files)
    try:
        with storage_errors(root):
            for archive in archives if download else ():
                fetch(archive, root)
            yield
    except PipelineError:
        raise
    except Exception as error:  # URLError, and torchvision raises anything: RuntimeError, ValueError, KeyError ...
        reason = printable(reason_of(error), 200)
        place = printable(str(root), 200)
        folder = f"{place}/{Path(files[0]).parent}"
        if download:
            packed = ", ".join(archive.path for archive in archives)
            fault = "does not exist and cannot be downloaded"
            remedy = f"put {packed} into {place}"
        else:
            fault = "is damaged"
            remedy = f"delete the files {', '.join(Path(file).name for file in files)} there"
        raise PipelineError(f"{kind} in {folder} {fault} ({reason}): {remedy} and run the command again") from error


def _download(url: str, path: Path) -> None:
    assert url.startswith("https://"), url
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, path.open("wb") as file:
        if not answer.url.startswith("https://"):
            raise ValueError(f"it redirects to {answer.url}, which is not https")
        shutil.copyfileobj(answer, file)


def _idx(kind: str, url: str, **sums: str) -> tuple[Archive, ...]:
    return tuple(
        Archive(f"{url}/{name}", f"{kind}/raw/{name}", sums[key])
        for key, name in (
            ("train", "train-images-idx3-ubyte.gz"),
            ("train_labels", "train-labels-idx1-ubyte.gz"),
            ("test", "t10k-images-idx3-ubyte.gz"),
            ("test_labels", "t10k-labels-idx1-ubyte.gz"),
        )
    )


MNIST = _idx(
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    train="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    train_labels="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    test="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    test_labels="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
FASHION_MNIST = _idx(
    "FashionMNIST",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    train="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    train_labels="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    test="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    test_labels="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
CIFAR10 = (
    Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
)
CIFAR100 = (
    Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
)
SVHN = tuple(
    Archive(f"https://ufldl.stanford.edu/housenumbers/{name}", f"svhn/{name}", digest)
    for name, digest in (
        ("train_32x32.mat", "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
        ("test_32x32.mat", "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
    )
)
STL10 = (
    Archive(
        "https://cs.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        "stl10_binary.tar.gz",
        "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
    ),
)
CELEBA = (
    Archive(
        "https://s3.amazonaws.com/pytorch-tutorial-assets/img_align_celeba.zip",
        "celeba/img_align_celeba.zip",
        "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
    ),
)
