"""Results of all stages, read from their files and ranked.

Only the experiments in `compare:` are read; folders of other experiments are ignored. Values measured with different
protocols are never ranked together: each protocol is a `ProtocolGroup` with its own ranks.
"""

import hashlib
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.params import Params
from pipeline.report.formatting import decimals
from pipeline.report.readers import finite_numbers, read_csv, read_keys
from pipeline.report.scores import Scores, read_scores

DATASET_KEYS = ("name", "train", "test", "image_shape", "classes", "skipped", "sha256")
TOLD_BESIDE = ("sampler", "network_evaluations", "training_precision")  # of a protocol: these keep no models apart
PENALTY = "penalty/"  # prefix of further columns of history.csv, one for each penalty
FLOOR_KEYS = ("metric", "value", "train_images", "test_images", "metrics", "sampling_error")
RUN_KEYS = (
    "recipe", "image_shape", "steps", "images_seen", "parameters_g", "parameters_d", "curve", "rollbacks",
    "fingerprint", "data_sha256",
)  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """One experiment: its score, recipe, curves and the paths of its pictures.

    index: the model's position in `compare.models`, which decides its colour.
    info: the content of generator.json.
    curve: history.csv with an added column `seconds`, the training time at each step.
    seconds: the total training time; nan if it was not measured.
    """

    model: str
    seed: int
    index: int
    scores: Scores
    info: dict[str, Any]
    curve: pd.DataFrame
    seconds: float

    @property
    def value(self) -> float:
        """The distance by which models are ranked."""
        return self.scores.value

    @property
    def protocol(self) -> dict[str, Any]:
        """What must agree before two values may be ranked together."""
        return {key: value for key, value in self.scores.protocol.items() if key not in TOLD_BESIDE}

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated for one image: once by a GAN."""
        return int(self.scores.protocol.get("network_evaluations", 1))

    @property
    def name(self) -> str:
        return paths.experiment_name(self.model, self.seed)

    @property
    def samples(self) -> Path:
        return paths.SAMPLES / self.name

    @property
    def closest(self) -> Path:
        """The picture of the samples that are closest to training images."""
        return paths.CLOSEST / f"{self.name}.png"

    @property
    def distances(self) -> list[float]:
        """The small-sample distances from the untrained to the final generator; empty if none was measured."""
        return [float(value) for value in self.curve["distance"].dropna()]


@dataclass(frozen=True)
class RankedModel:
    """One model in one ranking: its rank, and its runs (one for each seed) from the lowest value to the highest."""

    rank: int
    runs: tuple[RunResult, ...]

    @property
    def model(self) -> str:
        return self.runs[0].model

    @property
    def values(self) -> list[float]:
        return [run.value for run in self.runs]

    @property
    def ratio(self) -> float | None:
        """How often the floor, at equal numbers of images, as a mean over runs; None if the floor is 0."""
        known = [run.scores.ratio for run in self.runs if run.scores.ratio is not None]
        return statistics.fmean(known) if known else None


@dataclass(frozen=True)
class ProtocolGroup:
    """The models that were measured with one protocol, from the lowest mean value to the highest."""

    protocol: dict[str, Any]
    ranking: tuple[RankedModel, ...]

    @property
    def floor(self) -> float | None:
        """The distance of `floor_images` real test images; None if it is 0."""
        return self.ranking[0].runs[0].scores.floor

    @property
    def floor_images(self) -> int:
        """The number of images on both sides of `ratio_to_floor`."""
        return int(self.protocol["floor_images"])

    @property
    def one_class(self) -> int | None:
        """The class to which the real images are restricted; None if they are all training images."""
        _, _, label = str(self.protocol["real_split"]).partition(", class ")
        return int(label) if label else None

    @property
    def key(self) -> str:
        """A short name for the protocol: the first 12 digits of the sha256 of its JSON."""
        return hashlib.sha256(json.dumps(self.protocol, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Results:
    """Everything the report is made from.

    dataset: the content of dataset.json.
    floor: the content of floor.json: the metrics of real test images.
    features: the dimension of the extractor's features; None if it is not known.
    """

    dataset: dict[str, Any]
    floor: dict[str, Any]
    features: int | None
    runs: tuple[RunResult, ...]

    @property
    def metric(self) -> str:
        return str(self.floor["metric"])

    @property
    def places(self) -> int:
        """The decimals of every distance."""
        return decimals(run.value for run in self.runs)

    def class_name(self, label: str) -> str:
        """The number of a class, and its name if that is another text."""
        names = self.dataset["classes"]
        name = str(names[int(label)]) if label.isdecimal() and int(label) < len(names) else label
        return label if name == label else f"{label}: {name}"

    def measured_floor(self, group: ProtocolGroup) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics of all real test images and their sampling errors; empty if the group is about a single class."""
        return (self.floor["metrics"], self.floor["sampling_error"]) if group.one_class is None else ({}, {})

    @property
    def models(self) -> dict[str, list[RunResult]]:
        """The runs of each model, in the order of `compare`."""
        models: dict[str, list[RunResult]] = {}
        for run in self.runs:
            models.setdefault(run.model, []).append(run)
        return models

    @property
    def groups(self) -> tuple[ProtocolGroup, ...]:
        """One group for each protocol, the largest first."""
        members: dict[str, list[RunResult]] = {}
        for run in self.runs:
            members.setdefault(json.dumps(run.protocol, sort_keys=True), []).append(run)
        return tuple(_rank(group) for group in sorted(members.values(), key=len, reverse=True))


def read_results(params: Params) -> Results:
    """Read the results of every model and seed in `compare:`, from the current folder.

    Raises:
        PipelineError: a file is missing or damaged, or a model was trained on other data than the prepared data.
    """
    dataset = read_keys(paths.PREPARED / "dataset.json", DATASET_KEYS)
    path = paths.REFERENCE / "floor.json"
    floor = read_keys(path, FLOOR_KEYS)
    floor |= {key: finite_numbers(path, floor[key]) for key in ("metrics", "sampling_error")}
    runs = tuple(
        _read_run(model, seed, index, floor["metric"], dataset["sha256"])
        for index, model in enumerate(params.compare.models)
        for seed in params.compare.seeds
    )
    return Results(dataset, floor, _feature_dimension(), runs)


def differing(mappings: list[dict[str, Any]]) -> list[str]:
    """The keys whose values differ between `mappings`, in their order of appearance."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    missing = object()
    return [key for key in keys if any(m.get(key, missing) != mappings[0].get(key, missing) for m in mappings)]


def _rank(runs: list[RunResult]) -> ProtocolGroup:
    """Models by their mean; equal means share a rank."""
    models: dict[str, list[RunResult]] = {}
    for run in sorted(runs, key=lambda run: (run.value, run.seed)):
        models.setdefault(run.model, []).append(run)
    means = {model: statistics.fmean(run.value for run in members) for model, members in models.items()}
    ranking = (
        RankedModel(1 + sum(other < means[model] for other in means.values()), tuple(models[model]))
        for model in sorted(models, key=lambda model: (means[model], models[model][0].index))
    )
    return ProtocolGroup(runs[0].protocol, tuple(ranking))


def _read_run(model: str, seed: int, index: int, metric: str, data_sha256: str) -> RunResult:
    name = paths.experiment_name(model, seed)
    run = paths.RUNS / name
    samples = paths.SAMPLES / name
    info = read_keys(run / "generator.json", RUN_KEYS)
    scores = read_scores(paths.SCORES / name / "record.json", metric)
    for path, pattern in [(run / "grids", "*.png"), (samples, "grid.png"), (samples, "progress.gif"),
                          (samples / "final", "*.png"), (paths.CLOSEST, f"{name}.png")]:  # fmt: skip
        if not any(path.glob(pattern)):
            raise PipelineError(f"{path / pattern} does not exist: run `dvc repro`, which makes it")
    if info["data_sha256"] != data_sha256:
        raise PipelineError(f"{run} was trained on other data than {paths.PREPARED} holds: run `dvc repro`")
    curve = read_csv(run / "history.csv", ("step", "images", "loss/g", "distance"), ("loss/d", PENALTY))
    timing = read_csv(run / "timing.csv", ("step", "seconds"), may_be_empty=True)
    seconds = float(timing["seconds"].iloc[-1]) if len(timing) else math.nan
    clock = np.interp(curve["step"], [0, *timing["step"]], [0, *timing["seconds"]]) if len(timing) else math.nan
    return RunResult(model, seed, index, scores, info, curve.assign(seconds=clock), seconds)


def _feature_dimension() -> int | None:
    try:
        return int(np.load(paths.REFERENCE / "train_features.npy", mmap_mode="r", allow_pickle=False).shape[1])
    except (OSError, ValueError, IndexError):
        return None
