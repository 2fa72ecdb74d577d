"""A study end to end, as a user runs it: killed workers, a killed parent, the winner in params.yaml and trained."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial
from ruamel.yaml import YAML

from pipeline import params
from pipeline.search.study.storage import FINALS, open_study
from tests.clones import environment, make_clone, run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "data.limit": 96, "train.steps": 6, "train.report_every": 2, "train.grid_every": 3, "train.score_every": 3,
    "train.score_samples": 16, "generate.samples": 20, "runtime.device": "cpu", "runtime.checkpoint_every": 2,
    "runtime.log_model": False, "runtime.tracking": False, "models.dcgan.width_g": 8, "models.dcgan.width_d": 8,
    "models.dcgan.latent_dim": 4, "models.dcgan.batch_size": 8, "compare.models": ["dcgan"],
    "search.sampler": "random", "search.pruner": "none", "search.steps": 60, "search.score_every": 30,
    "search.samples": 16, "search.finalists": 1, "search.final_seeds": [101],
}  # fmt: skip
STUDY = ("pipeline.search", "--model", "dcgan", "--trials", "4")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repository as it would be committed now, with tiny params; the study has run, undisturbed, on one worker."""
    folder = tmp_path_factory.mktemp("clone") / "repo"
    make_clone(folder, TINY)
    run(folder, *STUDY)
    yield folder


def trials(folder: Path) -> list[FrozenTrial]:
    ref = open_study(str(folder / ".work/search/studies.journal"), "dcgan")
    return ref.storage.get_all_trials(ref.study_id)


def a_trainer(folder: Path, but: int = 0) -> tuple[int, Path]:
    """The process and the folder of a trial that has a checkpoint."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for path in (folder / ".work").glob("dcgan-100-*/step-0000[012]*.safetensors"):
            pid = int((path.parent / "lock").read_text() or 0)
            if pid not in (0, but) and alive(pid):
                return pid, path.parent
        time.sleep(0.005)
    pytest.fail("no trial is trained")


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_killed_workers_and_a_killed_parent_change_no_value(clone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(clone, folder, symlinks=True)
    shutil.rmtree(folder / ".work")
    command = [sys.executable, "-m", *STUDY, "--workers", "2"]
    parent = subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.DEVNULL)
    first, work = a_trainer(folder)
    killed = time.time()
    os.kill(first, signal.SIGKILL)
    second, _ = a_trainer(folder, first)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while alive(second):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    assert not all(trial.state.is_finished() for trial in trials(folder)), "a worker went on without its parent"
    run(folder, *STUDY, "--workers", "2")

    whole, again = trials(clone), trials(folder)
    assert [(t.state, t.params, t.values, t.intermediate_values) for t in again] == [
        (t.state, t.params, t.values, t.intermediate_values) for t in whole
    ]
    assert [trial.state.name for trial in again] == ["COMPLETE"] * 4
    (resumed,) = (trial for trial in again if trial.user_attrs["work_folder"] == work.name)
    assert resumed.user_attrs["worker_crashes"] >= 1
    assert (work / "grids/00000000.png").stat().st_mtime < killed  # it was not trained from the start again


def test_apply_writes_the_winner_and_dvc_trains_it(clone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(clone, folder, symlinks=True)
    before = (folder / "params.yaml").read_text().splitlines()
    printed = run(folder, *STUDY, "--apply").stdout  # all is done already: nothing is trained
    after = (folder / "params.yaml").read_text().splitlines()
    values = dict(
        item.split("=") for item in printed.splitlines()[-1].removeprefix("wrote ").split(" to ")[0].split(", ")
    )
    assert {name.rpartition(".")[0] for name in values} == {"models.dcgan"}
    (line,) = (index for index, text in enumerate(before) if text.startswith("  dcgan: {"))
    assert before[:line] + before[line + 1 :] == after[:line] + after[line + 1 :], "all else stays, comments too"
    assert before[line] != after[line]
    whole = params.load(folder / "params.yaml")
    entry = YAML(typ="safe", pure=True).load(folder / "params.yaml")["models"]["dcgan"]
    assert entry == whole.differences("dcgan"), "only what differs from the shared recipe"
    recipe = whole.models["dcgan"]
    assert {name: str(getattr(recipe, name.rpartition(".")[2])) for name in values} == values
    ref = open_study(str(folder / ".work/search/studies.journal"), "dcgan")
    (name,) = (study.study_name for study in ref.storage.get_all_studies() if FINALS in study.study_name)
    finals = replace(ref, name=name)
    best = min((t for t in finals.storage.get_all_trials(finals.study_id)), key=lambda trial: trial.value or 0.0)
    winner = json.loads(finals.load().user_attrs["settings"])["finalists"][best.params["finalist"]]["values"]
    assert {name: getattr(recipe, name) for name in winner} == winner

    run(folder, "dvc", "repro", "train@dcgan-0")
    info = json.loads((folder / "runs/dcgan-0/generator.json").read_text())
    assert params.Recipe.model_validate(info["recipe"]) == recipe
