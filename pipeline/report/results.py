"""What the stages left behind, read back and ranked: experiments, standings, and the leaderboard.

Only files are read, and only those of the experiments in `compare:`; folders of others may lie beside them. Values
measured by different protocols never meet in one ranking: each protocol is a `Group` with ranks of its own.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import layout
from pipeline.errors import PipelineError
from pipeline.files import read_json
from pipeline.params import Params

DATASET_KEYS = ("name", "train", "test", "image_shape", "classes", "skipped", "sha256")
FLOOR_KEYS = ("metric", "value", "train_images", "test_images")
RUN_KEYS = (
    "recipe", "image_shape", "steps", "images_seen", "parameters_g", "parameters_d", "curve", "fingerprint",
    "data_sha256",
)  # fmt: skip
SCORE_KEYS = ("floor", "ratio_to_floor", "protocol")


@dataclass(frozen=True)
class Outcome:
    """One experiment: its score, what made it, its curves, and where its pictures lie.

    index: the model's place in `compare.models`, which is its colour.
    info: generator.json.
    curve: history.csv with a column `seconds`, the training time at each step.
    seconds: the whole training time, nan if it was not measured.
    """

    model: str
    seed: int
    index: int
    value: float
    floor: float
    ratio: float
    protocol: dict[str, Any]
    info: dict[str, Any]
    curve: pd.DataFrame
    seconds: float

    @property
    def name(self) -> str:
        return layout.experiment_name(self.model, self.seed)

    @property
    def samples(self) -> Path:
        return layout.SAMPLES / self.name

    @property
    def singles(self) -> list[Path]:
        return sorted((self.samples / "final").glob("*.png"))

    @property
    def last_grid(self) -> Path:
        """The picture with which progress.gif ends."""
        return max((layout.RUNS / self.name / "grids").glob("*.png"))

    @property
    def distances(self) -> list[float]:
        """The small-sample curve: untrained first, final last; empty if it was never measured."""
        return [float(value) for value in self.curve["distance"].dropna()]


@dataclass(frozen=True)
class Standing:
    """One model in one ranking: its rank, and its outcomes from the lowest value to the highest."""

    rank: int
    outcomes: tuple[Outcome, ...]

    @property
    def model(self) -> str:
        return self.outcomes[0].model

    @property
    def values(self) -> list[float]:
        return [outcome.value for outcome in self.outcomes]


@dataclass(frozen=True)
class Group:
    """The models that were measured by one protocol, from the lowest mean value to the highest."""

    protocol: dict[str, Any]
    standings: tuple[Standing, ...]

    @property
    def floor(self) -> float:
        return self.standings[0].outcomes[0].floor

    @property
    def key(self) -> str:
        """A short name of the protocol: the first digits of the sha256 of its JSON."""
        return hashlib.sha256(json.dumps(self.protocol, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Results:
    """All that the report says; `features` is the extractor's dimension, None if it is not known."""

    dataset: dict[str, Any]
    floor: dict[str, Any]
    features: int | None
    outcomes: tuple[Outcome, ...]

    @property
    def metric(self) -> str:
        return str(self.floor["metric"])

    @property
    def models(self) -> dict[str, list[Outcome]]:
        """The outcomes of each model, in the order of `compare`."""
        models: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            models.setdefault(outcome.model, []).append(outcome)
        return models

    @property
    def groups(self) -> tuple[Group, ...]:
        """One group for each protocol, the largest first."""
        members: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            members.setdefault(json.dumps(outcome.protocol, sort_keys=True), []).append(outcome)
        return tuple(_rank(group) for group in sorted(members.values(), key=len, reverse=True))


def read_results(params: Params) -> Results:
    """Read the outcomes of every model and seed in `compare:`, from the current folder.

    Raises:
        PipelineError: a file is missing, damaged, or was made from other data than the prepared ones.
    """
    dataset = _read_keys(layout.PREPARED / "dataset.json", DATASET_KEYS)
    floor = _read_keys(layout.REFERENCE / "floor.json", FLOOR_KEYS)
    outcomes = tuple(
        _read_outcome(model, seed, index, floor["metric"], dataset["sha256"])
        for index, model in enumerate(params.compare.models)
        for seed in params.compare.seeds
    )
    return Results(dataset, floor, _feature_dimension(), outcomes)


def leaderboard(results: Results) -> pd.DataFrame:
    """One row an experiment, by rank of its model and then by value; nothing in it is measured time.

    Where protocols differ, the rows of one protocol follow those of the other, and ranks begin again at 1.
    """
    rows = [
        {
            "rank": standing.rank,
            "model": run.model,
            "seed": run.seed,
            "metric": results.metric,
            "value": run.value,
            "floor": run.floor,
            "ratio_to_floor": run.ratio,
            "network": run.info["recipe"]["network"],
            "loss": run.info["recipe"]["loss"],
            **{key: run.info[key] for key in ("steps", "images_seen", "parameters_g", "parameters_d")},
            "protocol": group.key,
        }
        for group in results.groups
        for standing in group.standings
        for run in standing.outcomes
    ]
    return pd.DataFrame(rows)


def differing(mappings: list[dict[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all `mappings`, in their order of appearance."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    missing = object()
    return [key for key in keys if any(m.get(key, missing) != mappings[0].get(key, missing) for m in mappings)]


def _rank(outcomes: list[Outcome]) -> Group:
    """Models by their mean; equal means share a rank."""
    models: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.value, outcome.seed)):
        models.setdefault(outcome.model, []).append(outcome)
    means = {model: statistics.fmean(run.value for run in runs) for model, runs in models.items()}
    standings = (
        Standing(1 + sum(other < means[model] for other in means.values()), tuple(models[model]))
        for model in sorted(models, key=lambda model: (means[model], models[model][0].index))
    )
    return Group(outcomes[0].protocol, tuple(standings))


def _read_outcome(model: str, seed: int, index: int, metric: str, data_sha256: str) -> Outcome:
    name = layout.experiment_name(model, seed)
    run, samples = layout.RUNS / name, layout.SAMPLES / name
    info = _read_keys(run / "generator.json", RUN_KEYS)
    scores = _read_keys(layout.SCORES / name / "metrics.json", (metric, *SCORE_KEYS))
    for path, pattern in [(run / "grids", "*.png"), (samples, "grid.png"), (samples, "progress.gif"),
                          (samples / "final", "*.png")]:  # fmt: skip
        if not any(path.glob(pattern)):
            raise PipelineError(f"{path / pattern} does not exist: run `dvc repro`, which makes it")
    if info["data_sha256"] != data_sha256:
        raise PipelineError(f"{run} was trained on other data than {layout.PREPARED} holds: run `dvc repro`")
    numbers = [scores[key] for key in (metric, "floor", "ratio_to_floor")]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise PipelineError(f"{layout.SCORES / name / 'metrics.json'} holds values that are not finite numbers: "
                            "delete it and run `dvc repro` again")  # fmt: skip
    value, floor, ratio = map(float, numbers)
    curve = _read_csv(run / "history.csv", ("step", "images", "loss/d", "loss/g", "distance"))
    timing = _read_csv(run / "timing.csv", ("step", "seconds"), may_be_empty=True)
    seconds = float(timing["seconds"].iloc[-1]) if len(timing) else math.nan
    clock = np.interp(curve["step"], [0, *timing["step"]], [0, *timing["seconds"]]) if len(timing) else math.nan
    return Outcome(
        model, seed, index, value, floor, ratio, scores["protocol"], info, curve.assign(seconds=clock), seconds
    )


def _read_keys(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON file that must hold an object with `keys`."""
    value = read_json(path)
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise PipelineError(f"{path} lacks {', '.join(missing)}: run `dvc repro`, which makes it anew")
    return value


def _read_csv(path: Path, columns: tuple[str, ...], may_be_empty: bool = False) -> pd.DataFrame:
    """A CSV file that must hold numbers in `columns`."""
    frame = _attempt(path, lambda: pd.read_csv(path))
    if frame.empty and may_be_empty:
        return pd.DataFrame(columns=list(columns), dtype=float)
    if not set(columns) <= set(frame.columns):
        raise PipelineError(f"{path} lacks columns of {', '.join(columns)}: delete it and run `dvc repro` again")
    return _attempt(path, lambda: frame[list(columns)].astype(float))


def _attempt(path: Path, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    try:
        return read()
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except ValueError as error:
        raise PipelineError(f"{path} is not valid CSV ({error}): delete it and run `dvc repro` again") from None


def _feature_dimension() -> int | None:
    try:
        return int(np.load(layout.REFERENCE / "features.npy", mmap_mode="r", allow_pickle=False).shape[1])
    except (OSError, ValueError, IndexError):
        return None
