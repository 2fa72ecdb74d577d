"""One training by two processes: the same mathematics as by one, the same bits each time, and no kill that matters."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline.core.files import read_json
from pipeline.gan.checkpoint import load_generator
from pipeline.params import save
from pipeline.sampling.images import sample
from tests.clones import ROOT, environment, make_clone, run

pytestmark = pytest.mark.slow

KINDS = ("gan", "dcgan", "wgan_gp", "sagan", "projection", "r3gan", "flow")  # the benchmark compares all
EXTREME: dict[str, dict[str, Any]] = {  # of what mixes the images of a batch
    "packed": {"loss": "ragan", "penalty": "dragan", "pack": 2, "top_k": 0.5, "norm_d": "none"},
    "spread": {"network": "stylegan2", "loss": "rpgan", "penalty": "r1_r2", "minibatch_std": 2, "norm_d": "none",
               "regularisers": {"path_length": 2.0}},
    "regular": {
        "network": "cnn", "loss": "hinge", "reuse_fakes": True, "regularisers": {"lecam": 0.3, "bcr": 1.0, "zcr": 1.0},
        "augment": ["translation", "colour", "cutout"], "augment_strength": 0.5, "instance_noise": 0.3,
    },
}  # fmt: skip


def compared(folder: Path, *arguments: str) -> list[list[str]]:
    """The rows of benchmarks/ranks.py: recipe, difference in float64, in float32, ..., same again."""
    own = {**environment(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.ranks", "--width", "4", "--batch", "8", *arguments]
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split(" | ") for line in done.stdout.splitlines()[2:]]


def test_two_ranks_train_what_one_does(tmp_path: Path) -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["models"] |= {name: {"network": "dcgan", **changes} for name, changes in EXTREME.items()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    rows = compared(tmp_path, "--steps", "3", *KINDS, *EXTREME)
    assert [row[0] for row in rows] == [*KINDS, *EXTREME]
    for name, exact, rounded, *_, again, _, _ in rows:
        assert float(exact) < 1e-10, f"{name}: {exact} in float64"
        assert again == "yes", name
        assert 0 <= float(rounded) < 1, f"{name}: {rounded} in float32"


def test_two_ranks_share_the_parts_of_a_batch(tmp_path: Path) -> None:
    """A part is the same images however many ranks there are, so that batch norm sees the same ones too."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["train"]["accumulate"] = 2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    for name, exact, *_ in compared(tmp_path, "--steps", "2", "dcgan"):
        assert float(exact) < 1e-10, f"{name}: {exact} in float64"


class Project:
    """A clone with prepared data, and a training that two ranks have shared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tiny = {"width_g": 4, "width_d": 4, "latent_dim": 5, "batch_size": 8}
        make_clone(
            folder,
            {
                **{f"models.dcgan.{name}": value for name, value in tiny.items()},
                "train.steps": 60, "train.score_every": 30, "train.grid_every": 30, "train.score_samples": 40,
                "train.report_every": 10, "data.limit": 60, "metrics.bootstrap": 0, "runtime.checkpoint_every": 5,
                "runtime.tracking": False, "runtime.log_model": False, "runtime.device": "cpu", "runtime.devices": 1,
            },
        )  # fmt: skip
        run(folder, "pipeline.stages.prepare")
        run(folder, "pipeline.stages.reference")
        self.said, self.undisturbed = self.train(), self.sums()

    def train(self, devices: int = 2) -> str:
        """To the end. Returns what was said."""
        save({"runtime.devices": devices}, self.folder / "params.yaml")
        return run(self.folder, "pipeline.stages.train", "--model", "dcgan", "--seed", "0").stderr

    def sums(self) -> str:
        return (self.folder / "runs" / "dcgan-0" / "SHA256SUMS").read_text()

    def forget(self) -> None:
        shutil.rmtree(self.folder / ".work")
        shutil.rmtree(self.folder / "runs")

    def disturbed(self, number: signal.Signals) -> tuple[int, str]:
        """Start, send a signal to rank 1 after the first checkpoint; the exit status of rank 0, and what it said."""
        command = [sys.executable, "-m", "pipeline.stages.train", "--model", "dcgan", "--seed", "0"]
        stage = subprocess.Popen(command, cwd=self.folder, env=environment(), stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not list((self.folder / ".work").rglob("step-0000001*.safetensors")):
            assert stage.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        (other,) = children(stage.pid)
        os.kill(other, number)
        started = time.monotonic()
        _, said = stage.communicate(timeout=60)
        assert time.monotonic() - started < 30
        assert not Path(f"/proc/{other}").exists()
        return stage.returncode, said


def children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(status.parent.name))
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    yield Project(tmp_path_factory.mktemp("ranks"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(project: Project) -> None:
    assert "warning" not in project.said
    info = read_json(project.folder / "runs" / "dcgan-0" / "generator.json")
    assert [place["ranks"] for place in info["environments"]] == [2]
    project.forget()
    code, said = project.disturbed(signal.SIGKILL)
    assert code == 2 and "error: rank 1 (process " in said and "was killed by signal 9: run the same command" in said
    project.train()
    assert project.sums() == project.undisturbed
    project.forget()
    code, said = project.disturbed(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM and "stopped with its checkpoint written" in said
    project.train()
    assert project.sums() == project.undisturbed


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_other_numbers_of_ranks(project: Project) -> None:
    """Features are the same bits; a training that goes on with another number says so, and its record too."""
    project.forget()
    save({"runtime.devices": 2}, project.folder / "params.yaml")
    before = (project.folder / "data" / "reference" / "SHA256SUMS").read_text()
    run(project.folder, "pipeline.stages.reference")
    assert (project.folder / "data" / "reference" / "SHA256SUMS").read_text() == before
    project.disturbed(signal.SIGKILL)
    said = project.train(devices=1)
    assert "with ranks 2 and goes on with ranks 1" in said
    first, second = read_json(project.folder / "runs" / "dcgan-0" / "generator.json")["environments"]
    assert (first["ranks"], second["ranks"]) == (2, 1) and 10 <= second["step"] < 60
    assert project.sums() != project.undisturbed


def test_samples_of_two_ranks_are_those_of_one(project: Project) -> None:
    """Of 60 samples in batches of 7 the last is short, and the second rank has one batch less."""
    save({"runtime.devices": 2, "generate.batch_size": 7}, project.folder / "params.yaml")
    run(project.folder, "pipeline.stages.generate", "--model", "dcgan", "--seed", "0")
    files = [("images.npy", "generator"), ("best.npy", "best")]
    made = {kind: np.load(project.folder / "samples/dcgan-0" / name) for name, kind in files}
    for kind, images in made.items():
        generator, info = load_generator(project.folder / "runs/dcgan-0", "ema", kind)
        alone = list(sample(generator, torch.zeros(60, dtype=torch.int64), 1000, 7, 5))
        assert [len(batch) for batch in alone] == [7] * 8 + [4] and info["best"]["step"] == 30
        assert np.array_equal(images, torch.cat(alone).numpy())
    assert (made["best"] != made["generator"]).any()
