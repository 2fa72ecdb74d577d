"""One experiment trained to the end of its budget, from its newest checkpoint, and what is left of it."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from pipeline.core.checksums import write_sums
from pipeline.core.devices import environment
from pipeline.core.errors import PipelineError, log_line, warn
from pipeline.core.files import atomic_folder, require_space, write_bytes
from pipeline.core.progress import progress as progress_bar
from pipeline.core.world import ALONE, STATE, STEP, World
from pipeline.data.batches import ImageSet
from pipeline.experiment import Experiment
from pipeline.gan.checkpoint import (
    KEPT,
    RunHistory,
    checkpoint_bytes,
    checkpoints,
    export_networks,
    load_checkpoint,
    save_checkpoint,
    step_of,
)
from pipeline.gan.flow import loss_of
from pipeline.gan.graphs import Graphs, not_captured
from pipeline.gan.step import Diverged, TrainState, advance, create_state, require_finite, train
from pipeline.gan.warm_start import warm_start
from pipeline.models.batch_norm import synchronise
from pipeline.models.summary import count_parameters
from pipeline.params import TrainParams
from pipeline.sampling.images import pixel_std
from pipeline.training.monitor import TrainingMonitor, evaluate_step, grid_name, is_due, tell_rollbacks

SHOWN = ("loss/d", "loss/g", "distance")  # beside the progress bar
REPEATABLE = (
    "generator.safetensors", "best.safetensors", "discriminator.safetensors", "generator.json", "history.csv",
    "distance.csv", "grids",
)  # fmt: skip
REAL_SHOWN = 60  # real images whose spread a grid's is compared with


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and its checkpoint is written: after so many steps and seconds."""

    def __init__(self, step: int, seconds: float) -> None:
        super().__init__(step, seconds)
        self.step, self.seconds = step, seconds


def train_experiment(
    experiment: Experiment,
    images: ImageSet,
    monitor: TrainingMonitor,
    should_stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> tuple[TrainState, RunHistory]:
    """Train to the end of the budget, from the newest checkpoint if there is one; bit for bit the same either way.

    Where training diverges, it goes back `train.rollbacks` times at most to its last good state, with lower learning
    rates. That state is one after a multiple of `train.score_every` steps: so no kill changes which one it is.

    Args:
        should_stop: asked after every step, beside the monitor's `stopping`.
        world: the ranks that train together, of which this is the first; the others call `follow_training`.

    Raises:
        Interrupted: one of them said so; the checkpoint is written.
        Diverged: a loss or a weight is not finite, and no rollback is left.
        PipelineError: the disk has no room for the checkpoints.
    """
    trainer = _Trainer(experiment, images, monitor, should_stop, world)
    state, progress = trainer.newest()
    work = experiment.work_folder()
    present = sum(path.stat().st_size for path in checkpoints(work))
    require_space(work, (KEPT + 2) * checkpoint_bytes(state) - present)
    monitor.resumed(progress)
    while True:
        try:
            trainer.advance(state, progress)
            return state, progress
        except Diverged as fault:
            state, progress = trainer.go_back(fault)


@dataclass(frozen=True)
class _Trainer:
    experiment: Experiment
    images: ImageSet
    monitor: TrainingMonitor
    should_stop: Callable[[], bool]
    world: World

    @property
    def budget(self) -> TrainParams:
        return self.experiment.params.train

    @property
    def work(self) -> Path:
        return self.experiment.work_folder()

    def newest(self) -> tuple[TrainState, RunHistory]:
        """The state of the newest whole checkpoint, else an untrained one."""
        state = _untrained(self.experiment, self.images, self.world)
        state.graphs = _graphs(self.experiment, self.images.images.device, self.world)
        if self.experiment.recipe.init_from:
            warm_start(state, self.experiment.recipe.init_from)
        progress = load_checkpoint(self.work, state)
        state.lr_scale = self.budget.rollback_lr ** len(progress.rollbacks)
        self._note_environment(state, progress)
        return state, progress

    def _note_environment(self, state: TrainState, progress: RunHistory) -> None:
        """Record under what this trains, and warn where the checkpoint was trained under something else."""
        now, known = environment(state.losses.device, self.world.size), progress.environments
        was = {"ranks": 1, **known[-1]} if known else {}  # of a checkpoint that is older than ranks are
        changed = {key: was.get(key) for key in now if was.get(key) != now[key]} if known else {}
        if not known or (changed and state.step < self.budget.steps):
            known.append({"step": state.step, **now})
        if changed and state.step < self.budget.steps:
            before = ", ".join(f"{key} {value}" for key, value in changed.items())
            here = ", ".join(f"{key} {now[key]}" for key in changed)
            warn(
                f"{self.experiment.name} was trained to step {state.step} with {before} and goes on with {here}: "
                "it will not end with the same bits as an undisturbed run"
            )

    def advance(self, state: TrainState, progress: RunHistory) -> None:
        """Train `state` to the end of the budget, with its checkpoints and all that is evaluated on the way."""
        experiment, budget, recipe = self.experiment, self.budget, self.experiment.recipe
        every = experiment.params.runtime.checkpoint_every
        good_every = budget.score_every if budget.rollbacks else None
        real = self._real_spread()
        if not evaluate_step(state, progress, self.monitor, real):  # the untrained state, or what a stop had broken off
            raise Interrupted(state.step, progress.seconds)
        bar = progress_bar(None, f"train {experiment.name}", budget.steps, "steps", state.step)
        with self.world.lead(STATE, state.step):
            _share(state, self.world)
        started, evaluated = time.perf_counter(), True
        try:
            for report in train(state, self.images, loss_of(recipe), recipe, budget, self.world):
                bar.update()
                if report.losses or is_due(state.step, budget):
                    progress.seconds += time.perf_counter() - started
                    evaluated = evaluate_step(state, progress, self.monitor, real)
                    shown = {key: f"{value:.3g}" for key, value in progress.history[-1].items() if key in SHOWN}
                    bar.set_postfix(shown, refresh=False)
                    started = time.perf_counter()
                finished = evaluated and state.step == budget.steps
                stop = not finished and (not evaluated or self.monitor.stopping() or self.should_stop())
                good = good_every is not None and state.step % good_every == 0
                if stop or finished or good or state.step % every == 0:
                    require_finite(state)
                    now = time.perf_counter()
                    progress.seconds, started = progress.seconds + now - started, now
                    save_checkpoint(self.work, state, progress, good_every)
                if stop:
                    raise Interrupted(state.step, progress.seconds)
        except Diverged as fault:
            fault.seconds = progress.seconds + time.perf_counter() - started
            raise
        bar.close()

    def go_back(self, fault: Diverged) -> tuple[TrainState, RunHistory]:
        """The last good state before `fault`, with lower learning rates.

        If that checkpoint is damaged we resume from an older one with its own learning rates; training will then
        diverge and enter this method again.

        Raises:
            Diverged: there is no going back any more.
        """
        budget, work, name = self.budget, self.work, self.experiment.name
        if not budget.rollbacks:
            raise self._lost(fault, "")
        good = (fault.step - 1) // budget.score_every * budget.score_every
        for path in checkpoints(work):  # safe to be killed from here on: what remains replays the same divergence
            if step_of(path) > good:
                path.unlink()
        old = checkpoints(work)
        state, progress = self.newest()
        progress.seconds = fault.seconds  # what was in vain was spent too
        done = len(progress.rollbacks)
        if done == budget.rollbacks:
            raise self._lost(fault, f", after {done} rollback{'s' if done > 1 else ''}")
        if state.step == good:
            progress.rollbacks.append({"fault": fault.what, "step": fault.step, "to": good})
            state.lr_scale *= budget.rollback_lr
            written = save_checkpoint(work, state, progress, budget.score_every)
            for path in old:
                if step_of(path) == good and path != written:
                    path.unlink(missing_ok=True)
            tell_rollbacks(self.monitor.tracker, progress)
            warn(
                f"{name}: {fault.what} at step {fault.step}: back to step {good}, "
                f"learning rates x {state.lr_scale:g} (rollback {done + 1} of {budget.rollbacks})"
            )
        return state, progress

    def _lost(self, fault: Diverged, tried: str) -> Diverged:
        """The fault with all that a user needs: whose it is, what was tried, and what is left."""
        newest = next(iter(checkpoints(self.work)), None)
        kept = f"; the last good checkpoint is {newest}" if newest else ""
        return Diverged(f"{self.experiment.name}: {fault.what}", fault.step, tried + kept, fault.seconds)

    def _real_spread(self) -> float:
        """How much some training images differ, taken at equal distances from all."""
        images = self.images.images
        return pixel_std(images[torch.linspace(0, len(images) - 1, REAL_SHOWN, device=images.device).long()])


def follow_training(
    experiment: Experiment, images: ImageSet, world: World, doings: Mapping[int, Callable[[int], None]]
) -> None:
    """Train as another rank than the first, which says what to do until it ends.

    Args:
        doings: what it can lead beside steps of the training, see `World.follow`.
    """
    state, recipe = _untrained(experiment, images, world), experiment.recipe

    def take_over(step: int) -> None:
        _share(state, world)
        state.step = step

    def train_one_step(_: int) -> None:
        advance(state, images, loss_of(recipe), recipe, experiment.params.train, world)

    world.follow({STATE: take_over, STEP: train_one_step, **doings})


def _graphs(experiment: Experiment, device: torch.device, world: World) -> Graphs | None:
    """CUDA graphs, where a GPU trains alone and the recipe permits them."""
    if device.type != "cuda" or world.size > 1 or experiment.params.runtime.cuda_graphs == "off":
        return None
    if reason := not_captured(experiment.recipe):
        log_line(f"{experiment.name}: its steps are not captured as CUDA graphs, for {reason}")
        return None
    return Graphs()


def _untrained(experiment: Experiment, images: ImageSet, world: World) -> TrainState:
    recipe, budget, device = experiment.recipe, experiment.params.train, images.images.device
    state = create_state(recipe, budget, experiment.image_shape, experiment.n_classes, experiment.seed, device)
    for network in (state.gan.generator, state.gan.discriminator):
        synchronise(network, world)
    return state


def _share(state: TrainState, world: World) -> None:
    """Give all ranks the first one's state, its step apart."""
    scale = torch.tensor(state.lr_scale, dtype=torch.float64)
    world.share([*state.tensors().values(), scale])
    state.lr_scale = scale.item()


def write_run(
    experiment: Experiment, state: TrainState, progress: RunHistory, monitor: TrainingMonitor, out: Path
) -> None:
    """Write what training made: the generator, how to rebuild it, the curves, and the grids of this run's steps.

    timing.csv is measured, and so differs from run to run; all else is repeatable.

    Raises:
        PipelineError: a grid is not as it was drawn.
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
        "curve": {
            "metric": monitor.extractor.metric,
            "samples": budget.score_samples,
            "untrained": progress.untrained_distance(),
            "final": progress.last_distance(),
        },
        "best": {"step": progress.best_step, "distance": progress.best_distance()},
        "pixel_std_ratio": progress.pixel_std_ratio(),
        "rollbacks": progress.rollbacks,
        "environments": progress.environments,
        "fingerprint": experiment.fingerprint,
        "data_sha256": experiment.description["sha256"],
    }
    export_networks(out, state, progress.best, info)
    columns = ["step", "images", *state.names, "distance", "pixel_std_ratio"]
    history = pd.DataFrame(progress.history, columns=columns)
    write_bytes(out / "history.csv", history.to_csv(index=False).encode())
    # For `dvc plots`, which draws an empty cell as 0: the measured points alone.
    measured = history.dropna(subset="distance")[["step", "images", "distance"]]
    write_bytes(out / "distance.csv", measured.to_csv(index=False).encode())
    write_bytes(out / "timing.csv", pd.DataFrame(progress.timing).to_csv(index=False).encode())
    with atomic_folder(out / "grids") as folder:
        for step in _grid_steps(budget.steps, budget.grid_every):
            name = grid_name(step)
            (folder / name).write_bytes(_checked(monitor.grids / name, progress.grids[name]))
    write_sums(out, *REPEATABLE)


def _checked(path: Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != digest:
        folder = path.parent.parent
        raise PipelineError(f"{path} is damaged or missing: restore it, or delete {folder} to train from the start")
    return content


def _grid_steps(steps: int, every: int) -> list[int]:
    return sorted({*range(0, steps, every), steps})
