"""Nothing of params.yaml reaches a shell or a path outside the repository, by the real `dvc repro` and `make run`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clones import environment, make_clone, run

TINY = {"data.limit": 60, "compare.models": ["dcgan"], "metrics.bootstrap": 0, "runtime.tracking": False}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose data and reference are up to date, so that DVC turns to the legs at once."""
    folder = tmp_path_factory.mktemp("hostile") / "clone"
    make_clone(folder, TINY)
    (folder / "dvc.lock").unlink()
    run(folder, "dvc", "repro", "reference")
    return folder


def spoil(clone: Path, key: str, value: str) -> None:
    """Write a value under `compare:` or `data:`, as somebody's pull request may: no command of ours is involved."""
    path = clone / "params.yaml"
    text, count = re.subn(rf"(?m)^(  {key}: ).*$", lambda found: found[1] + value, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("command", [[sys.executable, "-m", "dvc", "repro"], ["make", "run"]], ids=["dvc", "make"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seeds", "['0$(touch struck)']"),
        ("seeds", "['0; touch struck']"),
        ("models", "['dcgan$(touch struck)']"),
        ("models", "['`touch struck`']"),
        ("models", "['../../outside']"),
        ("root", "$(touch struck)"),
    ],
)
def test_a_hostile_value_runs_nothing_and_removes_nothing(
    clone: Path, command: list[str], key: str, value: str
) -> None:
    kept = (clone / "params.yaml").read_bytes()
    outside = clone.parent / "outside-0" / "grids"
    outside.mkdir(parents=True, exist_ok=True)
    # The environment that make would set up is there already; without a shell in between $SHELL must not matter.
    venv = {"VENV": str(Path(sys.prefix))}
    try:
        spoil(clone, key, value)
        done = subprocess.run(
            [*command, *(f"{name}={place}" for name, place in venv.items() if command[0] == "make")],
            cwd=clone, env=environment() | {"HOME": os.environ["HOME"]}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    finally:
        (clone / "params.yaml").write_bytes(kept)
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in told, told[-2000:]
    assert not list(clone.rglob("struck")) and outside.is_dir()
    assert not (clone / "runs").exists(), "no leg was started"
