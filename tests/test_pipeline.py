"""End to end, as a user runs it: a clone in an empty folder, `dvc repro`, kills, and what must then be true."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import params
from pipeline.core.files import exclusive
from tests.clones import environment, make_clone, run
from tests.conftest import rebuild_cifar10

pytestmark = pytest.mark.slow
MODELS = ("dcgan", "sagan", "resnet")
TINY = {
    "data.limit": 96, "train.steps": 6, "train.report_every": 2, "train.grid_every": 3, "train.score_every": 3,
    "train.score_samples": 16, "generate.samples": 20, "runtime.device": "cpu", "runtime.checkpoint_every": 2,
    "runtime.log_model": False,
    **{f"models.{m}.{key}": 4 for m in MODELS for key in ("width_g", "width_d", "latent_dim")},
    **{f"models.{m}.batch_size": 8 for m in MODELS},
}  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repository as it would be committed now, cloned, with tiny params; `dvc repro` has run once."""
    folder = tmp_path_factory.mktemp("clone") / "repo"
    make_clone(folder, TINY)
    run(folder, "dvc", "repro")
    yield folder


@pytest.fixture
def folder(clone: Path, tmp_path: Path) -> Path:
    """A folder of the clone, to be changed."""
    copied = tmp_path / "repo"
    shutil.copytree(clone, copied, symlinks=True)
    return copied


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def generators(folder: Path) -> dict[str, bytes]:
    return {model: (folder / f"runs/{model}-0/generator.safetensors").read_bytes() for model in MODELS}


def trained(folder: Path) -> dict[str, int]:
    """The checkpoints below .work and when they were written: a training that runs writes others."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(".work/*/step-*.safetensors")}


def legs(*models: str) -> set[str]:
    """The stages that run again where these models have changed."""
    return {"check", "report"} | {f"{stage}@{model}-0" for stage in ("train", "generate", "fid") for model in models}


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def test_every_output_is_there(clone: Path) -> None:
    assert np.load(clone / "data/prepared/train.npy").shape == (96, 1, 16, 16)
    for model in MODELS:
        history = pd.read_csv(clone / f"runs/{model}-0/history.csv")
        assert history["step"].tolist() == [0, 2, 3, 4, 6]
        assert history["images"].tolist() == [0, 16, 24, 32, 48]
        assert history["distance"].notna().tolist() == [True, False, True, False, True]
        assert history["loss/d"].notna().tolist() == [False, True, False, True, True]
        assert sorted(path.name for path in (clone / f"runs/{model}-0/grids").iterdir()) == [
            "00000000.png", "00000003.png", "00000006.png"]  # fmt: skip
        samples = np.load(clone / f"samples/{model}-0/images.npy")
        assert samples.shape == (20, 1, 16, 16)
        assert samples.dtype == np.uint8
        assert len(list((clone / f"samples/{model}-0/final").glob("*.png"))) == 10
        assert (clone / f"samples/{model}-0/progress.gif").read_bytes().startswith(b"GIF89a")
        metrics = json.loads((clone / f"scores/{model}-0/record.json").read_text())
        shown = json.loads((clone / f"scores/{model}-0/metrics.json").read_text())
        assert shown.keys() == {
            "fd_efficientnet_lite0", "sampling_error", "ratio_to_floor", "kd_efficientnet_lite0", "precision", "recall",
            "best_checkpoint", "images_seen",
        }  # fmt: skip
        assert metrics["protocol"]["generated_images"] == 20
        assert "fid" not in metrics
        assert metrics["protocol"]["floor_images"] == 20  # of held-out images as many as there are samples
        at_floor = metrics["fd_efficientnet_lite0_at_floor"]
        assert metrics["ratio_to_floor"] == pytest.approx(at_floor / metrics["floor"], rel=1e-12)
        assert metrics.keys() >= {"kd_efficientnet_lite0", "precision", "coverage", "nearest_ratio"}
        # Whether the neighbours of so early samples agree on their classes is chance.
        assert ("class_balance" in metrics) != ("class_votes" in metrics["not_available"])
        assert metrics["sampling_error"]["fd_efficientnet_lite0"] > 0
        assert (clone / f"closest/{model}-0.png").read_bytes().startswith(b"\x89PNG")
        best = history.loc[history["distance"][1:].idxmin()]  # the untrained generator is never the best
        assert metrics["best"]["step"] == best["step"]
        assert metrics["best"]["selected_by"] == {"distance": pytest.approx(best["distance"]), "samples": 16}
        assert (clone / f"samples/{model}-0/best.npy").exists() == (best["step"] != 6)
        if best["step"] == 6:
            assert metrics["best"]["fd_efficientnet_lite0"] == metrics["fd_efficientnet_lite0"]
    board = pd.read_csv(clone / "reports/leaderboard.csv")
    assert sorted(board["model"]) == sorted(MODELS)
    assert board["rank"].tolist() == [1, 2, 3]
    assert (clone / "reports/report.html").stat().st_size > 20_000


def test_the_second_repro_does_nothing(clone: Path) -> None:
    assert stages_run(run(clone, "dvc", "repro").stdout) == set()


def test_a_clone_without_data_has_nothing_to_do(folder: Path, tmp_path: Path) -> None:
    """As CI does it: what git has tells that all is up to date, so nothing is fetched and nothing is run."""
    run(folder, "dvc", "remote", "add", "--default", "store", str(tmp_path / "remote"))
    other, identity = tmp_path / "other", ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["add", "-A"], [*identity, "commit", "-qm", "results"], ["clone", "-q", ".", str(other)]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    run(folder, "dvc", "push")
    assert stages_run(run(other, "dvc", "repro", "--pull", "--allow-missing").stdout) == set()
    assert [(other / name).exists() for name in ("runs", "samples", "closest", "data/prepared")] == [False] * 4
    run(other, "pipeline.check", "--files")  # what is not here is not damaged
    done = run(other, "pipeline.stages.report", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and done.stderr.startswith("error: data/prepared/")


def test_mlflow_has_one_finished_run_of_each_model(clone: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert re.fullmatch("digits-16px-efficientnet_lite0-[0-9a-f]{6}", experiment.name)
    assert sorted(run.info.run_name for run in runs) == ["dcgan-0", "resnet-0", "sagan-0"]
    keys = {"loss/d", "loss/g", "images_per_second", "images", "curve/fd_efficientnet_lite0", "fd_efficientnet_lite0",
            "floor", "ratio_to_floor", "best/fd_efficientnet_lite0", "sampling_error/fd_efficientnet_lite0",
            "kd_efficientnet_lite0", "precision", "recall", "density", "coverage", "nearest_ratio"}  # fmt: skip
    for finished in runs:
        assert finished.info.status == "FINISHED"
        assert set(finished.data.metrics) >= keys
        assert finished.data.params["lr_g"]
        steps = [point.step for point in client.get_metric_history(finished.info.run_id, "loss/d")]
        assert steps == [2, 4, 6]
        images = [file.path for file in client.list_artifacts(finished.info.run_id, "images")]
        assert len([path for path in images if path.endswith(".png")]) == 3


def test_another_protocol_is_another_mlflow_experiment_and_no_training(folder: Path) -> None:
    from mlflow.tracking import MlflowClient

    params.save({"generate.samples": 24, "runtime.log_model": True}, folder / "params.yaml")
    assert stages_run(run(folder, "dvc", "repro", "fid@dcgan-0").stdout) == {
        "check", "generate@dcgan-0", "fid@dcgan-0"
    }  # fmt: skip
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    named = {experiment.name: experiment for experiment in client.search_experiments() if experiment.name != "Default"}
    counts: dict[str, list[str]] = {}
    for experiment in named.values():
        for found in client.search_runs([experiment.experiment_id]):
            assert found.data.params["lr_g"]
            counts.setdefault(found.data.tags["protocol.generated_images"], []).append(found.info.run_name)
    assert len(named) == 2
    assert counts["24"] == ["dcgan-0"]
    assert sorted(counts["20"]) == ["dcgan-0", "resnet-0", "sagan-0"]
    (version,) = client.search_model_versions()
    assert version.name in named and version.description == "dcgan-0", "the report links to this registered model"
    assert client.get_run(version.run_id).data.tags["protocol.generated_images"] == "24"


def test_a_changed_recipe_reruns_only_its_own_legs(clone: Path) -> None:
    before = generators(clone)
    params.save({"models.sagan.lr_g": 3e-4}, clone / "params.yaml")
    assert stages_run(run(clone, "dvc", "repro").stdout) == legs("sagan")
    after = generators(clone)
    assert [model for model in MODELS if before[model] != after[model]] == ["sagan"]


def test_a_changed_shared_value_trains_only_who_shares_it(folder: Path) -> None:
    loaded, before, work = params.load(folder / "params.yaml"), generators(folder), trained(folder)
    assert [model for model in MODELS if "lr_d" not in loaded.differences(model)] == ["resnet"]
    runs = {model: contents(folder / f"runs/{model}-0") for model in MODELS}
    run(folder, "pipeline.params", "set", "recipe.lr_d=3e-4")
    ran = stages_run(run(folder, "dvc", "repro").stdout)
    assert ran == legs("resnet") | {"train@dcgan-0", "train@sagan-0"}  # which end at once
    after = generators(folder)
    assert [model for model in MODELS if before[model] != after[model]] == ["resnet"]
    for model in ("dcgan", "sagan"):
        assert contents(folder / f"runs/{model}-0") == runs[model]  # the measured times too: nothing was trained
    assert work.items() <= trained(folder).items()


def test_an_experiment_of_dvc_reruns_only_its_own_legs(folder: Path) -> None:
    before, text = generators(folder), (folder / "params.yaml").read_text()
    ran = stages_run(run(folder, "dvc", "exp", "run", "-S", "++models.resnet.n_critic=2").stdout)
    assert ran == legs("resnet")
    after = generators(folder)
    assert [model for model in MODELS if before[model] != after[model]] == ["resnet"]
    loaded = params.load(folder / "params.yaml")
    assert loaded.differences("resnet")["n_critic"] == 2 and loaded.recipe.n_critic == 1
    comments = [[line.split("#")[1] for line in whole.splitlines() if "#" in line] for whole in
                (text, (folder / "params.yaml").read_text())]  # fmt: skip
    assert comments[0] == comments[1]


def test_comments_and_docstrings_train_nothing_anew(folder: Path) -> None:
    runs, work = contents(folder / "runs"), trained(folder)
    for name in ("gan/step.py", "training/monitor.py"):
        path = folder / "pipeline" / name
        code = path.read_text()
        docstring = code.split('"""')[1]
        path.write_text(code.replace(docstring, docstring.upper(), 1).replace("\n\n\n", "\n\n\n# A comment.\n", 1))
        assert path.read_text() != code
    ran = stages_run(run(folder, "dvc", "repro").stdout)
    assert {f"train@{model}-0" for model in MODELS} <= ran  # they are started, and find themselves finished
    assert contents(folder / "runs") == runs  # the measured times too
    assert trained(folder) == work
    # And what the code does is no comment.
    path = folder / "pipeline" / "gan" / "step.py"
    code = path.read_text()
    assert code.count("self._note(curve, loss)") == 1
    path.write_text(code.replace("self._note(curve, loss)", "self._note(curve, 2 * loss)"))
    run(folder, "pipeline.stages.train", "--model", "dcgan", "--seed", "0")
    assert len(trained(folder)) > len(work)


def test_a_finished_training_is_handed_over_without_what_trains_it(clone: Path) -> None:
    out, before = clone / "runs/dcgan-0", contents(clone / "runs/dcgan-0")
    shutil.rmtree(out)
    trains = {
        "mlflow",
        "pandas",
        "torch._dynamo",
        "torchvision",
        "efficientnet_lite_pytorch",
        "pipeline.training.trainer",
    }
    code = f"import sys; from pipeline.stages.train import main; main(); print(*{trains} & set(sys.modules))"
    known_as = {"DVC_STAGE": "fid@dcgan-0"}  # in MLflow since the stage that came last: so there is no news
    command, variables = [sys.executable, "-c", code], environment() | known_as
    done = subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("\n", "") and contents(out) == before


def test_a_training_that_waits_for_another_one_ends_when_it_is_asked_to(clone: Path) -> None:
    command = [sys.executable, "-m", "pipeline.stages.train", "--model", "dcgan", "--seed", "0"]
    with contextlib.ExitStack() as held:
        for lock in clone.glob(".work/dcgan-0-*/lock"):
            held.enter_context(exclusive(lock.parent, "dcgan-0"))
        process = subprocess.Popen(command, cwd=clone, env=environment(), stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert process.stderr.readline() == f"dcgan-0 is in use by process {os.getpid()}: waiting for it\n"
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    assert (process.returncode, said) == (143, "error: interrupted; run the same command again to continue\n")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_ends_as_if_it_had_not_been_killed(folder: Path, how: signal.Signals) -> None:
    shutil.rmtree(folder / ".work")
    params.save({"train.steps": 80, "runtime.tracking": False}, folder / "params.yaml")
    stage = ["pipeline.stages.train", "--model", "dcgan", "--seed", "0"]
    run(folder, *stage)
    out, chance = folder / "runs/dcgan-0", np.random.default_rng(os.getpid())
    whole = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file() and path.name != "timing.csv"}
    shutil.rmtree(folder / ".work")
    shutil.rmtree(out)

    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", *stage], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 240
        while not list((folder / ".work").glob("*/step-*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))  # a random moment, often between two checkpoints
        process.send_signal(how)
        at = max(path.name for path in (folder / ".work").glob("*/step-*.safetensors"))
        said = process.communicate(timeout=120)[1]
        if at < "step-00000070":
            break
        shutil.rmtree(folder / ".work")  # this test waited too long on a busy machine: there was little left to train
        shutil.rmtree(out, ignore_errors=True)
    assert process.returncode == (-9 if how == signal.SIGKILL else 143), (at, said)
    assert not out.exists(), (at, said)

    run(folder, *stage)
    again = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file() and path.name != "timing.csv"}
    assert whole.keys() == again.keys()
    assert [str(path) for path in whole if whole[path] != again[path]] == []


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])  # dash runs a command as a child, bash in its own place
def test_a_stage_dies_with_dvc(folder: Path, shell: str) -> None:
    params.save({"train.steps": 100_000, "runtime.tracking": False}, folder / "params.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "train@dcgan-0"],
        cwd=folder,
        env={**environment(), "SHELL": shell},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    locks: list[Path] = []
    while time.monotonic() < deadline and not locks:
        time.sleep(0.1)
        fresh = [path.parent for path in (folder / ".work").glob("*/step-000002*.safetensors")]
        locks = [path / "lock" for path in fresh if (path / "lock").exists()]
    trainer = int(locks[0].read_text())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    try:
        while alive(trainer):
            assert time.monotonic() < deadline, "the trainer outlived dvc"
            time.sleep(0.1)
    finally:
        if alive(trainer):
            os.kill(trainer, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process runs: one that only waits for its parent to notice its end does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_users_mistake_is_one_sentence(clone: Path) -> None:
    for change, sentence in [
        ("models.dcgan.loss=hinqe", "models.dcgan.loss: unknown name 'hinqe'; did you mean 'hinge'?"),
        ("data.dataset=cifar", "data.dataset: unknown name 'cifar'; did you mean 'cifar10'?"),
    ]:
        saved = (clone / "params.yaml").read_text()
        name, value = change.split("=")
        params.save({name: value}, clone / "params.yaml")
        done = run(clone, "pipeline.stages.prepare", check=False)
        (clone / "params.yaml").write_text(saved)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"error: params.yaml: {sentence}")
        assert done.stderr.count("\n") == 1


def test_an_unknown_model_is_one_sentence(clone: Path) -> None:
    done = run(clone, "pipeline.stages.train", "--model", "dcgam", "--seed", "0", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: dcgam: no such model; did you mean 'dcgan'? Choices: biggan, dcgan, ")
    assert done.stderr.count("\n") == 1


def test_every_stage_runs_on_real_cifar10(folder: Path, shared_data: Path) -> None:
    rebuild_cifar10(shared_data, folder / "data/raw")
    run(folder, "pipeline.params", "use", "cifar10")
    small = {name: value for name, value in TINY.items() if name.startswith(("train", "models", "generate", "runtime"))}
    params.save({**small, "data.limit": 200, "metrics.extractor": "efficientnet_lite0"}, folder / "params.yaml")
    run(folder, "dvc", "repro")
    assert np.load(folder / "data/prepared/test.npy").shape == (200, 3, 32, 32)
    description = json.loads((folder / "data/prepared/dataset.json").read_text())
    assert description["classes"][3] == "cat"
    board = pd.read_csv(folder / "reports/leaderboard.csv")
    assert sorted(board["model"]) == sorted(MODELS)
    assert np.load(folder / "samples/sagan-0/images.npy").shape == (20, 3, 32, 32)
    assert stages_run(run(folder, "dvc", "repro").stdout) == set()
