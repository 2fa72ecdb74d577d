"""The copy of the repository in which faults are tried, its undisturbed result, and what differs from that."""

import filecmp
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import params
from tests.clones import make_clone
from tests.faults.mutants import mutate
from tests.faults.processes import ForkServer, Job, left_over

MODELS = ("gan", "dcgan")
TINY: dict[str, Any] = {
    "data.limit": 96, "metrics.bootstrap": 2, "train.steps": 60, "train.report_every": 5, "train.grid_every": 20,
    "train.score_every": 20, "train.score_samples": 16, "compare.models": list(MODELS), "generate.samples": 64,
    "runtime.device": "cpu", "runtime.checkpoint_every": 7, "runtime.tracking": False, "runtime.log_model": False,
    **{f"models.{m}.{key}": 8 for m in MODELS for key in ("width_g", "width_d", "latent_dim", "batch_size")},
    "search.space": {"lr_g": {"low": 1e-4, "high": 1e-2, "log": True}}, "search.sampler": "random",
    "search.pruner": "none", "search.steps": 20, "search.score_every": 10, "search.samples": 16,
    "search.finalists": 1, "search.final_seeds": [101],
}  # fmt: skip
ROOTS = (".work", "data/prepared", "data/reference", "runs", "samples", "scores", "closest", "reports")
# They hold measured times, so no two runs agree on them. The report shows those of timing.csv: it is the same where
# that is, so it counts but for runs of `dvc repro` that train again.
MEASURED = {"timing.csv"}
DRAWN_FROM_MEASURED = {"report.html"}
OF_DVC = ".gitignore"  # it writes one beside the files that it keeps


@dataclass(frozen=True)
class Stage:
    """A command of the pipeline, the folder it makes, and the folders that it writes to.

    at_once: whether its folder appears as a whole, not file by file.
    beside: files that it makes elsewhere.
    """

    name: str
    command: tuple[str, ...]
    output: str
    places: tuple[str, ...]
    at_once: bool = False
    beside: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output, *self.beside)


def _of(stage: str, model: str, folder: str, *places: str) -> Stage:
    command = (f"pipeline.stages.{stage}", "--model", model, "--seed", "0")
    beside = (f"closest/{model}-0.png",) if stage == "fid" else ()
    return Stage(f"{stage}@{model}-0", command, f"{folder}/{model}-0", places, stage == "generate", beside)


STAGES = (
    Stage("prepare", ("pipeline.stages.prepare",), "data/prepared", ("data",), at_once=True),
    Stage("reference", ("pipeline.stages.reference",), "data/reference", ("data",), at_once=True),
    *(_of("train", model, "runs", ".work", "runs") for model in MODELS),
    *(_of("generate", model, "samples", "samples") for model in MODELS),
    *(_of("fid", model, "scores", "scores", "closest") for model in MODELS),
    Stage("report", ("pipeline.stages.report",), "reports", ("reports",)),
)
TRAIN = next(stage for stage in STAGES if stage.name == "train@gan-0")


class Sandbox:
    """A clone in `folder`/repo with tiny params; `folder`/whole holds what its stages make undisturbed."""

    def __init__(self, folder: Path, mutant: str | None = None) -> None:
        self.folder, self.repo, self.whole = folder, folder / "repo", folder / "whole"
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        make_clone(self.repo, TINY)
        if mutant:
            mutate(mutant, self.repo)
        for root in ROOTS:
            clear(self.repo / root)
        self.fork_server = ForkServer(self.repo, self.logs)
        self.servers: list[Job] = []
        self.succeed(self.fork_server.start(self.repo, "pipeline.stages.check"))  # data/checked, always the same
        self.seconds: dict[str, float] = {}
        self.acts: dict[str, list[tuple[str, str]]] = {}
        for stage in STAGES:
            self._run_undisturbed(stage)
        for root in ROOTS:
            if root != ".work":
                shutil.copytree(self.repo / root, self.whole / root)

    def _run_undisturbed(self, stage: Stage) -> None:
        """Once as it is, for its time and its result, and once more, counted, which must give the same bytes."""
        self.seconds[stage.name] = self.succeed(self.start(stage)).seconds
        kept = Path(tempfile.mkdtemp(dir=self.folder))
        copy(stage, self.repo, kept)
        clear(self.repo / ".work")
        self.clear_outputs(stage)
        acts = self.folder / f"acts-{stage.name}"
        self.succeed(self.start(stage, watched=self.roots(), acts=str(acts)))
        self.acts[stage.name] = json.loads(acts.read_text())
        assert self.acts[stage.name], f"{stage.name}: no act of it was seen"
        found = [path for one in stage.outputs for path, _ in compared(kept / one, self.repo / one, MEASURED)]
        assert not found, f"{stage.name} run twice differs, undisturbed: {found}"

    def inputs(self, stage: Stage) -> list[str]:
        """The files of earlier stages that a stage opens."""
        opened = {str(Path(path).relative_to(self.repo)) for act, path in self.acts[stage.name] if act == "open"}
        earlier = tuple(f"{one}/" for other in STAGES[: STAGES.index(stage)] for one in other.outputs)
        return sorted(path for path in opened if f"{path}/".startswith(earlier) and (self.whole / path).is_file())

    def roots(self) -> list[str]:
        """Where acts are watched: also where data/prepared is made before it is renamed."""
        return [str(self.repo / root) for root in (*ROOTS, "data")]

    def start(self, stage: Stage, **options: Any) -> Job:
        return self.fork_server.start(self.repo, *stage.command, **options)

    def succeed(self, job: Job) -> Job:
        """Wait for a command on whose success all else is built."""
        assert job.wait() == 0, f"{job.command}: {job.code}\n{job.errors}"
        return job

    def restore(self, stage: Stage, with_its_own: bool = False) -> None:
        """The state in which `stage` is to run: what the stages before it made; perhaps what it made itself, too."""
        for root in ROOTS:
            clear(self.repo / root)
        for earlier in STAGES[: STAGES.index(stage) + with_its_own]:
            copy(earlier, self.whole, self.repo)

    def clear_outputs(self, stage: Stage) -> None:
        for one in stage.outputs:
            clear(self.repo / one)

    def differences(self, last: Stage, but: set[str] = MEASURED) -> list[tuple[str, int]]:
        """The files of the stages up to `last` that are not those of the undisturbed run, with the bytes lost."""
        return [
            (os.path.normpath(f"{one}/{name}"), lost)
            for stage in STAGES[: STAGES.index(last) + 1]
            for one in stage.outputs
            for name, lost in compared(self.whole / one, self.repo / one, but)
        ]

    def halves(self, last: Stage) -> list[tuple[str, int]]:
        """What of `differences` may not be at any instant: a file that is there and not whole, a part of a folder."""
        half = last.at_once and (self.repo / last.output).exists()
        return [
            (name, lost)
            for name, lost in self.differences(last)
            if ".tmp" not in {Path(part).suffix for part in Path(name).parts}
            and ((self.repo / name).exists() or (half and name.startswith(last.output)))
        ]

    def temporaries(self) -> list[str]:
        """What a killed process had not yet renamed."""
        folders = (self.repo / root for root in ROOTS)
        return sorted(str(path.relative_to(self.repo)) for folder in folders for path in folder.rglob("*.tmp"))

    def left_over(self, seconds: float = 10.0) -> list[str]:
        """The commands of what still runs in the clone after so many seconds."""
        return left_over(self.repo, {self.fork_server.pid}, seconds)

    def set(self, **changes: Any) -> None:
        """Change params.yaml; a dot of a name is written as two underscores."""
        params.save({name.replace("__", "."): value for name, value in changes.items()}, self.repo / "params.yaml")

    @cached_property
    def committed(self) -> Path:
        """A folder that holds .dvc and dvc.lock as `dvc repro` leaves them, made from the undisturbed result."""
        self.restore(STAGES[-1], with_its_own=True)
        for name in (".dvc/cache", ".dvc/tmp", "dvc.lock"):
            clear(self.repo / name)
        kept = self.folder / "committed"
        self.succeed(self.fork_server.start(self.repo, "dvc", "commit", "--force", "--quiet", exec=True))
        kept.mkdir()
        shutil.copytree(self.repo / ".dvc", kept / ".dvc", symlinks=True)
        shutil.copy2(self.repo / "dvc.lock", kept / "dvc.lock")
        return kept

    def restore_committed(self) -> None:
        """All outputs, and DVC's record of them."""
        kept = self.committed
        self.restore(STAGES[-1], with_its_own=True)
        clear(self.repo / ".dvc")
        clear(self.repo / "dvc.lock")
        shutil.copytree(kept / ".dvc", self.repo / ".dvc", symlinks=True, dirs_exist_ok=True)
        shutil.copy2(kept / "dvc.lock", self.repo / "dvc.lock")

    def dvc(self, *arguments: str) -> Job:
        return self.fork_server.start(self.repo, "dvc", *arguments, exec=True)

    def close(self) -> None:
        for server in self.servers:
            server.signal(signal.SIGKILL)
            server.wait()
        self.fork_server.close()


def copy(stage: Stage, here: Path, there: Path) -> None:
    """Copy what a stage has made from one folder to another."""
    shutil.copytree(here / stage.output, there / stage.output, dirs_exist_ok=True)
    for one in stage.beside:
        (there / one).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(here / one, there / one)


def clear(path: Path) -> None:
    """Make sure that there is nothing at `path`, or nothing in it if a disk is mounted there."""
    if path.is_mount():
        for inner in path.iterdir():
            clear(inner)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def compared(whole: Path, there: Path, but: set[str]) -> Iterator[tuple[str, int]]:
    """The files in which two folders differ, and the bytes lost; those in only one of them are among these.

    Two files are compared as a folder each that holds nothing but itself.
    """
    both = (whole, there)
    names = {path.relative_to(one) for one in both for path in [one, *one.rglob("*")] if path.is_file()}
    for name in sorted(names):
        if name.name in {*but, OF_DVC}:
            continue
        one, other = whole / name, there / name
        if not (one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)):
            yield str(name), one.stat().st_size if one.is_file() else 0
