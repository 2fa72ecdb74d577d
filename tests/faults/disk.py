"""Disks that are full, read-only, or of small files: a tmpfs is mounted where a stage writes."""

import os
import random
import subprocess
from pathlib import Path

from tests.faults.processes import Job
from tests.faults.stages import finish
from tests.faults.table import Trial
from tests.faults.world import STAGES, Stage, World, clear

ROOM = 256 << 20  # bytes of a disk on which there is enough
REASONS = {"full disk": "No space left on device", "read-only folder": "Read-only file system",
           "file size limit": "File too large"}  # fmt: skip


def can_mount() -> bool:
    return "FAULTS_OWN_MOUNTS" in os.environ


def refuse(world: World, chance: random.Random) -> Trial:
    """Let a stage meet a disk that refuses, and then one that does not."""
    kind = chance.choice(list(REASONS)) if can_mount() else "file size limit"
    stage = chance.choices(STAGES, [3 if "train" in stage.name else 1 for stage in STAGES])[0]
    place, with_its_own = world.repo / chance.choice(stage.places), chance.random() < 0.5
    size = chance.randint(4096, 1 + _needed(world, stage))
    trial = Trial(kind, f"{stage.name}, {place.relative_to(world.repo)}")
    limit = size if kind == "file size limit" else None
    trial.about += "" if kind == "read-only folder" else f", {size} bytes"
    with mounted(place, kind != "file size limit"):
        world.restore(stage, with_its_own)
        if kind == "full disk":
            _remount(place, f"size={(_used(place) + size + 4095) // 4096 * 4096}")
        elif kind == "read-only folder":
            _remount(place, "ro")
        job = world.start(stage, file_limit=limit)
        if job.wait() != 0:
            trial.tried = 1
            check_refusal(trial, job, REASONS[kind])
        trial.differ(world.halves(stage), f"after the {kind}")
        if kind != "file size limit":
            _remount(place, f"rw,size={ROOM}")
        finish(world, stage, trial)
        clear(place)
    return trial


def check_refusal(trial: Trial, job: Job, *words: str) -> None:
    """See that a command ended with 2 and one sentence that holds `words`, and without a traceback."""
    told = [line for line in job.errors.splitlines() if line.startswith("error: ")]
    if job.code != 2 or len(told) != 1 or "Traceback" in job.errors:
        trial.problems.append(f"no clear end but code {job.code}: {job.errors[-400:]}")
    elif not all(word in told[0] for word in words):
        trial.problems.append(f"it does not say {' and '.join(words)}: {told[0]}")


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


def _remount(place: Path, options: str) -> None:
    _do("mount", "-o", f"remount,{options}", str(place))


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _used(place: Path) -> int:
    room = os.statvfs(place)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def _needed(world: World, stage: Stage) -> int:
    """The bytes of what a stage makes."""
    return sum(path.stat().st_size for path in (world.whole / stage.output).rglob("*") if path.is_file())
