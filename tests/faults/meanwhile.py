"""What another hand does meanwhile: other data checked out, a second training begun, the project moved, MLflow tidied.

Nothing may be recorded under what it was not made from, and all goes on from where it was.
"""

import contextlib
import json
import shutil
import signal
import sqlite3
import time
import urllib.request
from pathlib import Path

import numpy as np

from pipeline.core.checksums import write_sums
from tests.faults.disk import check_refusal
from tests.faults.mlflow_checks import check_mlflow_has_all, check_one_warning, store, sync
from tests.faults.processes import PATIENCE, Job
from tests.faults.random_faults import RandomFaults
from tests.faults.report import Trial
from tests.faults.sandbox import MEASURED, STAGES, TRAIN, Sandbox, clear, compared
from tests.faults.stages import finish

PREPARED = "data/prepared"
LATE = 1.0  # seconds from a stage's last look at its inputs to its end


def meddle(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Do one of these to a stage that runs, and let it run again."""
    return draws.in_turn((_swap, _begin_a_second, _move, _delete_experiment))(sandbox, draws)


def _swap(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Put other prepared data in their place while a stage reads them, as `dvc checkout` does."""
    # Those whose other inputs tell of which data they are: they notice it even if they begin with the other data.
    readers = [stage for stage in STAGES if stage.name.startswith(("train", "fid", "report"))]
    stage = draws.choice(readers)
    trial, delay = Trial("data swapped meanwhile", stage.name), draws.uniform(0, sandbox.seconds[stage.name])
    sandbox.restore(stage)
    job = sandbox.start(stage)
    if job.wait(delay) is None:
        trial.tried, swapped = 1, time.monotonic()
        trial.about += f", after {delay:.2f} s"
        clear(sandbox.repo / PREPARED)
        shutil.copytree(_other_data(sandbox), sandbox.repo / PREPARED)
        if job.wait() != 0:
            check_refusal(trial, job)
        elif job.started + job.seconds > swapped + LATE:
            trial.problems.append(f"it ended well, {job.started + job.seconds - swapped:.1f} s later")
    clear(sandbox.repo / PREPARED)
    shutil.copytree(sandbox.whole / PREPARED, sandbox.repo / PREPARED)
    clear(sandbox.repo / ".work")  # whatever was trained on the other data has a folder of its own there
    finish(sandbox, stage, trial)
    return trial


def _other_data(sandbox: Sandbox) -> Path:
    """The prepared data, inverted."""
    other = sandbox.folder / "other"
    if not other.exists():
        shutil.copytree(sandbox.whole / PREPARED, other)
        for name in ("train.npy", "test.npy"):
            np.save(other / name, 255 - np.load(other / name))
        description = json.loads((other / "dataset.json").read_text())
        (other / "dataset.json").write_text(json.dumps({**description, "sha256": description["sha256"][::-1]}))
        (other / "SHA256SUMS").unlink()
        write_sums(other)
    return other


def _begin_a_second(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Begin the same training twice, and perhaps kill the first: the second waits for it, and ends what is left."""
    trial = Trial("two at once", TRAIN.name, tried=1)
    sandbox.restore(TRAIN)
    first, second = (sandbox.start(TRAIN, log=log) for log in ("", "-second"))
    if draws.random() < 0.5:
        first.wait(draws.uniform(0, sandbox.seconds[TRAIN.name]))
        first.signal(signal.SIGKILL)
        trial.about += f", the first killed after {time.monotonic() - first.started:.2f} s"
    for job, codes in ((first, (0, -signal.SIGKILL)), (second, (0,))):
        if job.wait() not in codes:
            trial.problems.append(f"one of two ended with {job.code}: {job.errors[-400:]}")
    trial.differ(sandbox.differences(TRAIN), "after both")
    finish(sandbox, TRAIN, trial)
    return trial


def _move(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Move or copy the project between two parts of a training that tells the project's own MLflow."""
    kind = draws.choice(("moved", "copied"))
    trial = Trial(f"project {kind} meanwhile", TRAIN.name, tried=1)
    place, there = sandbox.folder / "here", sandbox.folder / "there"
    for one in (place, there):
        clear(one)
    sandbox.set(runtime__tracking=True)
    try:
        for name in ("data/prepared", "data/reference"):
            shutil.copytree(sandbox.whole / name, place / name)
        shutil.copy2(sandbox.repo / "params.yaml", place)
    finally:
        sandbox.set(runtime__tracking=False)
    _stop_half_way(sandbox, place, "")
    place.rename(there) if kind == "moved" else shutil.copytree(place, there)
    before = _files(place)
    job = sandbox.fork_server.start(there, *TRAIN.command)
    if job.wait() != 0:
        trial.problems.append(f"it ended with {job.code}: {job.errors[-600:]}")
    trial.differ(list(compared(sandbox.whole / TRAIN.output, there / TRAIN.output, MEASURED)), "there")
    if _files(place) != before:
        trial.problems.append(f"it has written to where the project was: {sorted(_files(place) - before)[:4]}")
    check_one_warning(trial, job)
    if (there / "mlflow.db").exists():
        check_mlflow_has_all(sandbox, trial, there, repo=there)
    else:
        trial.problems.append("no mlflow.db where the project is")
    return trial


def _files(place: Path) -> set[str]:
    return {str(path) for path in place.rglob("*")}


def _delete_experiment(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Delete the MLflow experiment between two parts of a training: another has all of it."""
    trial, port = Trial("MLflow experiment deleted meanwhile", TRAIN.name, tried=1), store(sandbox)
    uri = f"http://127.0.0.1:{port}"
    sandbox.set(runtime__tracking=True)
    try:
        sandbox.restore(TRAIN)
        _stop_half_way(sandbox, sandbox.repo, uri)
        with contextlib.closing(sqlite3.connect(sandbox.folder / "store" / "mlflow.db")) as database:
            alive = "select experiment_id from experiments where lifecycle_stage = 'active' and experiment_id != 0"
            found = [str(row[0]) for row in database.execute(alive)]
        assert found, "no experiment was made"
        for experiment in found:
            asked = urllib.request.Request(
                f"{uri}/api/2.0/mlflow/experiments/delete",
                json.dumps({"experiment_id": experiment}).encode(),
                {"Content-Type": "application/json"},
            )
            urllib.request.urlopen(asked, timeout=PATIENCE).close()
        job = sandbox.start(TRAIN, extra={"MLFLOW_TRACKING_URI": uri})
        if job.wait() != 0:
            trial.problems.append(f"training did not go on: {job.code}: {job.errors[-400:]}")
        check_one_warning(trial, job)
        trial.differ(sandbox.differences(TRAIN), "at the end")
        sync(sandbox, trial, uri)
        check_mlflow_has_all(sandbox, trial)
    finally:
        sandbox.set(runtime__tracking=False)
    return trial


def _stop_half_way(sandbox: Sandbox, place: Path, uri: str) -> Job:
    """Train in the project at `place` until there is a checkpoint, and stop."""
    job = sandbox.fork_server.start(place, *TRAIN.command, extra={"MLFLOW_TRACKING_URI": uri})
    while not list((place / ".work").glob("*/step-*.safetensors")) and job.wait(0) is None:
        time.sleep(0.01)
    job.signal(signal.SIGTERM)
    assert job.wait() in (0, 128 + signal.SIGTERM), f"{job.code}: {job.errors}"
    return job
