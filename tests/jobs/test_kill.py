"""Trainings side by side in a clone: killed and started again, they end with the bits of trainings alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clones import environment, make_clone, run

STEPS = 60
CHANGES = {
    "train.steps": STEPS, "train.report_every": 20, "train.score_every": STEPS, "train.grid_every": STEPS,
    "train.score_samples": 10, "data.limit": 100, "runtime.checkpoint_every": 1, "runtime.device": "cpu",
    "runtime.tracking": False, "runtime.log_model": False, "compare.models": ["dcgan", "resnet"],
    "recipe.width_g": 8, "recipe.width_d": 8, "models.dcgan.width_g": 8, "models.dcgan.width_d": 8,
}  # fmt: skip
JOBS = ("pipeline.jobs", "--jobs=2")


def sums(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("runs/*/SHA256SUMS"))]


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: Path) -> None:
    make_clone(tmp_path, CHANGES)
    parent = subprocess.Popen([sys.executable, "-m", *JOBS], cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len({path.parent for path in tmp_path.glob(".work/*/step-*")}) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True).stdout.split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert children
    deadline = time.monotonic() + 60  # of its own: a busy machine may have used up the first
    while any(Path(f"/proc/{child}/cmdline").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
    assert len(sums(tmp_path)) < 2
    ended = run(tmp_path, *JOBS)
    assert "2 trainings are finished" in ended.stderr and ended.stderr.count("finished  60/60") >= 2
    beside = sums(tmp_path)
    assert "there is nothing to train" in run(tmp_path, *JOBS).stderr
    for name in (".work", "runs"):
        shutil.rmtree(tmp_path / name)
    for model in ("dcgan", "resnet"):
        run(tmp_path, "pipeline.stages.train", "--model", model, "--seed", "0")
    assert sums(tmp_path) == beside and len(beside) == 2
