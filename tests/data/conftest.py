"""A folder of a hundred images; real data sets where GAN_TEST_DATA names a folder laid out as its README.md says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.samples import save


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    for i in range(100):
        save(tmp_path / "images" / f"{i:03d}.png", i)
    return tmp_path / "images"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    place = os.environ.get("GAN_TEST_DATA")
    if not place:
        pytest.skip("GAN_TEST_DATA is not set: the tests on real data need a folder laid out as its README.md says")
    return Path(place)


@pytest.fixture(scope="session")
def real_root(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST and FashionMNIST as downloaded (.gz, unpacked by torchvision without network), and CIFAR-10 rebuilt."""
    root = tmp_path_factory.mktemp("raw")
    for kind in ("MNIST", "FashionMNIST"):
        (root / kind / "raw").mkdir(parents=True)
        for file in (shared_data / "torchvision-gz" / kind / "raw").glob("*.gz"):
            shutil.copyfile(file, root / kind / "raw" / file.name)
    script, pack = shared_data / "rebuild_cifar10.py", shared_data / "cifar10"
    subprocess.run([sys.executable, script, pack, root], check=True, capture_output=True)
    return root
