"""A study in MLflow: a run of its own, in which its trials' runs are nested.

The sequence of values and costs is of trials in the order in which they ended.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.core import paths
from pipeline.params import Params
from pipeline.search.study.study import FINALS, Place
from pipeline.search.study.trial_stats import distance_of, seconds_of, state_of, steps_of
from pipeline.tracking.tracker import Tracker

LONGEST = 100  # letters of a file's name


def slug(name: str) -> str:
    """A study's name as a file's: letters, digits, "_" and "-"; a changed one gets a hash, so that no two meet.

    >>> slug("sagan"), slug("../a b").startswith("a-b-")
    ('sagan', True)
    """
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:LONGEST]
    return kept if kept and kept == name else f"{kept or 'study'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def study_folder(at: Place) -> Path:
    """The spool of a study's own run on this machine; the finals share the study's."""
    name = at.name.partition(FINALS)[0]
    key = hashlib.sha256(f"{at.url} {name}".encode()).hexdigest()[:8]
    return paths.root() / ".work" / "search" / f"{slug(name)}-{key}"


def open_study(at: Place, params: Params, description: Mapping[str, Any]) -> Tracker:
    """The run of a study, new or reopened: its params are the study's settings and its recipe."""
    tracker = Tracker(study_folder(at), group_of(description), f"study {at.name}", params.runtime.tracking)
    told = json.loads(at.load().user_attrs["settings"])
    space, recipe = told.pop("space"), told.pop("recipe")
    tracker.params(told | {f"space.{name}": json.dumps(value) for name, value in space.items()})
    tracker.params({f"recipe.{name}": value for name, value in recipe.items()})
    tracker.tags({"study": at.name, "model": told["model"], "data_sha256": told["data_sha256"]})
    return tracker


def group_of(description: Mapping[str, Any]) -> str:
    """The MLflow experiment of studies and their trials: one for each data set and image size."""
    return f"{description['name']}-{description['image_shape'][1]}px-search"


def track_progress(tracker: Tracker, trials: Sequence[FrozenTrial]) -> None:
    """Log the best distance and the cost after every trial that is over; what was logged before is not logged twice."""
    over = [trial for trial in trials if trial.state.is_finished()]
    over.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    told = dict.fromkeys(("cost/steps", "cost/seconds", "trials/complete", "trials/pruned", "trials/diverged"), 0.0)
    for count, trial in enumerate(over, 1):
        distance = distance_of(trial)
        if distance is not None:
            told["best"] = min(told.get("best", distance), distance)
        told["cost/steps"] += steps_of([trial])
        told["cost/seconds"] += seconds_of([trial])
        told[f"trials/{state_of(trial)}"] += 1
        tracker.metrics(count, told)
