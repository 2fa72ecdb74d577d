"""What all tests share: how cases are drawn, and real data sets, if GAN_TEST_DATA names their folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.clones import hear_signals

hear_signals()
# The same cases every time, and no limit to the time of one: a busy machine is no fault.
settings.register_profile("ours", deadline=None, derandomize=True, database=None)
settings.load_profile("ours")


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
