"""The walkthroughs of CONTRIBUTING.md, done as they stand there, in a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pages import BLOCK, ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKTHROUGHS = {
    part.splitlines()[0]: part for part in TEXT.split("\n## ") if part.startswith("Add ")
}  # title -> all of its section


def changed(text: str, diff: str) -> str:
    """A file's text with the + lines of a diff below the lines that begin as its other lines do."""
    lines, place = text.splitlines(), 0
    for line in diff.splitlines():
        if line.startswith(" "):
            place = next(i for i in range(place, len(lines)) if lines[i].startswith(line[1:])) + 1
        elif line.startswith("+"):
            lines.insert(place, line[1:])
            place += 1
        else:
            assert line == "@@"
    return "\n".join(lines) + "\n"


def test_what_is_added_and_where() -> None:
    assert changed("import a\nimport b\n\nX = {\n}\n", " import a\n+import c\n@@\n X =\n+    1: 2,\n") == (
        "import a\nimport c\nimport b\n\nX = {\n    1: 2,\n}\n"
    )
    with pytest.raises(StopIteration):
        changed("import a\n", " import b\n+import c\n")


def test_every_walkthrough_is_here() -> None:
    assert list(WALKTHROUGHS) == [
        "Add a network", "Add a metric with an extractor of its own", "Add a data set", "Add a regulariser",
    ]  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what a walkthrough touches, and two folders of images, A and B."""
    for name in ("pipeline", "tests", "presets", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc")
    draws = np.random.default_rng(0)
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        for index in range(12):
            image = Image.fromarray(draws.integers(0, 256, (16, 16, 3)).astype(np.uint8))
            image.save(tmp_path / folder / f"{index}.png")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("title", WALKTHROUGHS)
def test_a_walkthrough_works_as_it_is_written(title: str, copy: Path) -> None:
    blocks = BLOCK.findall(WALKTHROUGHS[title])
    env = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    for kind, place, content in blocks:
        if kind == "python":
            assert not (copy / place).exists()
            (copy / place).write_text(content)
        elif kind == "diff":
            (copy / place).write_text(changed((copy / place).read_text(), content))
    run(sys.executable, "-m", "ruff", "check", "-q", "--fix", "pipeline")
    run(sys.executable, "-m", "ruff", "format", "-q", "--check", "pipeline")
    printed = ""
    for command in [line for kind, _, content in blocks if kind == "sh" for line in content.splitlines()]:
        words = shlex.split(command)
        assert words[:2] == ["python", "-m"]
        printed += run(sys.executable, *words[1:])
    counts = re.findall(r"(\d+) passed", printed)
    assert not counts or int(counts[0]) >= 3, "too few tests know the new entry"
