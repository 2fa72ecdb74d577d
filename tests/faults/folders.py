"""Folders that a stage writes to, deleted or made read-only while it runs."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.corruption import obey
from tests.faults.disk import READ_ONLY, REASONS, can_mount, check_refusal
from tests.faults.random_faults import RandomFaults
from tests.faults.report import Trial
from tests.faults.sandbox import STAGES, Sandbox, Stage
from tests.faults.stages import finish

DELETED, LOCKED = "folder deleted meanwhile", "folder read-only meanwhile"


def take_away(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Take from a running stage a folder that it writes to; then let it run again."""
    kind = draws.in_turn((DELETED, LOCKED) if can_mount() else (DELETED,))
    stage = draws.choices(STAGES, [4 if "train" in stage.name else 1 for stage in STAGES])[0]
    trial, delay = Trial(kind, stage.name), draws.uniform(0, sandbox.seconds[stage.name])
    sandbox.restore(stage)
    job = sandbox.start(stage)
    job.wait(delay)
    # What is to be renamed is not locked: the lock would move with it.
    found = [folder for folder in _own(sandbox, stage) if kind == DELETED or ".tmp/" not in f"{folder}/"]
    if job.code is not None or not found:
        job.wait()
        return trial
    trial.tried, folder = 1, draws.choice(found)
    trial.about += f", {folder.relative_to(sandbox.repo)} after {delay:.2f} s"
    with _read_only(folder) if kind == LOCKED else contextlib.nullcontext():
        if kind == DELETED:
            shutil.rmtree(folder, ignore_errors=True)
        if job.wait() != 0:
            check_refusal(trial, job, *([REASONS[READ_ONLY]] if kind == LOCKED else []))
    obey(sandbox, job.errors)
    finish(sandbox, stage, trial)
    return trial


def _own(sandbox: Sandbox, stage: Stage) -> list[Path]:
    """The folders that a stage has made so far."""
    output, work = sandbox.repo / stage.output, sandbox.repo / ".work"
    beside = [(sandbox.repo / one).parent for one in stage.beside]
    made = [output, *beside, *output.parent.glob(f".{output.name}.*.tmp"), *([work] if ".work" in stage.places else [])]
    return sorted(path for top in made for path in [top, *top.rglob("*")] if path.is_dir())


@contextlib.contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Lay the folder over itself, read-only; what is open for writing stays so."""
    subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)
