"""The table of how long stages took."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import seconds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def test_a_stage_of_dvc_keeps_its_seconds(folder: Path) -> None:
    code = "import time; from pipeline.core.seconds import note_seconds; time.sleep(0.3); note_seconds()"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)  # by hand
    assert not (folder / ".work").exists()
    subprocess.run([sys.executable, "-c", code], env=env | {"DVC_STAGE": "train@dcgan-0"}, check=True)
    spent = json.loads((folder / ".work" / "seconds" / "train@dcgan-0.json").read_text())
    assert 0.3 <= spent["seconds"] < 10 and 0 < spent["cpu"] < 10 and spent["ended"] > 1.7e9


def test_the_table(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train@dcgan-0")
    seconds.note_seconds()
    path = folder / ".work" / "seconds" / "train@dcgan-0.json"
    path.write_text(json.dumps({"ended": 1.8e9, "seconds": 20.04, "cpu": 30.0}))
    (path.parent / "prepare.json").write_text(json.dumps({"ended": 1.7e9, "seconds": 2.5, "cpu": 1.25}))
    (folder / "runs" / "dcgan-0").mkdir(parents=True)
    (folder / "runs" / "dcgan-0" / "timing.csv").write_text("step,images,seconds\n50,3200,2.5\n100,6400,4.92\n")
    seconds.main()
    head, first, second, last = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "stage" and "of which training" in head
    assert first.split()[:3] == ["prepare", "2.5", "1.2"]
    assert second.split()[:4] == ["train@dcgan-0", "20.0", "4.9", "30.0"]
    assert last.split() == ["sum", "22.5", "31.2"]


def test_no_stage_has_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds.main()
    assert capsys.readouterr().out.splitlines()[-1].split() == ["sum", "0.0", "0.0"]
