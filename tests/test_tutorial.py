"""The tutorials of docs/tutorial.md, done as they stand there, in a clone."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.seeded_inception import write_weights
from pipeline.core.files import read_json
from pipeline.metrics.extractors import inception
from tests.clones import ROOT, environment, make_clone
from tests.pages import BLOCK

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FOLDER, SAMPLES = (part.partition("\n")[2] for part in TEXT.split("\n## ")[1:])


def follow(page: str, clone: Path, **variables: str) -> str:
    """Write the files of a page and run its commands, in their order; returns what the last block of them printed."""
    printed = ""
    for kind, name, content in BLOCK.findall(page):
        if kind == "python":
            (clone / name).write_text(content)
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", content],
                cwd=clone, env=environment() | variables, capture_output=True, text=True, timeout=600,
            )  # fmt: skip
            assert done.returncode == 0, f"{content}{done.stdout[-3000:]}{done.stderr[-3000:]}"
            printed = done.stdout
    return printed


def test_from_a_folder_of_images_to_the_report(tmp_path: Path) -> None:
    make_clone(tmp_path, {})
    printed = follow(FOLDER, tmp_path)
    assert "scores/dcgan-0" in printed and "scores/gan-0" in printed
    ranking = pd.read_csv(tmp_path / "reports" / "leaderboard.csv")
    assert sorted(ranking["model"]) == ["dcgan", "gan"] and ranking["rank"].tolist() == [1, 2]
    described = read_json(tmp_path / "data" / "prepared" / "dataset.json")
    assert described["train"] == 400 and described["classes"] == [f"class {digit}" for digit in range(10)]
    assert (tmp_path / "reports" / "report.html").stat().st_size > 100_000


def test_samples_under_several_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clone(tmp_path, {})
    draws = np.random.default_rng(0)
    for name in ("real", "samples"):
        (tmp_path / name).mkdir()
        for index in range(10):
            pixels = draws.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    # Inception's weights are not at hand, so seeded ones are where the page has them brought to, and are let through.
    weights = write_weights(tmp_path / "hub" / "checkpoints" / inception.FILE)
    assert weights.exists()
    page = SAMPLES.replace("--further-extractors", "--allow-unknown-weights --further-extractors")
    printed = follow(page, tmp_path, TORCH_HOME=str(tmp_path), HOME=os.environ["HOME"])
    rows = [line.split() for line in printed.splitlines()]
    distances = {name.split("_")[-1]: float(value) for name, value in rows if name.startswith("fd_inception")}
    assert set(distances) == {"tf", "clean"} | {next(iter(distances))} and len(set(distances.values())) == 3
    bundled = read_json(tmp_path / "bundled.json")["metrics"]["fd_efficientnet_lite0"]
    assert 0 < bundled < 1e6
