"""An empty current folder, and two comparisons in it."""

from pathlib import Path

import pytest

from pipeline.params import Params
from tests.report.files import compare, make_data, make_experiment


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def three() -> Params:
    """dcgan 400, sagan 200, resnet 300, one seed; a stale folder of another model lies beside them."""
    make_data()
    for model, value in [("dcgan", 400.0), ("sagan", 200.0), ("resnet", 300.0), ("stale", 1.0)]:
        make_experiment(model, 0, value)
    return compare(["dcgan", "sagan", "resnet"], [0])


@pytest.fixture
def seeds() -> Params:
    """dcgan 100 and 140, mean 120, deviation 28.28; sagan 110 and 120, mean 115, deviation 7.07."""
    make_data()
    for model, seed, value in [("dcgan", 0, 100.0), ("dcgan", 1, 140.0), ("sagan", 0, 120.0), ("sagan", 1, 110.0)]:
        make_experiment(model, seed, value)
    return compare(["dcgan", "sagan"], [0, 1])
