"""A study in MLflow: a run of its own, in which its trials' runs are nested."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.core import paths
from pipeline.core.errors import visible
from pipeline.params import Params
from pipeline.search.study.results import StudyResults, gain_text
from pipeline.search.study.storage import FINALS, StudyRef
from pipeline.search.study.trial_stats import distance_of, has_failed, seconds_of, state_of, steps_of
from pipeline.tracking.tracker import Tracker

LONGEST = 100  # letters of a file's name


def slug(name: str) -> str:
    """A study's name as a file's: letters, digits, "_" and "-"; a changed one gets a hash, so that no two meet.

    >>> slug("sagan"), slug("../a b").startswith("a-b-")
    ('sagan', True)
    """
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:LONGEST]
    return kept if kept and kept == name else f"{kept or 'study'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def study_page(study: str) -> Path:
    """The page of a study, or of the study that finals belong to."""
    return paths.REPORTS / "studies" / slug(study.partition(FINALS)[0]) / "study.html"


def page_note(ref: StudyRef) -> str:
    """Where the page of the study is, for the descriptions of runs."""
    return f"The page of the study: `{visible(page_tag(ref))}`"


def page_tag(ref: StudyRef) -> str:
    """Where the page of the study is, for the tag `report` of runs."""
    return str((paths.root() / study_page(ref.name)).absolute())


def study_folder(ref: StudyRef) -> Path:
    """The outbox of a study's own run on this machine; the finals share the study's."""
    name = ref.name.partition(FINALS)[0]
    key = hashlib.sha256(f"{ref.url} {name}".encode()).hexdigest()[:8]
    return paths.root() / ".work" / "search" / f"{slug(name)}-{key}"


def open_study_run(ref: StudyRef, params: Params, description: Mapping[str, Any]) -> Tracker:
    """The run of a study, new or reopened: its params are the study's settings and its recipe."""
    tracker = Tracker(study_folder(ref), group_of(description), f"study {ref.name}", params.runtime.tracking)
    settings = json.loads(ref.load().user_attrs["settings"])
    space, recipe = settings.pop("space"), settings.pop("recipe")
    tracker.params(settings | {f"space.{name}": json.dumps(value) for name, value in space.items()})
    tracker.params({f"recipe.{name}": value for name, value in recipe.items()})
    tracker.tags({"study": ref.name, "model": settings["model"], "data_sha256": settings["data_sha256"]})
    tracker.tags({"report": page_tag(ref), "mlflow.note.content": f"Tuning **{settings['model']}**. {page_note(ref)}"})
    return tracker


def group_of(description: Mapping[str, Any]) -> str:
    """The MLflow experiment of studies and their trials: one for each data set and image size."""
    return f"{description['name']}-{description['image_shape'][1]}px-search"


def track_progress(tracker: Tracker, trials: Sequence[FrozenTrial]) -> None:
    """Log the best distance and the cost after every trial that is over, in the order in which they ended.

    What was logged before is not logged twice.
    """
    over = [trial for trial in trials if trial.state.is_finished()]
    over.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    values = dict.fromkeys(("cost/steps", "cost/seconds", "trials/complete", "trials/pruned", "trials/failed"), 0.0)
    for count, trial in enumerate(over, 1):
        distance = distance_of(trial)
        if distance is not None:
            values["best"] = min(values.get("best", distance), distance)
        values["cost/steps"] += steps_of([trial])
        values["cost/seconds"] += seconds_of([trial])
        values[f"trials/{'failed' if has_failed(trial) else state_of(trial)}"] += 1
        tracker.metrics(count, values)


def track_results(tracker: Tracker, results: StudyResults) -> None:
    """Log what a study found: its progress, its finals, and the winner as tags."""
    track_progress(tracker, results.trials)
    for name, finalist in (("winner", results.winner), ("baseline", results.baseline)):
        if finalist.finals:
            tracker.metrics(len(results.trials), {f"finals/{name}": finalist.mean})
    winner = {f"winner.{name}": str(value) for name, value in results.winner.values.items()}
    tracker.tags({"winner": f"trial {results.winner.trial}", "verdict": gain_text(results), **winner})
