"""A study beside a running comparison: DVC is busy, and what is there is used if it fits."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ruamel.yaml import YAML

from pipeline.core.checksums import write_sums
from pipeline.core.errors import PipelineError
from pipeline.params import Params, load
from pipeline.search import __main__ as command

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A folder whose dvc.lock says that data and reference were made with the params of the repository; DVC is busy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: SimpleNamespace(wait=lambda: 255))
    found = load(ROOT / "params.yaml")
    whole = found.model_dump(mode="json")
    stages = {
        stage: {"cmd": "x", "params": {"params.yaml": {section: whole[section]}}}
        for stage, section in (("prepare", "data"), ("reference", "metrics"))
    }
    with open("dvc.lock", "w") as file:
        YAML(typ="safe", pure=True).dump({"schema": "2.0", "stages": stages}, file)
    for folder in ("data/prepared", "data/reference"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "a").write_text("whole")
        write_sums(Path(folder))
    return found


def test_what_fits_is_used(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    command._prepare(params)
    assert "was made with the present params" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["data", "metrics", "damaged", "no lock"])
def test_what_does_not_fit_is_refused(params: Params, fault: str) -> None:
    changes = {"data": {"data.limit": 9}, "metrics": {"metrics.bootstrap": 3}}.get(fault, {})
    if fault == "damaged":
        Path("data/reference/a").write_text("other")
    if fault == "no lock":
        Path("dvc.lock").unlink()
    with pytest.raises(PipelineError, match="if another `dvc repro` runs, wait for it"):
        command._prepare(params.override(changes))


def test_what_a_kill_left_of_dvcs_records_is_mended_and_dvc_tried_again(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [255, 0]
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: SimpleNamespace(wait=lambda: codes.pop(0)))
    monkeypatch.setattr("pipeline.repository.WRITING", 0.0)
    lock = Path("dvc.lock")
    lock.write_text(lock.read_text()[:21])
    command._prepare(params)
    assert (lock.exists(), Path("dvc.damaged").exists(), codes) == (False, True, [])
