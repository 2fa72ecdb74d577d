"""Training that tells MLflow: killed beside a sound server, or beside one whose disk is full.

In the end each point and each picture is there once, whatever was torn, sent twice or refused on the way.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.chance import Chance
from tests.faults.disk import ROOM, mounted, remount, used
from tests.faults.processes import Job
from tests.faults.stages import CUT, SIGNALS, check_ended, ended_by, finish
from tests.faults.table import Trial
from tests.faults.told import SPEED, check_one_warning, check_told, serve, store, sync
from tests.faults.world import TRAIN, World, clear

LOCAL, REMOTE = "sqlite store's disk full", "server's disk full"
LATE = 60.0  # seconds that a store that refuses may cost the end of a training


def kill_tracked(world: World, chance: Chance) -> Trial:
    """Kill a training that tells MLflow, up to three times, and go on with it."""
    kind = chance.in_turn([CUT, *(number.name for number in SIGNALS)])
    trial = Trial(f"{kind}, with MLflow", TRAIN.name)
    uri = f"http://127.0.0.1:{store(world)}"
    with _tracking(world):
        acts, seconds = _undisturbed(world, uri)
        world.restore(TRAIN)
        for _ in range(chance.randint(1, 3)):
            if kind == CUT:
                at = chance.randrange(acts)
                trial.about += f", act {at}"
                job = _train(world, uri, watched=world.roots(), cut=at, seed=chance.randrange(2**32))
                job.wait()
            else:
                job, delay = _train(world, uri), chance.uniform(0, seconds)
                trial.about += f", {delay:.2f} s"
                if job.wait(delay) is None:
                    trial.slowest = max(trial.slowest, ended_by(job, signal.Signals[kind], trial))
            check_ended(trial, job, kind)
        finish(world, TRAIN, trial, extra={"MLFLOW_TRACKING_URI": uri})
        sync(world, trial, uri)
        check_told(world, trial, but={SPEED} if kind == CUT else ())  # no replay measures again what was torn
    return trial


def fill_store(world: World, chance: Chance) -> Trial:
    """Train while the disk of MLflow's store is full, sooner or later; then make room, and send what is left."""
    kind, place = chance.in_turn((LOCAL, REMOTE)), world.folder / "small"
    needed = _needed(world, place)
    with _tracking(world), mounted(place), _local_files(world, place):
        world.restore(TRAIN)
        server = serve(world, place) if kind == REMOTE else None
        size = chance.randint(0, max(needed - used(place), 0) // 4096) * 4096
        trial = Trial(kind, f"{TRAIN.name}, {size} bytes left", tried=1)
        uri = f"http://127.0.0.1:{(place / 'port').read_text()}" if server else _sqlite(place)
        try:
            remount(place, f"size={used(place) + size}")
            job = _train(world, uri)
            if job.wait(world.seconds[TRAIN.name] * 3 + LATE) != 0:
                job.signal(signal.SIGKILL)
                trial.problems.append(f"training did not go on: {job.wait()}: {job.errors[-300:]}")
            check_one_warning(trial, job)
            trial.differ(world.differences(TRAIN), "at the end")
            remount(place, f"size={ROOM}")
            for _ in range(2):  # the second finds nothing to send
                sync(world, trial, uri)
            check_told(world, trial, place)
        finally:
            if server:
                server.signal(signal.SIGKILL)
                server.wait()
    return trial


@contextmanager
def _tracking(world: World) -> Iterator[None]:
    world.set(runtime__tracking=True)
    try:
        yield
    finally:
        world.set(runtime__tracking=False)


def _train(world: World, uri: str, **options: Any) -> Job:
    return world.start(TRAIN, extra={"MLFLOW_TRACKING_URI": uri}, **options)


def _undisturbed(world: World, uri: str) -> tuple[int, float]:
    """How many acts on files a training makes that tells a sound server all, and how long it takes."""
    acts = world.folder / "acts-tracked"
    if not acts.exists():
        world.restore(TRAIN)
        job = _train(world, uri, watched=world.roots(), acts=str(acts))
        world.seconds["tracked"] = world.succeed(job).seconds
    return len(json.loads(acts.read_text())), world.seconds["tracked"]


def _needed(world: World, place: Path) -> int:
    """The bytes of a disk on which a local store has room for all that a training tells it."""
    kept = world.folder / "needed"
    if not kept.exists():
        with _tracking(world), mounted(place), _local_files(world, place):
            world.restore(TRAIN)
            world.succeed(_train(world, _sqlite(place)))
            kept.write_text(str(used(place)))
    return int(kept.read_text())


def _sqlite(place: Path) -> str:
    return f"sqlite:///{place / 'mlflow.db'}"


@contextmanager
def _local_files(world: World, place: Path) -> Iterator[None]:
    """Have the pictures beside the local store, too."""
    link = world.repo / "mlruns"
    clear(link)
    link.symlink_to(place / "mlruns")
    try:
        yield
    finally:
        link.unlink()
