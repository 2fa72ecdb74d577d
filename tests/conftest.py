"""Real data sets for the tests that ask for them, if GAN_TEST_DATA names their folder: see docs/development.md."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clones import hear_signals

hear_signals()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder that GAN_TEST_DATA names; without it the test is skipped."""
    place = os.environ.get("GAN_TEST_DATA")
    if not place:
        pytest.skip("GAN_TEST_DATA is not set: docs/development.md says what the tests on real data need")
    return Path(place)


@pytest.fixture(scope="session")
def real_root(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST and FashionMNIST as downloaded (.gz, unpacked by torchvision without network), and CIFAR-10 rebuilt."""
    root = tmp_path_factory.mktemp("raw")
    for kind in ("MNIST", "FashionMNIST"):
        (root / kind / "raw").mkdir(parents=True)
        for file in (shared_data / "torchvision-gz" / kind / "raw").glob("*.gz"):
            shutil.copyfile(file, root / kind / "raw" / file.name)
    rebuild_cifar10(shared_data, root)
    return root


def rebuild_cifar10(shared_data: Path, root: Path) -> None:
    """Write CIFAR-10's batches below `root`, as torchvision lays them out."""
    script, pack = shared_data / "rebuild_cifar10.py", shared_data / "cifar10"
    subprocess.run([sys.executable, script, pack, root], check=True, capture_output=True)
