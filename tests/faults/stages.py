"""Kills of single stages: signals at any moment, power cuts at any act on a file, writes that break off in the middle.

A stage is killed up to three times in a row, each time the same command goes on; then it is let run to its end.
"""

import random
import signal
import time
from typing import Any

from pipeline.core.errors import STOP_SIGNALS
from tests.faults.processes import Job
from tests.faults.table import Trial
from tests.faults.world import STAGES, Stage, World

SIGNALS = (signal.SIGKILL, *STOP_SIGNALS)
CUT, TORN = "power cut", "torn write"
EXIT = 10.0  # seconds in which a signal must end a stage


def kill(world: World, chance: random.Random) -> Trial:
    """Kill one stage, and see whether it ends as if it had not been killed."""
    stage = chance.choices(STAGES, [4 if "train" in stage.name else 1 for stage in STAGES])[0]
    kind = chance.choice([*(number.name for number in SIGNALS), CUT, TORN])
    with_its_own = chance.random() < 0.3  # what an earlier run left, whole, is there already
    trial = Trial(kind, f"{stage.name}{' over its own output' if with_its_own else ''}")
    world.restore(stage, with_its_own)
    for _ in range(chance.randint(1, 3)):
        job = _disturbed(world, stage, kind, chance, trial)
        check_ended(trial, job, kind)
        trial.differ(world.halves(stage), "right after the kill")
    finish(world, stage, trial)
    return trial


def finish(world: World, stage: Stage, trial: Trial, **options: Any) -> None:
    """Let the command run to its end, and compare all bytes; nothing else may be left."""
    job = world.start(stage, **options)
    if job.wait() != 0:
        job.kill_group(signal.SIGKILL)
        trial.problems.append(f"the command run again ended with {job.wait()}: {job.errors[-300:]}")
    trial.differ(world.differences(stage), "at the end")
    trial.problems += [f"{path} is left" for path in world.temporaries()]
    trial.problems += [f"still runs: {command}" for command in world.left_over()]


def _disturbed(world: World, stage: Stage, kind: str, chance: random.Random, trial: Trial) -> Job:
    """Start a stage and do the fault to it; it is over then."""
    if kind == CUT:
        acts = world.acts[stage.name]
        renames = [place for place, (act, _) in enumerate(acts) if act == "os.rename"]
        beside = chance.choice(renames) + chance.choice((0, 1)) if renames else 0  # just before one, or just after
        at = beside if chance.random() < 0.5 else chance.randrange(len(acts))
        job = world.start(stage, watched=world.roots(), cut=at, seed=chance.randrange(2**32))
        trial.about += f", act {at}"
    elif kind == TORN:
        sizes = [path.stat().st_size for path in (world.whole / stage.output).rglob("*") if path.is_file()]
        limit = chance.randint(4096, max(max(sizes), 40_000))
        job = world.start(stage, file_limit=limit, torn=True)
        trial.about += f", {limit} bytes"
    else:
        job = world.start(stage)
        delay = chance.uniform(0, world.seconds[stage.name])
        trial.about += f", {delay:.2f} s"
        if job.wait(delay) is None:
            trial.slowest = max(trial.slowest, ended_by(job, signal.Signals[kind], trial))
    job.wait()
    return job


def ended_by(job: Job, number: signal.Signals, trial: Trial) -> float:
    """Send a signal and wait: how many seconds it took until the process was gone."""
    job.signal(number)
    sent = time.monotonic()
    if job.wait(EXIT) is None:
        trial.problems.append(f"{number.name} has not ended it within {EXIT:.0f} s")
        job.signal(signal.SIGKILL)
        job.wait()
    return time.monotonic() - sent


def check_ended(trial: Trial, job: Job, kind: str) -> None:
    """Count the fault if the process died of it, and see that it died as is the convention."""
    number = {CUT: signal.SIGKILL, TORN: signal.SIGXFSZ}.get(kind) or signal.Signals[kind]
    if job.code in (-number, 128 + number):  # a shell shows both as 128 + number
        trial.tried += 1
    elif job.code != 0:
        trial.problems.append(f"it ended with {job.code}: {job.errors[-300:]}")
    if "Traceback" in job.errors:
        trial.problems.append(f"a traceback: {job.errors[job.errors.index('Traceback') :][-1500:]}")
