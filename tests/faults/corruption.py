"""Damaged files: of every file that a stage reads, and of the checkpoints from which training goes on.

A stage that meets one either makes the same bytes all the same, or says in one sentence what to do: it knows the
sha256 of all that it reads. What is to be made anew, `dvc repro` brings back.
"""

import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.disk import check_refusal
from tests.faults.report import Trial
from tests.faults.sandbox import MEASURED, STAGES, Sandbox, Stage, clear
from tests.faults.stages import finish

UNNOTICED = ", of measured times"  # they have no checksum; only the report shows them


def _flip(content: bytearray, draws: random.Random) -> bytearray:
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    return content


DAMAGES: dict[str, Callable[[bytearray, random.Random], bytes | bytearray] | None] = {
    "flipped bit": _flip,
    "cut short": lambda content, draws: content[: draws.randrange(len(content))],
    "emptied": lambda content, draws: bytearray(),
    "random bytes": lambda content, draws: bytearray(draws.randbytes(len(content))),
    "a folder instead": None,
    "deleted": None,
}


def damage(sandbox: Sandbox, draws: random.Random) -> Trial:
    """Damage one file, and run the stage that reads it."""
    kind, training = draws.choice(list(DAMAGES)), [stage for stage in STAGES if stage.name.startswith("train")]
    if draws.random() < 0.3:
        stage = draws.choice(training)
        return _of_a_checkpoint(sandbox, stage, kind, draws)
    stage = draws.choice(STAGES[1:])
    name = draws.choice(sandbox.inputs(stage))
    trial = Trial(kind, f"{name}, read by {stage.name}", tried=1)
    sandbox.restore_committed()
    sandbox.clear_outputs(stage)
    clear(sandbox.repo / ".work")
    corrupt(sandbox.repo / name, kind, draws)
    job = sandbox.start(stage)
    unmended = [found for found in sandbox.differences(stage) if found[0] != name] if job.wait() == 0 else []
    if job.code == 0 and unmended and Path(name).name in MEASURED:
        trial.kind += UNNOTICED
    elif job.code == 0:
        trial.differ(unmended, "unnoticed")
    elif job.code != 0:
        check_refusal(trial, job, "dvc repro")
        obey(sandbox, job.errors)
    again = sandbox.dvc("repro")
    if again.wait() != 0:
        trial.problems.append(f"`dvc repro` ended with {again.code}: {again.output[-600:]}{again.errors[-600:]}")
    trial.differ(sandbox.differences(STAGES[-1], but=set()), "after `dvc repro`")
    return trial


def _of_a_checkpoint(sandbox: Sandbox, stage: Stage, kind: str, draws: random.Random) -> Trial:
    """Damage a file, or a few, beside which a training was stopped, and go on with it."""
    sandbox.restore(stage)
    shutil.copytree(_half_trained(sandbox, stage), sandbox.repo / ".work", dirs_exist_ok=True)
    files = sorted(path for path in (sandbox.repo / ".work").rglob("*") if path.is_file())
    chosen = draws.sample(files, draws.randint(1, 2))
    for path in chosen:
        corrupt(path, kind, draws)
    names = ", ".join(path.name for path in chosen)
    trial = Trial(f"{kind}, of a checkpoint's files", f"{names} of {stage.name}", tried=1)
    for _ in chosen:  # it tells of one at a time
        job = sandbox.start(stage)
        if job.wait() != 0:
            check_refusal(trial, job)
            obey(sandbox, job.errors)
    finish(sandbox, stage, trial)
    return trial


def corrupt(path: Path, kind: str, draws: random.Random) -> None:
    """Damage one file."""
    content = bytearray(path.read_bytes())
    path.unlink()
    if kind == "a folder instead":
        path.mkdir()
    elif change := DAMAGES[kind]:
        path.write_bytes(change(content, draws) if content else content)


def obey(sandbox: Sandbox, errors: str) -> None:
    """Delete what an error's sentence says is to be deleted, or moved away."""
    for subject, what in re.findall(r"error: (\S+?):? .*\b(?:delete|move) (?:the folder )?(\S+)", errors):
        path = sandbox.repo / (subject if what == "it" else what)
        if path.is_dir() and sandbox.repo in path.resolve().parents:
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _half_trained(sandbox: Sandbox, stage: Stage) -> Path:
    """.work of a training that was asked to stop when it had two checkpoints."""
    kept = sandbox.folder / f"half-{stage.name}"
    if not kept.exists():
        now = sandbox.repo / ".work"
        clear(now)
        job = sandbox.start(stage)
        while len(list(now.glob("*/step-*.safetensors"))) < 2 and job.wait(0) is None:
            time.sleep(0.01)
        job.signal(signal.SIGTERM)
        assert job.wait() == 128 + signal.SIGTERM, f"{stage.name} was not stopped half-way: {job.code}\n{job.errors}"
        shutil.copytree(now, kept)
        clear(now)
    return kept
