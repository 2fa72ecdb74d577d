"""Every test of searches runs in an empty folder of its own."""

from pathlib import Path

import optuna
import pytest


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a test runs in, in which nothing of DVC's is set."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
