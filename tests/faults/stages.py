"""Kills of single stages: signals at any moment, power cuts at any act on a file, writes that break off in the middle.

A stage is killed up to three times in a row, each time the same command goes on; then it is let run to its end.
"""

import random
import signal
import time
from typing import Any

from pipeline.core.errors import STOP_SIGNALS
from tests.faults.processes import Job
from tests.faults.report import Trial
from tests.faults.sandbox import STAGES, Sandbox, Stage

SIGNALS = (signal.SIGKILL, *STOP_SIGNALS)
CUT, TORN = "power cut", "torn write"
EXIT = 10.0  # seconds in which a signal must end a stage


def kill(sandbox: Sandbox, draws: random.Random) -> Trial:
    """Kill one stage, and see whether it ends as if it had not been killed."""
    stage = draws.choices(STAGES, [4 if "train" in stage.name else 1 for stage in STAGES])[0]
    kind = draws.choice([*(number.name for number in SIGNALS), CUT, TORN])
    with_its_own = draws.random() < 0.3  # what an earlier run left, whole, is there already
    trial = Trial(kind, f"{stage.name}{' over its own output' if with_its_own else ''}")
    sandbox.restore(stage, with_its_own)
    for _ in range(draws.randint(1, 3)):
        job = _disturbed(sandbox, stage, kind, draws, trial)
        check_ended(trial, job, kind)
        trial.differ(sandbox.halves(stage), "right after the kill")
    finish(sandbox, stage, trial)
    return trial


def finish(sandbox: Sandbox, stage: Stage, trial: Trial, **options: Any) -> None:
    """Let the command run to its end, and compare all bytes; nothing else may be left."""
    job = sandbox.start(stage, **options)
    if job.wait() != 0:
        job.kill_group(signal.SIGKILL)
        trial.problems.append(f"the command run again ended with {job.wait()}: {job.errors[-300:]}")
    trial.differ(sandbox.differences(stage), "at the end")
    trial.problems += [f"{path} is left" for path in sandbox.temporaries()]
    trial.problems += [f"still runs: {command}" for command in sandbox.left_over()]


def _disturbed(sandbox: Sandbox, stage: Stage, kind: str, draws: random.Random, trial: Trial) -> Job:
    """Start a stage and do the fault to it; it is over then."""
    if kind == CUT:
        acts = sandbox.acts[stage.name]
        renames = [place for place, (act, _) in enumerate(acts) if act == "os.rename"]
        beside = draws.choice(renames) + draws.choice((0, 1)) if renames else 0  # just before one, or just after
        at = beside if draws.random() < 0.5 else draws.randrange(len(acts))
        job = sandbox.start(stage, watched=sandbox.roots(), cut=at, seed=draws.randrange(2**32))
        trial.about += f", act {at}"
    elif kind == TORN:
        sizes = [path.stat().st_size for path in (sandbox.whole / stage.output).rglob("*") if path.is_file()]
        limit = draws.randint(4096, max(max(sizes), 40_000))
        job = sandbox.start(stage, file_limit=limit, torn=True)
        trial.about += f", {limit} bytes"
    else:
        job = sandbox.start(stage)
        delay = draws.uniform(0, sandbox.seconds[stage.name])
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
