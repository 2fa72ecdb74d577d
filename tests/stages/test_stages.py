"""What stages share: the end of each, at which nothing that DVC notes then may have been changed meanwhile."""

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
