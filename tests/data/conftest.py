"""A folder of a hundred images."""

from pathlib import Path

import pytest

from tests.data.samples import save


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    for i in range(100):
        save(tmp_path / "images" / f"{i:03d}.png", i)
    return tmp_path / "images"
