"""A sound MLflow server, and whether each point and picture of a training is in a store, once."""

import contextlib
import csv
import sqlite3
import time
import urllib.request
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from pipeline.tracking.mlflow_client import RUN_TAG
from pipeline.tracking.outbox import read_header
from tests.faults.processes import PATIENCE, Job
from tests.faults.report import Trial
from tests.faults.sandbox import TRAIN, Sandbox

SPEED = "images_per_second"


def store(sandbox: Sandbox) -> int:
    """The port of a sound server, which runs as long as the sandbox does; its store is in `sandbox.folder`/store."""
    folder = sandbox.folder / "store"
    if not folder.exists():
        folder.mkdir()
        sandbox.servers.append(serve(sandbox, folder))
    return int((folder / "port").read_text())


def serve(sandbox: Sandbox, folder: Path) -> Job:
    """Start a server whose store is in `folder`; with its tables made."""
    job = sandbox.fork_server.start(sandbox.folder, "tests.faults.store", str(folder))
    deadline = time.monotonic() + PATIENCE
    while not (folder / "port").exists():
        assert job.wait(0.05) is None and time.monotonic() < deadline, f"no MLflow server: {job.errors}"
    url = f"http://127.0.0.1:{(folder / 'port').read_text()}/api/2.0/mlflow/experiments/search?max_results=1"
    urllib.request.urlopen(url, timeout=PATIENCE).close()
    return job


def sync(sandbox: Sandbox, trial: Trial, uri: str) -> None:
    """Send what is unsent, as a user does once MLflow is well again."""
    job = sandbox.fork_server.start(sandbox.repo, "pipeline.tracking", "sync", extra={"MLFLOW_TRACKING_URI": uri})
    if job.wait() != 0:
        trial.problems.append(f"sync ended with {job.code}: {job.output[-200:]} {job.errors[-300:]}")


def check_one_warning(trial: Trial, job: Job) -> None:
    """See that a training said no more of MLflow than one line."""
    warnings = [line for line in job.errors.splitlines() if "MLflow" in line]
    if len(warnings) > 1:
        trial.problems.append(f"more than one warning: {warnings}")
    if "Traceback" in job.errors:
        trial.problems.append(f"a traceback: {job.errors[job.errors.index('Traceback') - 200 :][:3000]}")


def check_mlflow_has_all(
    sandbox: Sandbox, trial: Trial, folder: Path | None = None, but: Collection[str] = (), repo: Path | None = None
) -> None:
    """See that the store in `folder` has one run, with each point of the curves in it once, and each picture.

    A run that somebody has deleted does not count.

    but: the curves of which points may be missing.
    """
    wanted, found = Counter[tuple[str, int, float]](), Counter[tuple[str, int, float]]()
    repo = repo or sandbox.repo
    with open(repo / TRAIN.output / "history.csv", newline="") as file:
        names = {"images": "images", "loss/d": "loss/d", "loss/g": "loss/g", "pixel_std_ratio": "curve/pixel_std_ratio",
                 "distance": "curve/fd_efficientnet_lite0"}  # fmt: skip
        for row in csv.DictReader(file):
            wanted.update((key, int(row["step"]), float(row[name])) for name, key in names.items() if row[name])
            wanted.update([(SPEED, int(row["step"]), 0.0)] if row["loss/d"] else [])  # measured: any value
    folder = folder or sandbox.folder / "store"
    headers = [read_header(path.parent) for path in (repo / ".work").glob("*/outbox.jsonl")]
    ids = [header["value"]["id"] for header in headers if header]
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as opened:
        asked = "select run_uuid, value from tags join runs using (run_uuid) where key = ? and lifecycle_stage = ?"
        tags = opened.execute(asked, [RUN_TAG, "active"])
        runs = [run for run, value in tags if value in ids]
        for run in runs:
            asked = "select key, step, value from metrics where run_uuid = ? and key not like 'system/%'"
            points = opened.execute(asked, [run])
            found.update((key, step, 0.0 if key == SPEED else value) for key, step, value in points)
    lost, doubled = wanted - found, found - wanted
    lost = Counter({point: count for point, count in lost.items() if point[0] not in but})
    if len(runs) != 1 or lost or doubled:
        trial.problems.append(f"{len(runs)} runs, points lost {dict(lost)}, doubled or unknown {dict(doubled)}")
    pictures = [path.name.split("+")[2] for run in runs for path in folder.rglob(f"{run}/artifacts/images/*.png")]
    steps = sorted(str(int(path.stem)) for path in (repo / TRAIN.output / "grids").iterdir())
    if sorted(pictures) != steps:
        trial.problems.append(f"pictures of steps {sorted(pictures)}, not of {steps}")
