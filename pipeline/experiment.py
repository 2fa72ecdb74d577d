"""One experiment: one recipe with one seed on one data set. A stage and a search trial share it."""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.checkpoint import fingerprint
from pipeline.errors import PipelineError, suggest
from pipeline.models import NETWORKS
from pipeline.params import Params, Recipe
from pipeline.provenance import commit
from pipeline.tracking import Tracker
from pipeline.warm_start import origin


@dataclass(frozen=True)
class Experiment:
    """What is trained on what: `description` is the prepared data's dataset.json."""

    params: Params
    model: str
    seed: int
    description: dict[str, Any]

    def __post_init__(self) -> None:
        if self.model not in self.params.models:
            raise PipelineError(f"{self.model}: no such model; {suggest(self.model, self.params.models)}")

    @property
    def name(self) -> str:
        return layout.experiment_name(self.model, self.seed)

    @property
    def recipe(self) -> Recipe:
        return self.params.models[self.model]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.description["image_shape"]
        return channels, height, width

    @property
    def n_classes(self) -> int:
        return len(self.description["classes"])

    @property
    def conditional(self) -> bool:
        return NETWORKS[self.recipe.network].conditional

    @functools.cached_property
    def origin(self) -> dict[str, Any] | None:
        """Whose weights training begins with, see `pipeline.warm_start.origin`; None = its own random ones."""
        try:
            return origin(self.recipe.init_from) if self.recipe.init_from else None
        except PipelineError as error:
            raise PipelineError(f"models.{self.model}.init_from: {error}") from None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with whatever shapes the trained weights or the learning curve.

        It is taken once: code that is edited while this trains is another experiment's.
        """
        return fingerprint(
            self.recipe,
            budget=self.params.train.model_dump(),
            extractor=[self.params.metrics.extractor, self.params.metrics.weights],
            data=self.description["sha256"],
            origin=self.origin,
            seed=self.seed,
        )

    def images_seen(self, step: int) -> int:
        """Real images, repeated ones too, that D has been shown after so many updates of G."""
        return step * self.recipe.n_critic * self.recipe.batch_size

    def work_folder(self) -> Path:
        return layout.work_folder(self.name, self.fingerprint)

    def tags(self) -> dict[str, str]:
        """What a run is found by in MLflow."""
        return {
            "model": self.model,
            "data_sha256": self.description["sha256"],
            "fingerprint": self.fingerprint,
            "initialised_from": "nothing" if self.origin is None else json.dumps(self.origin),
            "git_commit": commit(),
            "dvc_stage": os.environ.get("DVC_STAGE", "none"),
            "dvc_experiment": os.environ.get("DVC_EXP_NAME", "none"),
        }

    def open_tracker(self) -> Tracker:
        """The MLflow run of this experiment, new or reopened.

        One MLflow experiment holds one data set and protocol: runs that it lists side by side are comparable. So what
        is measured by another protocol becomes another run.
        """
        metrics, generate = self.params.metrics, self.params.generate
        measured = [self.description["sha256"], metrics.extractor, metrics.weights, metrics.unknown_weights]
        measured += [generate.samples, generate.seed, generate.weights, generate.labels, self.recipe.init_from]
        key = hashlib.sha256(json.dumps(measured).encode()).hexdigest()[:6]
        group = f"{self.description['name']}-{self.image_shape[1]}px-{metrics.extractor}-{key}"
        folder = layout.work_folder(self.name, f"{self.fingerprint}-{key}")
        tracker = Tracker(folder, group, self.name, self.params.runtime.tracking)
        tracker.params({**self.recipe.model_dump(), **self.params.train.model_dump(), "seed": self.seed})
        tracker.tags(self.tags())
        return tracker
