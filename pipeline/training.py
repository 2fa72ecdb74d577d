"""Adversarial training: the state, one step, and the loop as a Python generator.

Whoever iterates `train` logs, draws, scores, checkpoints, prunes or stops; nothing here knows of MLflow, Optuna or
files. Every draw is named by (seed, stream, step), so the state is all there is: weights, optimisers and step.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.augment import show
from pipeline.data import ImageSet, batch
from pipeline.errors import PipelineError
from pipeline.losses import AdversarialLoss, smoothed
from pipeline.models import GAN, ImageShape, build_gan
from pipeline.optimisers import make_optimiser
from pipeline.params import Recipe, TrainParams
from pipeline.penalties import PENALTIES, clip_weights
from pipeline.randomness import generator

REMEDY = "lower lr_g and lr_d, bound D's slope (norm_d: spectral), or use precision: fp32"


class Diverged(PipelineError):
    """A loss or a weight is NaN or infinite after `step` steps and `seconds`; `context` is what else is to be said."""

    def __init__(self, what: str, step: int, context: str = "", seconds: float = 0.0) -> None:
        super().__init__(f"{what} at step {step}{context}: {REMEDY}")
        self.what, self.step, self.seconds = what, step, seconds


@dataclass
class TrainState:
    """All that a step changes, and `lr_scale`, by which both learning rates are multiplied.

    `losses` holds D's and G's of the steps since the last report, on the device.
    """

    gan: GAN
    ema: nn.Module | None
    optimiser_g: torch.optim.Optimizer
    optimiser_d: torch.optim.Optimizer
    losses: Tensor  # float32 (report_every, 2), or shorter if the budget is
    seed: int
    step: int = 0
    lr_scale: float = 1.0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, not copied: writing into them restores a checkpoint."""
        named = {"losses": self.losses}
        for prefix, network in [("g", self.gan.generator), ("d", self.gan.discriminator), ("ema", self.ema)]:
            if network is not None:
                named |= {f"{prefix}.{name}": tensor for name, tensor in network.state_dict().items()}
        for prefix, optimiser in [("optimiser_g", self.optimiser_g), ("optimiser_d", self.optimiser_d)]:
            for index, values in optimiser.state_dict()["state"].items():
                named |= {f"{prefix}.{index}.{name}": tensor for name, tensor in values.items()}
        return named


@dataclass(frozen=True)
class StepReport:
    """What happened: the step just done, and at each `report_every` steps the mean losses since the last report."""

    step: int
    losses: dict[str, float] | None


def create_state(
    recipe: Recipe, budget: TrainParams, image_shape: ImageShape, n_classes: int, seed: int, device: torch.device
) -> TrainState:
    """Untrained networks and their optimisers on `device`, a function of the seed."""
    gan = build_gan(recipe, image_shape, n_classes, seed)
    layout = torch.channels_last if budget.channels_last else torch.contiguous_format
    for network in (gan.generator, gan.discriminator):
        network.to(device).to(memory_format=layout)
    ema = copy.deepcopy(gan.generator).requires_grad_(False) if recipe.ema_decay else None
    return TrainState(
        gan,
        ema,
        make_optimiser(recipe.optimiser, gan.generator, recipe.lr_g, recipe.beta1, recipe.beta2),
        make_optimiser(recipe.optimiser, gan.discriminator, recipe.lr_d, recipe.beta1, recipe.beta2),
        losses=torch.zeros(min(budget.report_every, budget.steps), 2, device=device),
        seed=seed,
    )


def train(
    state: TrainState, images: ImageSet, loss: AdversarialLoss, recipe: Recipe, budget: TrainParams
) -> Iterator[StepReport]:
    """Train from `state.step` to `budget.steps`, yielding after every step; `state` is changed in place.

    The losses stay on the device between reports, so a step never waits for it.

    Raises:
        PipelineError: a loss is NaN or infinite, found at the next report; it names the loss and the step.
    """
    while state.step < budget.steps:
        _set_learning_rates(state, recipe, budget)
        row = state.step % len(state.losses)
        state.losses[row] = train_step(state, images, loss, recipe, budget)
        state.step += 1
        yield StepReport(state.step, reported_losses(state, budget))


def train_step(
    state: TrainState, images: ImageSet, loss: AdversarialLoss, recipe: Recipe, budget: TrainParams
) -> Tensor:
    """`n_critic` updates of D and one of G, on the device alone.

    Returns:
        The last losses of D, its penalty included, and of G, float32 (2,), detached, on the device.
    """
    gan, device, seed = state.gan, images.images.device, state.seed
    autocast = torch.autocast(device.type, torch.bfloat16) if budget.precision == "bf16" else contextlib.nullcontext()
    loss, penalty = smoothed(loss, recipe.label_smoothing), PENALTIES[recipe.penalty]
    noise = recipe.instance_noise * (1 - state.step / budget.steps)
    for index in range(state.step * recipe.n_critic, (state.step + 1) * recipe.n_critic):
        real, real_labels = batch(images, index, recipe.batch_size, seed, recipe.flip, recipe.dequantise)
        latents, labels = draw_inputs(recipe, images, seed, "d", index)
        with torch.no_grad(), autocast:
            fake = gan.generator(latents, labels)
        real = show(real, recipe.augment, noise, seed, "real", index)
        fake = show(fake, recipe.augment, noise, seed, "fake", index)
        # Real and fake images pass D apart (batch norm must not mix them) but under the same normalised weights.
        with parametrize.cached():
            with autocast:
                real_logits, fake_logits = gan.discriminator(real, real_labels), gan.discriminator(fake, labels)
            draws = generator(device, seed, "penalty", index)
            extra = penalty.value(gan.discriminator, real, real_labels, fake, draws)  # in float32: squares of slopes
        loss_d = loss.discriminator(real_logits.float(), fake_logits.float()) + recipe.penalty_weight * extra
        state.optimiser_d.zero_grad()
        loss_d.backward()
        state.optimiser_d.step()
        if recipe.clip is not None:
            clip_weights(gan.discriminator, recipe.clip)

    latents, labels = draw_inputs(recipe, images, seed, "g", state.step)
    gan.discriminator.requires_grad_(False)  # G's step needs no gradient of D's weights: a third less to compute
    with autocast:
        fake = show(gan.generator(latents, labels), recipe.augment, noise, seed, "g", state.step)
        logits = gan.discriminator(fake, labels)
    gan.discriminator.requires_grad_(True)
    loss_g = loss.generator(logits.float())
    state.optimiser_g.zero_grad()
    loss_g.backward()
    state.optimiser_g.step()
    if state.ema is not None and recipe.ema_decay is not None:
        update_ema(state.ema, gan.generator, ema_decay(recipe.ema_decay, recipe.ema_warmup, state.step))
    return torch.stack([loss_d.detach(), loss_g.detach()])


def draw_inputs(recipe: Recipe, images: ImageSet, seed: int, stream: str, index: int) -> tuple[Tensor, Tensor]:
    """Latents ~ N(0, 1), float32 (N, Z), and the labels of random real images, int64 (N,), for one batch of fakes."""
    device = images.images.device
    source = generator(device, seed, "latents", stream, index)
    latents = torch.randn(recipe.batch_size, recipe.latent_dim, generator=source, device=device)
    return latents, images.labels[
        torch.randint(len(images.labels), (recipe.batch_size,), generator=source, device=device)
    ]


def ema_decay(decay: float, warmup: bool, step: int) -> float:
    """The decay at a step, counted from 0: with `warmup` min(decay, (1 + step) / (10 + step)).

    So the first average forgets the untrained weights at once. (The idea: TensorFlow's ExponentialMovingAverage.)
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network, for weights and batch norm's statistics.

    Other buffers, such as the singular vectors of spectral norm, are unit vectors and are copied.
    """
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for (name, old), new in zip(average.named_buffers(), network.buffers(), strict=True):
        if name.endswith(("running_mean", "running_var")):
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def reported_losses(state: TrainState, budget: TrainParams) -> dict[str, float] | None:
    """The mean losses where this step is one of `report_every` or the last, else None."""
    full = state.step > 0 and state.step % len(state.losses) == 0
    return mean_losses(state) if full or state.step == budget.steps else None


def mean_losses(state: TrainState) -> dict[str, float]:
    """The means of D's and G's losses since the last report.

    Raises:
        PipelineError: a loss is NaN or infinite.
    """
    rows = state.losses.cpu()
    count = (state.step - 1) % len(rows) + 1
    for row, values in enumerate(rows[:count].tolist()):
        for name, value in zip(("D", "G"), values, strict=True):
            if value != value or abs(value) == float("inf"):
                step = state.step - count + row + 1
                raise Diverged(f"the loss of {name} is {value}", step)
    means = rows[:count].mean(dim=0).tolist()
    return {"loss/d": means[0], "loss/g": means[1]}


def require_finite(state: TrainState) -> None:
    """Make sure that a checkpoint of `state` would be worth keeping: neither a loss nor a weight is NaN or infinite.

    Raises:
        PipelineError: one is.
    """
    mean_losses(state)
    for name, tensor in state.tensors().items():
        if not tensor.isfinite().all():
            raise Diverged(f"{name} is not finite", state.step)


def _set_learning_rates(state: TrainState, recipe: Recipe, budget: TrainParams) -> None:
    factor = 1 - state.step / budget.steps if recipe.lr_decay == "linear" else 1.0
    for optimiser, lr in ((state.optimiser_g, recipe.lr_g), (state.optimiser_d, recipe.lr_d)):
        for group in optimiser.param_groups:
            group["lr"] = lr * factor * state.lr_scale
