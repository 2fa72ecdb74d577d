"""`pytorch-fid` and `python -m pipeline.metrics` on the same PNG folders and the same weights, end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy
from PIL import Image

from benchmarks.seeded_inception import write_weights
from pipeline.metrics.extractors import inception

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: object, hub: Path) -> str:
    environment = {**os.environ, "TORCH_HOME": str(hub), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18), reason="pytorch-fid 0.3 calls an older scipy's sqrtm"
)
def test_the_command_agrees_with_pytorch_fids(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "hub/checkpoints" / inception.FILE)
    source = np.random.default_rng(0)
    for folder, (low, high) in {"real": (0, 256), "generated": (60, 220)}.items():
        (tmp_path / folder).mkdir()
        for index in range(13):
            coarse = Image.fromarray(source.integers(low, high, (8, 8, 3), dtype=np.uint8))
            coarse.resize((32, 32), Image.Resampling.BICUBIC).save(tmp_path / folder / f"{index}.png")
    folders = [tmp_path / "real", tmp_path / "generated"]
    printed = command("pytorch_fid", *folders, "--device", "cpu", "--num-workers", "0", hub=tmp_path)
    theirs = float(printed.split()[-1])
    flags = ["--weights", weights, "--allow-unknown-weights", "--no-cache", "--batch-size", "5", "--bootstrap", "0"]
    ours = json.loads(command("pipeline.metrics", *folders, "--device", "cpu", *flags, hub=tmp_path))
    (value,) = [value for name, value in ours["metrics"].items() if name.startswith("fd_inception_")]
    statistics = tmp_path / "real.npz"
    command("pipeline.metrics", folders[0], "--save", statistics, "--device", "cpu", *flags, hub=tmp_path)
    trace = float(np.trace(np.load(statistics)["sigma"]))
    # 13 images of 2,048 dimensions: pytorch-fid adds 1e-6 to a singular covariance's diagonal, and is the inexact side
    assert value == pytest.approx(theirs, abs=2e-5 * trace)
    assert value > 100 * 2e-5 * trace
