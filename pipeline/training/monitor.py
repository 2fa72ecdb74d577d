"""What is measured while a model trains: sample grids, a small-sample distance, losses, and collapse."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline.core.errors import warn
from pipeline.core.files import sha256
from pipeline.core.randomness import stable_hash
from pipeline.experiment import Experiment
from pipeline.gan.checkpoint import RunHistory, generator_tensors
from pipeline.gan.step import TrainState, reported_losses
from pipeline.metrics import Extractor, Reference, extract
from pipeline.params import TrainParams
from pipeline.sampling.images import LEAST_PIXEL_STD_RATIO, labels, pixel_std, rows_of_classes, sample
from pipeline.sampling.pictures import COLUMNS, grid, save_picture
from pipeline.tracking.tracker import Tracker

GRID_SEED, CURVE_SEED = stable_hash("grid"), stable_hash("curve")  # the same latents for all models and all steps


class EvaluationInterrupted(Exception):
    """A measurement was not finished, because training is to stop."""


@dataclass
class TrainingMonitor:
    """Draws grids and measures a small-sample distance while a model trains, always from the same latents.

    stopping: asked during a measurement, which can take minutes, whether to interrupt it.
    """

    experiment: Experiment
    extractor: Extractor
    reference: Reference
    tracker: Tracker
    grids: Path
    stopping: Callable[[], bool] = field(default=lambda: False, kw_only=True)

    def draw(self, state: TrainState) -> tuple[float, str]:
        """Write the grid of this step and send it to MLflow. Returns its `pixel_std` and its sha256.

        Raises:
            EvaluationInterrupted: `stopping` said so.
        """
        path = self.grids / grid_name(state.step)
        counts = self.experiment.description["class_counts"]
        # One class a row, of those that have training images; without classes 6 rows.
        shown = np.flatnonzero(counts)[:10].tolist() if self.experiment.conditional else range(6)
        rows = len(shown)
        images = torch.cat(list(self._samples(state, rows_of_classes(shown, rows, COLUMNS), GRID_SEED)))
        save_picture(grid(images, COLUMNS), path)
        self.tracker.image("samples", path, state.step)
        return pixel_std(images.unflatten(0, (rows, COLUMNS))), sha256(path)

    def score(self, state: TrainState) -> float:
        """The distance of a few samples to the training images: a cheap estimate for curves, biased upwards.

        Raises:
            EvaluationInterrupted: `stopping` said so.
        """
        like_data = labels(
            "data", self.experiment.description["class_counts"], self.experiment.params.train.score_samples
        )
        samples = self._samples(state, like_data, CURVE_SEED)
        return self.reference.distance(np.concatenate(list(extract(self.extractor, samples))))

    def resumed(self, progress: RunHistory) -> None:
        """Tell MLflow what the process knew that this one continues, see `tell_again`."""
        tell_again(self.tracker, self.extractor.metric, progress)

    def _samples(self, state: TrainState, labels: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
        network = state.gan.generator if state.ema is None else state.ema
        recipe, size = self.experiment.recipe, self.experiment.params.metrics.batch_size
        for images in sample(network, labels, seed, min(size, len(labels)), recipe.latent_dim):
            if self.stopping():
                raise EvaluationInterrupted
            yield images


def evaluate_step(state: TrainState, progress: RunHistory, monitor: TrainingMonitor, real: float) -> bool:
    """Append a row to the history if one is due at this step: losses, and if due a grid and a distance.

    A lower distance than ever before makes this the best generator, which is kept; an untrained one never is, however
    near its grey images are. `real` is the `pixel_std` of real images. Returns False if a measurement was interrupted;
    nothing is appended then.
    """
    experiment, budget, step = monitor.experiment, monitor.experiment.params.train, state.step
    losses = reported_losses(state, budget) or {}
    if not (losses or is_due(step, budget)) or (progress.history and progress.history[-1]["step"] == step):
        return True
    row: dict[str, float] = {"step": step, "images": experiment.images_seen(step), **losses}
    try:
        if is_due(step, budget, budget.grid_every):
            differing, progress.grids[grid_name(step)] = monitor.draw(state)
            row["pixel_std_ratio"] = differing / max(real, 1e-9)
        if is_due(step, budget, budget.score_every):
            row["distance"] = monitor.score(state)
    except EvaluationInterrupted:
        return False
    if step > 0 and row.get("distance", math.inf) < progress.best_distance():
        progress.best_step = step
        progress.best = {name: tensor.detach().clone() for name, tensor in generator_tensors(state).items()}
    if step > 0 and row.get("pixel_std_ratio", 1.0) < LEAST_PIXEL_STD_RATIO <= progress.pixel_std_ratio():
        warn(f"{experiment.name} has collapsed at step {step}: samples of different latents are nearly identical")
    progress.history.append(row)
    _tell_row(monitor.tracker, monitor.extractor.metric, row)
    if losses:
        before = progress.timing[-1] if progress.timing else {"images": 0, "seconds": 0.0}
        speed = (row["images"] - before["images"]) / max(progress.seconds - before["seconds"], 1e-9)
        progress.timing.append(
            {"step": step, "images": row["images"], "seconds": progress.seconds, "images_per_second": speed}
        )
        monitor.tracker.metrics(step, {"images_per_second": speed})
    return True


def tell_again(tracker: Tracker, metric: str, progress: RunHistory) -> None:
    """Tell MLflow what a checkpoint knows of its run, since a power cut can lose an outbox; nothing arrives twice.

    Args:
        metric: what the distance of the curve is called.
    """
    tell_rollbacks(tracker, progress)
    tracker.tags({"environments": json.dumps(progress.environments)})
    for row in progress.history:
        _tell_row(tracker, metric, row)


def tell_rollbacks(tracker: Tracker, progress: RunHistory) -> None:
    """Tell MLflow, which is told nothing twice."""
    for number, back in enumerate(progress.rollbacks):
        tracker.rollback(number, back["to"])
    if progress.rollbacks:
        tracker.tags({"rollbacks": json.dumps(progress.rollbacks)})


def _tell_row(tracker: Tracker, metric: str, row: dict[str, float]) -> None:
    names = {"distance": f"curve/{metric}", "pixel_std_ratio": "curve/pixel_std_ratio"}
    tracker.metrics(int(row["step"]), {names.get(key, key): row[key] for key in row if key != "step"})


def grid_name(step: int) -> str:
    """
    >>> grid_name(250)
    '00000250.png'
    """
    return f"{step:08d}.png"


def is_due(step: int, budget: TrainParams, *every: int) -> bool:
    """Whether a grid or a distance is due, or what is due every so many steps."""
    return step == budget.steps or any(step % count == 0 for count in every or (budget.grid_every, budget.score_every))
