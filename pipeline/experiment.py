"""One experiment: one recipe trained with one seed, watched on the way. A stage and a search trial share it."""

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline import layout
from pipeline.checkpoint import (
    Progress,
    export_networks,
    fingerprint,
    generator_tensors,
    load_checkpoint,
    save_checkpoint,
)
from pipeline.data import ImageSet
from pipeline.errors import PipelineError, suggest
from pipeline.files import atomic_folder, write_bytes
from pipeline.losses import LOSSES
from pipeline.metrics import Extractor, Reference, extract
from pipeline.models import NETWORKS
from pipeline.models.summary import count_parameters
from pipeline.params import Params, Recipe
from pipeline.progress import progress as progress_bar
from pipeline.provenance import commit
from pipeline.randomness import stable_hash
from pipeline.sampling import grid, labels, rows_of_classes, sample, save_picture
from pipeline.tracking import Tracker
from pipeline.training import TrainState, create_state, require_finite, train
from pipeline.warm_start import origin, warm_start

COLUMNS = 10  # of every grid
GRID_SEED, CURVE_SEED = stable_hash("grid"), stable_hash("curve")  # the same latents for all models and all steps


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and its checkpoint is written: after so many steps and seconds."""

    def __init__(self, step: int, seconds: float) -> None:
        super().__init__(step, seconds)
        self.step, self.seconds = step, seconds


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

    def fingerprint(self) -> str:
        """Changes with whatever shapes the trained weights or the learning curve."""
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
        return layout.work_folder(self.name, self.fingerprint())

    def tags(self) -> dict[str, str]:
        """What a run is found by in MLflow."""
        return {
            "model": self.model,
            "data_sha256": self.description["sha256"],
            "fingerprint": self.fingerprint(),
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
        folder = layout.work_folder(self.name, f"{self.fingerprint()}-{key}")
        tracker = Tracker(folder, group, self.name, self.params.runtime.tracking)
        tracker.params({**self.recipe.model_dump(), **self.params.train.model_dump(), "seed": self.seed})
        tracker.tags(self.tags())
        return tracker


@dataclass
class Observer:
    """What is looked at while a model trains: grids and a small-sample distance, always of the same latents."""

    experiment: Experiment
    extractor: Extractor
    reference: Reference
    tracker: Tracker
    grids: Path

    def draw(self, state: TrainState) -> None:
        """Write the grid of this step, and hand it to MLflow."""
        path = self.grids / f"{state.step:08d}.png"
        rows = min(self.experiment.n_classes, 10) if self.experiment.conditional else 6
        images = torch.cat(list(self._samples(state, rows_of_classes(range(rows), rows, COLUMNS), GRID_SEED)))
        save_picture(grid(images, COLUMNS), path)
        self.tracker.image("samples", path, state.step)

    def score(self, state: TrainState) -> float:
        """The distance of a few samples to the training images: a cheap estimate for curves, biased upwards."""
        like_data = labels(
            "data", self.experiment.description["class_counts"], self.experiment.params.train.score_samples
        )
        samples = self._samples(state, like_data, CURVE_SEED)
        return self.reference.distance(np.concatenate(list(extract(self.extractor, samples))))

    def resumed(self, history: list[dict[str, float]]) -> None:
        """Hear of the curves of an earlier process, of which this one goes on; here nothing is to be done."""

    def _samples(self, state: TrainState, labels: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
        network = state.gan.generator if state.ema is None else state.ema
        recipe, size = self.experiment.recipe, self.experiment.params.metrics.batch_size
        return sample(network, labels, seed, min(size, len(labels)), recipe.latent_dim)


def train_experiment(
    experiment: Experiment, images: ImageSet, observer: Observer, should_stop: Callable[[], bool] = lambda: False
) -> tuple[TrainState, Progress]:
    """Train to the end of the budget, from the newest checkpoint if there is one; bit for bit the same either way.

    Raises:
        Interrupted: `should_stop` said so; the checkpoint is written.
        PipelineError: a loss is not finite.
    """
    params, recipe, work = experiment.params, experiment.recipe, experiment.work_folder()
    device = images.images.device
    state = create_state(recipe, params.train, experiment.image_shape, experiment.n_classes, experiment.seed, device)
    if recipe.init_from:
        warm_start(state, recipe.init_from)
    progress = load_checkpoint(work, state)
    observer.resumed(progress.history)
    if not progress.history:
        _observe(state, progress, observer, {}, last=False)
    bar = progress_bar(None, f"train {experiment.name}", params.train.steps, "steps", state.step)
    started = time.perf_counter()
    for report in train(state, images, LOSSES[recipe.loss], recipe, params.train):
        bar.update()
        last = state.step == params.train.steps
        due = state.step % params.runtime.checkpoint_every == 0
        if report.losses or any(_due(state.step, e, last) for e in (params.train.grid_every, params.train.score_every)):
            progress.seconds += time.perf_counter() - started
            _observe(state, progress, observer, report.losses or {}, last)
            shown = {
                key: f"{value:.3g}" for key, value in progress.history[-1].items() if key not in ("step", "images")
            }
            bar.set_postfix(shown, refresh=False)
            started = time.perf_counter()
        stop = should_stop()
        if due or last or stop:
            require_finite(state)
            now = time.perf_counter()
            progress.seconds, started = progress.seconds + now - started, now
            save_checkpoint(work, state, progress)
        if stop and not last:
            raise Interrupted(state.step, progress.seconds)
    bar.close()
    return state, progress


def _observe(state: TrainState, progress: Progress, observer: Observer, losses: dict[str, float], last: bool) -> None:
    """Add this step to the history: losses, and where they are due a grid and a distance; keep the best generator."""
    experiment, budget, step = observer.experiment, observer.experiment.params.train, state.step
    row: dict[str, float] = {"step": step, "images": experiment.images_seen(step), **losses}
    if _due(step, budget.grid_every, last):
        observer.draw(state)
    if _due(step, budget.score_every, last):
        row["distance"] = observer.score(state)
        if row["distance"] < progress.best_distance():
            progress.best_step = step
            progress.best = {name: tensor.detach().clone() for name, tensor in generator_tensors(state).items()}
    progress.history.append(row)
    metrics = {f"curve/{observer.extractor.metric}" if key == "distance" else key: row[key] for key in row}
    if losses:
        before = progress.timing[-1] if progress.timing else {"images": 0, "seconds": 0.0}
        speed = (row["images"] - before["images"]) / max(progress.seconds - before["seconds"], 1e-9)
        progress.timing.append(
            {"step": step, "images": row["images"], "seconds": progress.seconds, "images_per_second": speed}
        )
        metrics["images_per_second"] = speed
    observer.tracker.metrics(step, {key: value for key, value in metrics.items() if key != "step"})


def _due(step: int, every: int, last: bool) -> bool:
    return last or step % every == 0


def write_run(experiment: Experiment, state: TrainState, progress: Progress, observer: Observer, out: Path) -> None:
    """Write what training made: the generator, how to rebuild it, the curves, and the grids of this run's steps.

    timing.csv is measured, and so differs from run to run; all else is repeatable.
    """
    budget, recipe = experiment.params.train, experiment.recipe
    info = {
        "model": experiment.model,
        "seed": experiment.seed,
        "recipe": recipe.model_dump(),
        "train": budget.model_dump(),
        "init_from": experiment.origin,
        "image_shape": experiment.image_shape,
        "n_classes": experiment.n_classes,
        "steps": state.step,
        "images_seen": experiment.images_seen(state.step),
        "parameters_g": count_parameters(state.gan.generator),
        "parameters_d": count_parameters(state.gan.discriminator),
        "curve": {"metric": observer.extractor.metric, "samples": budget.score_samples},
        "best": {"step": progress.best_step, "distance": progress.best_distance()},
        "fingerprint": experiment.fingerprint(),
        "data_sha256": experiment.description["sha256"],
    }
    export_networks(out, state, progress.best, info)
    columns = ["step", "images", "loss/d", "loss/g", "distance"]
    write_bytes(out / "history.csv", pd.DataFrame(progress.history, columns=columns).to_csv(index=False).encode())
    write_bytes(out / "timing.csv", pd.DataFrame(progress.timing).to_csv(index=False).encode())
    with atomic_folder(out / "grids") as folder:
        for step in _grid_steps(budget.steps, budget.grid_every):
            name = f"{step:08d}.png"
            (folder / name).write_bytes((observer.grids / name).read_bytes())


def _grid_steps(steps: int, every: int) -> list[int]:
    return sorted({*range(0, steps, every), steps})
