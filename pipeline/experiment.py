"""One experiment: one recipe with one seed on one data set. A stage and a search trial share it."""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.core import bfloat16, paths
from pipeline.core.devices import choose_device
from pipeline.core.errors import PipelineError, suggest, visible
from pipeline.core.provenance import commit
from pipeline.core.versions import program_of, program_of_entry, program_of_function, version
from pipeline.gan.augment import AUGMENTATIONS, augment_for_discriminator
from pipeline.gan.flow import loss_of, update_flow
from pipeline.gan.losses import smoothed
from pipeline.gan.optimisers import OPTIMISERS, make_optimiser
from pipeline.gan.penalties import PENALTIES, clip_weights, input_gradients
from pipeline.gan.warm_start import origin
from pipeline.metrics import sources_of
from pipeline.models import NETWORKS
from pipeline.params import Params, Recipe
from pipeline.sampling.generation import wanted_labels
from pipeline.tracking.addresses import group_name
from pipeline.tracking.tracker import Tracker

PACKAGE = Path(__file__).parent
SHAPING = (  # the code that shapes every training, registries apart
    "core/bfloat16.py", "core/devices.py", "core/randomness.py", "core/world.py", "data/batches.py", "gan/rates.py",
    "gan/schedules.py", "gan/state.py", "gan/step.py", "gan/step_terms.py", "gan/terms.py", "gan/warm_start.py",
    "metrics/frechet.py", "models/batch_norm.py", "models/build.py", "models/layers.py", "models/spectral_norm.py",
    "sampling/images.py", "training/monitor.py", "training/trainer.py",
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """What is trained on what: `description` is the prepared data's dataset.json.

    Its params never say `train.precision: auto`, but what that is on the device: so do its fingerprint and its run.
    """

    params: Params
    model: str
    seed: int
    description: dict[str, Any]

    def __post_init__(self) -> None:
        train = self.params.train
        if train.precision == "auto":
            known = bfloat16.settled("auto", choose_device(self.params.runtime.device))
            train = train.model_copy(update={"precision": known})
            object.__setattr__(self, "params", self.params.model_copy(update={"train": train}))
        if self.model not in self.params.models:
            raise PipelineError(f"{self.model}: no such model; {suggest(self.model, self.params.models)}")
        if isinstance(self.params.generate.labels, int):  # a class that is not there is said before anything is trained
            wanted_labels(self.params.generate, self.description)

    @property
    def name(self) -> str:
        return paths.experiment_name(self.model, self.seed)

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
        """Whose weights training begins with, see `pipeline.gan.warm_start.origin`; None = its own random ones."""
        try:
            return origin(self.recipe.init_from) if self.recipe.init_from else None
        except PipelineError as error:
            raise PipelineError(f"models.{self.model}.init_from: {error}") from None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with whatever shapes the trained weights or the learning curve.

        It is taken once: code that is edited while this trains is another experiment's.
        """
        metrics = self.params.metrics
        return fingerprint(
            self.recipe,
            metrics.extractor,
            budget=self.params.train.effective(),
            weights=metrics.weights,
            data=self.description["sha256"],
            origin=self.origin,
            seed=self.seed,
        )

    def images_seen(self, step: int) -> int:
        """Real images, repeated ones too, that D has been shown after so many updates of G."""
        return step * self.recipe.n_critic * self.recipe.batch_size

    def work_folder(self) -> Path:
        return paths.work_folder(self.name, self.fingerprint)

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
            "report": str(self.page),
            "mlflow.note.content": self.note(),
        }

    @property
    def page(self) -> Path:
        """The page of the comparison, which is made later."""
        return (paths.root() / paths.REPORTS / "report.html").absolute()

    def note(self) -> str:
        """What MLflow shows as the run's description."""
        data, width = self.description, self.image_shape[2]
        return (
            f"**{self.model}** with seed {self.seed} on {data['train']:,} images of {data['name']}, "
            f"{width} pixels wide: network {self.recipe.network}, loss {self.recipe.loss}, {self.params.train.steps:,} "
            f"steps. The page of the comparison: `{visible(str(self.page))}`"
        )

    def open_tracker(self, quiet: bool = False) -> Tracker:
        """The MLflow run of this experiment, new or reopened; `quiet`: only if it lacks something, see `Tracker`.

        What is measured by another protocol becomes another run, of another MLflow experiment.
        """
        group = group_name(self.params, self.recipe.init_from, self.description)
        folder = paths.work_folder(self.name, f"{self.fingerprint}-{group.rpartition('-')[2]}")
        tracker = Tracker(folder, group, self.name, self.params.runtime.tracking, quiet=quiet)
        tracker.params({**self.recipe.model_dump(), **self.params.train.model_dump(), "seed": self.seed})
        tracker.tags(self.tags())
        shown = {key: self.description.get(key) for key in ("train", "test", "image_shape", "class_counts")}
        tracker.dataset(self.description["name"], self.description["sha256"], shown)
        return tracker


def fingerprint(recipe: Recipe, extractor: str, **parts: Any) -> str:
    """16 hexadecimal digits that change with anything that shapes a result; `parts` are JSON values.

    The recipe, the code that it is trained by, and the version of torch are among them. Fields at their neutral value
    are not.
    """
    code = code_version(recipe, extractor)
    parts |= {"recipe": recipe.effective(), "extractor": extractor, "code": code, "torch": torch.__version__}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def code_version(recipe: Recipe, extractor: str) -> str:
    """A version of the code that shapes what a recipe trains, and which checkpoint is its best one.

    Of what stands in registries (networks, losses, penalties, augmentations, optimisers, extractors) only the recipe's
    own counts, so that adding another restarts nothing.
    """
    network = NETWORKS[recipe.network]
    files: list[Path | str] = [*(PACKAGE / name for name in SHAPING), *network.sources(), *sources_of(extractor)]
    entries: list[object] = [loss_of(recipe), PENALTIES[recipe.penalty], OPTIMISERS[recipe.optimiser]]
    entries += [PENALTIES[name] for name in recipe.regularisers] + [AUGMENTATIONS[name] for name in recipe.augment]
    programs = [program_of_entry(entry) for entry in entries]
    if network.flow:
        programs.append(program_of_function(update_flow))
    for shared in (smoothed, input_gradients, clip_weights, augment_for_discriminator, make_optimiser):
        programs.append(program_of_function(shared, without=("AUGMENTATIONS", "OPTIMISERS")))
    return version(program_of(files), *programs, network.arguments())
