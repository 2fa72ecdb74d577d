"""Training that tells MLflow: killed beside a sound server, or beside one whose disk is full.

In the end each point and each picture is there once, whatever was torn, sent twice or refused on the way.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.disk import ROOM, mounted, remount, used
from tests.faults.mlflow_checks import SPEED, check_mlflow_has_all, check_one_warning, serve, store, sync
from tests.faults.processes import Job
from tests.faults.random_faults import RandomFaults
from tests.faults.report import Trial
from tests.faults.sandbox import TRAIN, Sandbox, clear
from tests.faults.stages import CUT, SIGNALS, check_ended, ended_by, finish

LOCAL, REMOTE = "sqlite store's disk full", "server's disk full"
LATE = 60.0  # seconds that a store that refuses may cost the end of a training


def kill_tracked(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Kill a training that tells MLflow, up to three times, and go on with it."""
    kind = draws.in_turn([CUT, *(number.name for number in SIGNALS)])
    trial = Trial(f"{kind}, with MLflow", TRAIN.name)
    uri = f"http://127.0.0.1:{store(sandbox)}"
    with _tracking(sandbox):
        acts, seconds = _undisturbed(sandbox, uri)
        sandbox.restore(TRAIN)
        for _ in range(draws.randint(1, 3)):
            if kind == CUT:
                at = draws.randrange(acts)
                trial.about += f", act {at}"
                job = _train(sandbox, uri, watched=sandbox.roots(), cut=at, seed=draws.randrange(2**32))
                job.wait()
            else:
                job, delay = _train(sandbox, uri), draws.uniform(0, seconds)
                trial.about += f", {delay:.2f} s"
                if job.wait(delay) is None:
                    trial.slowest = max(trial.slowest, ended_by(job, signal.Signals[kind], trial))
            check_ended(trial, job, kind)
        finish(sandbox, TRAIN, trial, extra={"MLFLOW_TRACKING_URI": uri})
        sync(sandbox, trial, uri)
        # No replay measures again what was torn.
        check_mlflow_has_all(sandbox, trial, but={SPEED} if kind == CUT else ())
    return trial


def fill_store(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Train while the disk of MLflow's store is full, sooner or later; then make room, and send what is left."""
    kind, place = draws.in_turn((LOCAL, REMOTE)), sandbox.folder / "small"
    needed = _needed(sandbox, place)
    with _tracking(sandbox), mounted(place), _local_files(sandbox, place):
        sandbox.restore(TRAIN)
        server = serve(sandbox, place) if kind == REMOTE else None
        size = draws.randint(0, max(needed - used(place), 0) // 4096) * 4096
        trial = Trial(kind, f"{TRAIN.name}, {size} bytes left", tried=1)
        uri = f"http://127.0.0.1:{(place / 'port').read_text()}" if server else _sqlite(place)
        try:
            remount(place, f"size={used(place) + size}")
            job = _train(sandbox, uri)
            if job.wait(sandbox.seconds[TRAIN.name] * 3 + LATE) != 0:
                job.signal(signal.SIGKILL)
                trial.problems.append(f"training did not go on: {job.wait()}: {job.errors[-300:]}")
            check_one_warning(trial, job)
            trial.differ(sandbox.differences(TRAIN), "at the end")
            remount(place, f"size={ROOM}")
            for _ in range(2):  # the second finds nothing to send
                sync(sandbox, trial, uri)
            check_mlflow_has_all(sandbox, trial, place)
        finally:
            if server:
                server.signal(signal.SIGKILL)
                server.wait()
    return trial


@contextmanager
def _tracking(sandbox: Sandbox) -> Iterator[None]:
    sandbox.set(runtime__tracking=True)
    try:
        yield
    finally:
        sandbox.set(runtime__tracking=False)


def _train(sandbox: Sandbox, uri: str, **options: Any) -> Job:
    return sandbox.start(TRAIN, extra={"MLFLOW_TRACKING_URI": uri}, **options)


def _undisturbed(sandbox: Sandbox, uri: str) -> tuple[int, float]:
    """How many acts on files a training makes that tells a sound server all, and how long it takes."""
    acts = sandbox.folder / "acts-tracked"
    if not acts.exists():
        sandbox.restore(TRAIN)
        job = _train(sandbox, uri, watched=sandbox.roots(), acts=str(acts))
        sandbox.seconds["tracked"] = sandbox.succeed(job).seconds
    return len(json.loads(acts.read_text())), sandbox.seconds["tracked"]


def _needed(sandbox: Sandbox, place: Path) -> int:
    """The bytes of a disk on which a local store has room for all that a training tells it."""
    kept = sandbox.folder / "needed"
    if not kept.exists():
        with _tracking(sandbox), mounted(place), _local_files(sandbox, place):
            sandbox.restore(TRAIN)
            sandbox.succeed(_train(sandbox, _sqlite(place)))
            kept.write_text(str(used(place)))
    return int(kept.read_text())


def _sqlite(place: Path) -> str:
    return f"sqlite:///{place / 'mlflow.db'}"


@contextmanager
def _local_files(sandbox: Sandbox, place: Path) -> Iterator[None]:
    """Have the pictures beside the local store, too."""
    link = sandbox.repo / "mlruns"
    clear(link)
    link.symlink_to(place / "mlruns")
    try:
        yield
    finally:
        link.unlink()
