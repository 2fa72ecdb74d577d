"""What stages share: the end of each, at which nothing that DVC notes then may have been changed meanwhile."""

import runpy
import shutil
from pathlib import Path

import pytest

from pipeline import params, stages
from pipeline.core.errors import PipelineError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """The params of a stage that runs, in a folder with its params.yaml."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return params.load()


def test_params_that_were_changed_meanwhile(begun: params.Params) -> None:
    stages.finish(begun, "train", "models.dcgan", "metrics.extractor")
    params.save({"models.sagan.lr_g": 0.5, "metrics.batch_size": 7})
    stages.finish(begun, "train", "models.dcgan", "metrics.extractor")
    params.save({"models.dcgan.lr_g": 0.5})
    stages.finish(begun, "train", "models.sagan.lr_d")
    with pytest.raises(
        PipelineError, match=r"^models\.dcgan of params\.yaml was changed while this ran: .* run the same"
    ):
        stages.finish(begun, "train", "models.dcgan")


def test_code_that_was_changed_meanwhile(begun: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stages.CODE, str(ROOT / "pipeline/imported_by_nobody.py"), "")
    stages.finish(begun)
    monkeypatch.setitem(stages.CODE, params.__file__, "as it was")
    with pytest.raises(PipelineError, match=r"pipeline/params/__init__\.py was changed while this ran"):
        stages.finish(begun)


@pytest.mark.parametrize(
    ("stage", "leg"),
    [("train@dcgan-0", ("dcgan", 0)), ("generate@wgan_gp_resnet-12", ("wgan_gp_resnet", 12)), ("fid@9-7", ("9", 7))],
)
def test_a_leg_is_what_dvc_calls_it(monkeypatch: pytest.MonkeyPatch, stage: str, leg: tuple[str, int]) -> None:
    monkeypatch.setenv("DVC_STAGE", stage)
    options = stages.experiment_options([])
    assert (options.model, options.seed) == leg
    options = stages.experiment_options(["--model", "sagan", "--seed", "3"])  # what is said counts
    assert (options.model, options.seed) == ("sagan", 3)


@pytest.mark.parametrize(
    "stage", ["", "prepare", "train@dcgan", "train@../x-0", "train@a b-0", "train@dcgan-0;x", "-0"]
)
def test_without_a_leg_model_and_seed_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_STAGE", stage)
    with pytest.raises(SystemExit) as stop:
        stages.experiment_options([])
    assert stop.value.code == 2 and "--model, --seed" in capsys.readouterr().err


def test_a_changed_shared_value_counts_where_it_is_declared(begun: params.Params) -> None:
    params.save({"recipe.lr_d": 0.5})
    stages.finish(begun, "train", "models.sagan")  # which has an lr_d of its own
    for declared in ("recipe", "models.resnet"):
        with pytest.raises(PipelineError, match=rf"^{declared} of params\.yaml was changed while this ran"):
            stages.finish(begun, "train", declared)


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--limit=5", 2), ("dcgan", 2)])
def test_a_stage_without_options_does_nothing_where_some_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argument: str, status: int
) -> None:
    monkeypatch.chdir(tmp_path)  # without params.yaml: had the stage begun, it would end with 2 and say so
    monkeypatch.setattr("sys.argv", ["check.py", argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "pipeline/stages/check.py"), run_name="__main__")
    said = "".join(capsys.readouterr())
    assert ended.value.code == status and said.startswith("usage: check.py [-h]") and "params.yaml can" not in said
