"""One trial: the recipe with the trial's values, trained and measured, and pruned on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
import torch

from pipeline import check
from pipeline.core.devices import OutOfMemory, memory_errors
from pipeline.core.errors import PipelineError
from pipeline.core.randomness import stable_hash
from pipeline.data.batches import ImageSet
from pipeline.experiment import Experiment
from pipeline.gan.checkpoint import RunHistory
from pipeline.gan.step import Diverged, TrainState
from pipeline.metrics import Extractor, Reference, extract
from pipeline.params import Params
from pipeline.sampling.images import labels, sample
from pipeline.search.study.space import with_values
from pipeline.tracking.tracker import Tracker
from pipeline.training.monitor import TrainingMonitor
from pipeline.training.trainer import Interrupted, train_experiment

FINAL_SEED = stable_hash("final")  # of the latents that the finals are measured on; the report has others


@dataclass(frozen=True)
class TrialContext:
    """What a worker holds for all its trials."""

    params: Params
    description: dict[str, Any]
    images: ImageSet
    extractor: Extractor
    reference: Reference

    @property
    def device(self) -> str:
        """The name of what trains: "cpu", or the GPU's own."""
        device = self.images.images.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass
class PruningMonitor(TrainingMonitor):
    """Keeps a trial's curve, reports it to Optuna and asks whether to go on; `trial` is None where nothing is pruned.

    reported: the steps of the curve that Optuna had from earlier workers of this trial.
    """

    trial: optuna.trial.Trial | None = None
    pruned: bool = False
    curve: dict[int, float] = field(default_factory=dict)
    reported: frozenset[int] = frozenset()

    def score(self, state: TrainState) -> float:
        """As of a TrainingMonitor, and reported to Optuna; of a trial that is pruned here, the last grid is drawn."""
        value = super().score(state)
        self._report(state.step, value)
        if self.pruned:
            self.draw(state)
        return value

    def resumed(self, progress: RunHistory) -> None:
        super().resumed(progress)
        for row in progress.history:
            if "distance" in row:
                self._report(int(row["step"]), row["distance"])

    def _report(self, step: int, value: float) -> None:
        if step == 0:
            return
        self.curve[step] = value
        if self.trial is None:
            return
        if step not in self.reported:
            self.trial.report(value, step)
        if step >= max(self.reported, default=0):  # at an earlier point the answer was to go on
            self.pruned = self.pruned or self.trial.should_prune()


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended: `value` is None where it was pruned or failed; `curve` by steps.

    failure: how it failed, see `state_of`; "" = it did not. fault: the reason in one sentence.
    """

    value: float | None
    steps: int
    seconds: float
    failure: str = ""
    fault: str = ""
    curve: Mapping[int, float] = field(default_factory=dict)


def trial_params(params: Params, model: str, values: Mapping[str, Any]) -> Params:
    """Params under which a trial is trained: the recipe's values replaced, and the budget of `search:`."""
    search = params.search
    budget = {
        "train.steps": search.steps,
        "train.score_every": search.score_every,
        "train.score_samples": search.samples,
        "train.grid_every": search.steps,
        "train.report_every": min(params.train.report_every, search.steps),
        "compare.models": [model],
    }
    return with_values(params, model, values).override(budget)


def run_trial(
    context: TrialContext,
    params: Params,
    model: str,
    seed: int,
    trial: optuna.trial.Trial | None,
    open_tracker: Callable[[Experiment], Tracker],
    should_stop: Callable[[], bool],
    full: bool,
) -> TrialResult:
    """Train and measure one experiment, from its checkpoint if there is one.

    Args:
        trial: what the curve is reported to and pruned by, or None.
        full: measure as many samples as the report does, on other latents; else the curve's last point is the value.

    Raises:
        Interrupted: `should_stop` said so; the checkpoint is written.
    """
    try:
        check.validate(params, model)
    except PipelineError as error:
        return TrialResult(None, 0, 0.0, "invalid", str(error).splitlines()[0])
    experiment = Experiment(params, model, seed, context.description)
    with open_tracker(experiment) as tracker:
        grids = experiment.work_folder() / "grids"
        reported = frozenset(trial.study.trials[trial.number].intermediate_values) if trial else frozenset()
        monitor = PruningMonitor(
            experiment,
            context.extractor,
            context.reference,
            tracker,
            grids,
            trial,
            reported=reported,
            stopping=should_stop,
        )
        try:
            with memory_errors("leave larger batch_size, width_g and width_d out of search.space"):
                state, progress = train_experiment(experiment, context.images, monitor, lambda: monitor.pruned)
        except Interrupted as interrupted:
            if not monitor.pruned:
                raise
            tracker.close("KILLED")
            pruned_at = max(monitor.curve)  # a resumed trial that is found to be pruned has trained one step more
            return TrialResult(None, pruned_at, interrupted.seconds)
        except Diverged as error:
            tracker.tags({"diverged": str(error)})
            tracker.close("FAILED")
            return TrialResult(None, error.step, error.seconds, "diverged", str(error), monitor.curve)
        except OutOfMemory as error:
            tracker.close("FAILED")
            return TrialResult(None, max(monitor.curve, default=0), 0.0, "out of memory", str(error), monitor.curve)
        value = _measure(context, experiment, state) if full else progress.history[-1]["distance"]
        tracker.metrics(state.step, {f"search/{context.extractor.metric}": value})
        return TrialResult(value, state.step, progress.seconds, curve=monitor.curve)


def _measure(context: TrialContext, experiment: Experiment, state: TrainState) -> float:
    """The distance of as many samples as the report measures."""
    params = experiment.params
    network = state.ema if state.ema is not None and params.generate.weights == "ema" else state.gan.generator
    wanted = labels(
        "data", context.description["class_counts"], params.generate.samples or context.description["train"]
    )
    images = sample(network, wanted, FINAL_SEED, params.generate.batch_size, experiment.recipe.latent_dim)
    return context.reference.distance(np.concatenate(list(extract(context.extractor, images))))


def remove_checkpoints(experiment: Experiment) -> None:
    """Remove the checkpoints of a trial that is over; its grids and its outbox stay."""
    for path in experiment.work_folder().glob("step-*"):
        path.unlink(missing_ok=True)
