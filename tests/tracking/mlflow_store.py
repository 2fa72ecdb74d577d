"""What the tests of this folder ask of the local MLflow store and of an outbox."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.tracking.mlflow_client import open_client
from pipeline.tracking.tracker import Tracker


def opened(folder, **options):
    return Tracker(folder, "digits", "tiny-0", **options)


def client():
    return open_client(f"sqlite:///{Path.cwd() / 'mlflow.db'}")


def runs():
    experiment = client().get_experiment_by_name("digits")
    return client().search_runs([experiment.experiment_id])


def history(key, run=None):
    """All that the store holds of a metric, duplicates included."""
    run = run or runs()[0]
    return [(metric.step, metric.value) for metric in client().get_metric_history(run.info.run_id, key)]


def files(place, run=None):
    return sorted(item.path for item in client().list_artifacts((run or runs()[0]).info.run_id, place))


def entries(folder, kind):
    lines = (folder / "outbox.jsonl").read_bytes().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def picture(path, value=7, size=(40, 20)):
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
    return path


def named(name):
    """The only active run of that name."""
    (run,) = (run for run in runs() if run.info.run_name == name)
    return run
