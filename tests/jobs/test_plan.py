"""What is trained ahead: the longest first, nothing that is finished, and what the command refuses."""

import contextlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_estimates import cost_of
from pipeline.core.errors import PipelineError
from pipeline.gan.cost import step_cost
from pipeline.jobs import __main__ as command
from pipeline.jobs import plan
from pipeline.params import load
from tests.recipes import tiny_params

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = {"name": "x", "image_shape": [1, 16, 16], "classes": ["a"] * 3, "sha256": "0" * 64}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans the legs of dcgan, cnn and a wide dcgan with seeds 0 and 1; DVC would run all but dcgan-1."""
    monkeypatch.chdir(tmp_path)
    names = {"dcgan-0", "cnn-0", "cnn-1", "wide-0", "wide-1"}
    monkeypatch.setattr(plan, "legs_that_dvc_would_run", lambda asked: names & set(asked))
    params = tiny_params({"compare.seeds": [0, 1]}, dcgan={}, cnn={"network": "cnn"}, wide={"width_g": 32})
    return lambda: plan.make_plan(params.override({"compare.models": ["dcgan", "cnn", "wide"]}), DESCRIPTION)


def test_the_longest_first_and_nothing_finished(planned: Any) -> None:
    legs = planned()
    assert {leg.name for leg in legs} == {"dcgan-0", "cnn-0", "cnn-1", "wide-0", "wide-1"}
    left = [leg.work_left for leg in legs]
    assert left == sorted(left, reverse=True) and len(set(left)) == 3
    assert legs[-1].name == "dcgan-0" and left[-1] > 0
    longest = legs[0]
    folder = longest.experiment.work_folder()
    folder.mkdir(parents=True)
    (folder / f"step-{3:08d}-{'0' * 16}.safetensors").touch()  # of 4 steps, one is left
    again = {leg.name: leg.work_left for leg in planned()}
    assert again[longest.name] * 4 == longest.work_left
    (folder / f"step-{4:08d}-{'0' * 16}.safetensors").touch()
    (last,) = (leg for leg in planned() if leg.name == longest.name)  # a kill can have come before its last measurement
    assert last.work_left == 0
    runs = Path("runs") / longest.name
    for place, content in [(folder / "finished/run", "a"), (runs, "b"), (runs, "a")]:
        assert longest.name in {leg.name for leg in planned()}
        place.mkdir(parents=True, exist_ok=True)
        (place / "SHA256SUMS").write_text(content)
    assert longest.name not in {leg.name for leg in planned()}


@pytest.mark.parametrize(("codes", "torn", "fine"), [([0], True, True), ([1, 0], True, True), ([1, 1], True, False),
                                                     ([1], False, False)])  # fmt: skip
def test_what_a_kill_left_of_dvcs_records_is_mended_and_dvc_tried_again(
    codes: list[int], torn: bool, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.repository.WRITING", 0.0)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: SimpleNamespace(wait=lambda: codes.pop(0)))
    Path("dvc.lock").write_text("schema: '2.0'\nstages:\n  prep" if torn else "schema: '2.0'\nstages: {}\n")
    failed = len(codes) > 1
    with contextlib.nullcontext() if fine else pytest.raises(PipelineError, match=r"^data/reference is not up to date"):
        plan.bring_reference_up_to_date()
    assert codes == [] and Path("dvc.damaged").exists() is (torn and failed)


def test_the_cost_of_a_step_is_that_of_the_estimates() -> None:
    params = load(ROOT / "presets" / "cifar10.yaml")
    for name in ("dcgan", "wgan_gp"):
        recipe = params.models[name]
        assert step_cost(recipe, (3, 32, 32), 10) == cost_of(recipe, params).step


def refused(*arguments: str, **params: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        command._gpus(params.get("device", "auto"), command._options(list(arguments), "x").gpus)
    return str(caught.value)


def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("--gpus=2", device="cpu") == (
        "GPUS: 2 were asked for, but with runtime.device: cpu there are 0 here: use JOBS=2"
    )
    assert refused(device="cuda:1").startswith("runtime.device: must be auto or cuda for trainings side by side")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert "with CUDA there are 3 here" in refused("--gpus=4")
    assert command._gpus("auto", 2) == ["4", "6"] and command._gpus("cuda", None) == ["4", "6", "7"]
    assert command._gpus("cpu", None) == []


@pytest.mark.parametrize("value", ["0", "-1", "2x", "1025", "1.5", "two"])
def test_what_is_no_number_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--jobs", "--gpus"):
        with pytest.raises(SystemExit) as stop:
            command._options([f"{option}={value}"], "x")
        assert stop.value.code == 2
        assert f"{option}: must be a whole number from 1 to 1024, got {value}" in capsys.readouterr().err


def test_with_one_job_nothing_is_done_at_once() -> None:
    code = "import sys; from pipeline.jobs import __main__ as it; it.main(['--jobs=']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
