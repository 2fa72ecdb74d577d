"""The Makefile: what a user gives it reaches the program that it starts letter by letter, and is never evaluated."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clones import environment

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# A stand-in for python, dvc and pip: it writes down what it is given, an argument a line.
STUB = '#!/bin/sh\nfor one in "$(basename "$0")" "$@"; do printf "%s\\n" "$one"; done >>"$TOLD"\n'

HOSTILE = [
    "$(touch struck)",
    "$$(touch struck)",
    "$(shell touch struck)",
    "`touch struck`",
    "x; touch struck; x",
    '"; touch struck; "',
    "'; touch struck; '",
    "x & touch struck & x",
    "x\ntouch struck",
    "$${IFS}|touch struck",
    "$(eval X := $(shell touch struck))x",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the Makefile with everything installed, as it seems, and stubs instead of the programs."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-cluster.txt"):
        (tmp_path / name).touch()
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "dvc"):
        (programs / name).write_text(STUB)
        (programs / name).chmod(0o755)
    for name in ("installed", "installed-dev"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def make(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, list[str]]:
    """Exit status, what was printed, and what the stubs were given."""
    told = folder / "told"
    told.unlink(missing_ok=True)
    command, env = ["make", "--no-print-directory", *arguments], os.environ | {"TOLD": str(told)} | variables
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr, told.read_text().splitlines() if told.exists() else []


def test_what_is_asked_is_what_is_run(folder: Path) -> None:
    code, text, told = make(folder, "compare", "MODELS=  dcgan  sagan ")
    assert code == 0 and "http://127.0.0.1:5000" in text
    assert told[:5] == ["python", "-m", "pipeline.params", "set", "compare.models=[dcgan,sagan]"]
    checked = ["python", "-m", "pipeline.check", "python", "-m", "pipeline.jobs"]
    rerun = ["dvc", "repro", "python", "-m", "pipeline.core.seconds"]
    assert told[5:] == [*checked, "--jobs=", "--gpus=", *rerun]
    _, _, told = make(folder, "run", "JOBS=2", GPUS="4")
    assert told == [*checked, "--jobs=2", "--gpus=4", *rerun]
    _, _, told = make(folder, "search", "MODEL=sagan", "WORKERS=2")
    assert told == ["python", "-m", "pipeline.search", "--model=sagan", "--trials=24", "--workers=2"]
    _, _, told = make(folder, "faults", "KILLS=7", SEED="3")
    assert told == ["python", "-m", "tests.faults", "--seed=3", "--kills=7"]
    assert make(folder, "run", "PORT=81")[1].endswith("http://127.0.0.1:81\n")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("compare", "MODELS"), ("search", "MODEL"), ("search", "TRIALS"), ("search", "WORKERS"), ("faults", "SEED"),
        ("faults", "KILLS"), ("ui", "PORT"), ("run", "PORT"),
        ("run", "JOBS"), ("run", "GPUS"),
    ],
)  # fmt: skip
def test_nothing_of_a_value_is_evaluated(folder: Path, target: str, name: str, value: str) -> None:
    others = ["MODEL=sagan"] if target == "search" and name != "MODEL" else []
    for given in ([target, f"{name}={value}", *others], [target, *others]):
        by_environment = {} if len(given) > 1 + len(others) else {name: value}
        code, text, told = make(folder, *given, **by_environment)
        assert code == 0, text
        assert not list(folder.rglob("struck"))
        heard = text if name == "PORT" and target == "run" else "\n".join(told)
        wanted = ",".join(value.split()) if name == "MODELS" else value
        # a list of names is split at blanks, as a user writes it; everything else arrives as it was given
        assert wanted in heard, heard


def test_recipes_hold_no_setting_of_a_user() -> None:
    """Whatever make itself puts into a recipe is read by a shell: only what this file says may be put there."""
    recipes = re.findall(r"(?m)^\t.*(?:\\\n.*)*|(?s:^define.*?^endef)", MAKEFILE)
    assert len(recipes) > 20
    put = {name for recipe in recipes for name in re.findall(r"(?<!\$)\$[({](\w+)[)}]", recipe)}
    assert put == {"TESTS", "repro"}
    settings = re.search(r"(?m)^SETTINGS := (.*)$", MAKEFILE)
    assert settings is not None
    assert set(re.findall(r"(?m)^(\w+) +\?=", MAKEFILE)) <= set(settings[1].split())


@pytest.mark.parametrize(("target", "name"), [("compare", "MODELS"), ("search", "MODEL")])
def test_what_is_missing_is_said_before_anything_is_installed(folder: Path, target: str, name: str) -> None:
    shutil.rmtree(folder / ".venv")
    for given in ([], [f"{name}=  "]):
        code, text, told = make(folder, target, *given)
        assert code == 2 and f"error: {name} is missing" in text and not told
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("value", ["", "  ", "my venv"])
def test_an_environment_without_a_place_of_its_own_is_refused(folder: Path, value: str) -> None:
    """Empty, it would be made in the repository's root, and noted as installed in that of the file system."""
    before = sorted(folder.rglob("*"))
    for given, variables in ((["run", f"VENV={value}"], {}), (["run"], {"VENV": value})):
        code, text, told = make(folder, *given, **variables)
        assert code == 2 and "VENV must be the path of a folder, without blanks" in text and not told
    assert sorted(folder.rglob("*")) == before


def test_the_end_to_end_tests_exist_and_every_test_runs_once() -> None:
    shown = subprocess.run(["make", "-n", "test"], cwd=ROOT, env=environment(), capture_output=True, text=True)
    files = [word for word in shown.stdout.split() if word.startswith("tests/")]
    assert sorted(files) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))


def test_a_busy_port_is_said_before_an_address_is_promised(folder: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.tracking.ui", f"--port={port}"], cwd=ROOT, env=environment(),
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"error: port {port} cannot be used (address already in use): name another")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("port", ["0", "65536", "5000x", "-1", "$(touch x)", ""])
def test_what_is_no_port_is_refused(port: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.tracking.ui", f"--port={port}"], cwd=ROOT, env=environment(),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "must be a port, 1 to 65535" in done.stderr and "Traceback" not in done.stderr
