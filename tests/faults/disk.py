"""Disks that are full, read-only, or of small files: a tmpfs is mounted where a stage writes."""

import contextlib
import os
import random
import subprocess
from pathlib import Path

from tests.faults.processes import Job
from tests.faults.report import Trial
from tests.faults.sandbox import STAGES, Sandbox, Stage
from tests.faults.stages import finish

FILLER = "filler"
ROOM = 64 << 20  # bytes of a disk on which there is enough
FULL, FILLED, READ_ONLY, LIMITED = "full disk", "disk that fills meanwhile", "read-only folder", "file size limit"
REASONS = {FULL: "free some space", FILLED: "free some space", READ_ONLY: "Read-only", LIMITED: "File too large"}


def can_mount() -> bool:
    return "FAULTS_OWN_MOUNTS" in os.environ


def refuse(sandbox: Sandbox, draws: random.Random) -> Trial:
    """Let a stage meet a disk that refuses, and then one that does not."""
    kind = draws.choice(list(REASONS)) if can_mount() else LIMITED
    stage = draws.choices(STAGES, [3 if "train" in stage.name else 1 for stage in STAGES])[0]
    place, with_its_own = sandbox.repo / draws.choice(stage.places), draws.random() < 0.5
    size = draws.randint(4096, 1 + _needed(sandbox, stage))
    trial = Trial(kind, f"{stage.name}, {place.relative_to(sandbox.repo)}")
    trial.about += f", {size} bytes" if kind in (FULL, LIMITED) else ""
    with mounted(place, kind != LIMITED):
        sandbox.restore(stage, with_its_own)
        if kind == FULL:
            remount(place, f"size={(used(place) + size + 4095) // 4096 * 4096}")
        elif kind == READ_ONLY:
            remount(place, "ro")
        job = sandbox.start(stage, file_limit=size if kind == LIMITED else None)
        if kind == FILLED:
            job.wait(draws.uniform(0, sandbox.seconds[stage.name]))
            _fill(place)
        if job.wait() != 0:
            trial.tried = 1
            check_refusal(trial, job, REASONS[kind])
        if kind == FILLED:
            (place / FILLER).unlink(missing_ok=True)
        trial.differ(sandbox.halves(stage), f"after the {kind}")
        if kind != LIMITED:
            remount(place, f"rw,size={ROOM}")
        finish(sandbox, stage, trial)
    return trial


def check_refusal(trial: Trial, job: Job, *words: str) -> None:
    """See that a command ended with 2 and one sentence that holds `words`, and without a traceback."""
    sentences = [line for line in job.errors.splitlines() if line.startswith("error: ")]
    if job.code != 2 or len(sentences) != 1 or "Traceback" in job.errors:
        trial.problems.append(f"no clear end but code {job.code}: {job.errors[-400:]}")
    elif not all(word in sentences[0] for word in words):
        trial.problems.append(f"it does not say {' and '.join(words)}: {sentences[0]}")


class mounted:
    """An own disk at `place` while the body runs, or nothing of the kind."""

    def __init__(self, place: Path, wanted: bool = True) -> None:
        self.place, self.wanted = place, wanted

    def __enter__(self) -> None:
        if self.wanted:
            self.place.mkdir(parents=True, exist_ok=True)
            _do("mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(self.place))

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            _do("umount", "-l", str(self.place))


def remount(place: Path, options: str) -> None:
    """Change a disk that is mounted."""
    _do("mount", "-o", f"remount,{options}", str(place))


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _fill(place: Path) -> None:
    """Leave no room on the disk at `place`, whatever is written to it meanwhile."""
    with open(place / FILLER, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))


def used(place: Path) -> int:
    """The bytes that are taken of the disk at `place`."""
    room = os.statvfs(place)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def _needed(sandbox: Sandbox, stage: Stage) -> int:
    """The bytes of what a stage makes."""
    found = [path for one in stage.outputs for path in [sandbox.whole / one, *(sandbox.whole / one).rglob("*")]]
    return sum(path.stat().st_size for path in found if path.is_file())
