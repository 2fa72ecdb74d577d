"""All that a training step changes, and the curves' values since the last report."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.core.errors import PipelineError
from pipeline.gan.augment import AUGMENTATIONS, Augmentation
from pipeline.gan.graphs import Gradients, Graphs, Inputs
from pipeline.gan.optimisers import make_optimiser
from pipeline.gan.penalties import PENALTIES, Penalty
from pipeline.gan.schedules import value_at
from pipeline.models import GAN, NETWORKS, ImageShape, build_gan
from pipeline.params import Recipe, Schedule, TrainParams

REMEDY = "lower lr_g and lr_d, bound D's gradients (norm_d: spectral), or use precision: fp32"
LOSS_NAMES = ("loss/d", "loss/g")


class Diverged(PipelineError):
    """A loss or a weight is NaN or infinite after `step` steps and `seconds`; `context` is what else is to be said."""

    def __init__(self, what: str, step: int, context: str = "", seconds: float = 0.0) -> None:
        super().__init__(f"{what} at step {step}{context}: {REMEDY}")
        self.what, self.step, self.seconds = what, step, seconds


@dataclass
class TrainState:
    """All that a step changes, and `lr_scale`, by which both learning rates are multiplied.

    names: of the curves: D's (where there is a D) and G's loss, then what penalties and augmentations report.
    losses: a row of them for each step since the last report, on the device.
    own: the tensors that penalties and augmentations keep, by `<kind>/<entry>/<name>`, see `own_tensors`.
    graphs: where given, the gradients of an update are captured once and replayed from then on.
    """

    gan: GAN
    ema: nn.Module | None
    optimiser_g: torch.optim.Optimizer
    optimiser_d: torch.optim.Optimizer
    losses: Tensor  # float32 (report_every, K), or shorter if the budget is
    seed: int
    names: tuple[str, ...] = LOSS_NAMES
    own: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    lr_scale: float = 1.0
    graphs: Graphs | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, not copied: writing into them restores a checkpoint."""
        named = {"losses": self.losses, **{f"own.{name}": tensor for name, tensor in self.own.items()}}
        for prefix, network in [("g", self.gan.generator), ("d", self.gan.discriminator), ("ema", self.ema)]:
            if network is not None:
                named |= {f"{prefix}.{name}": tensor for name, tensor in network.state_dict().items()}
        for prefix, optimiser in [("optimiser_g", self.optimiser_g), ("optimiser_d", self.optimiser_d)]:
            for index, values in optimiser.state_dict()["state"].items():
                named |= {f"{prefix}.{index}.{name}": tensor for name, tensor in values.items()}
        return named

    def gradients(
        self, kind: tuple[object, ...], network: nn.Module, index: int, work: Gradients, inputs: Inputs
    ) -> dict[str, Tensor]:
        """What `work(index, *inputs)` returns, with the gradients of `network` that it sets; see `Graphs.run`."""
        if self.graphs is None:
            return work(index, *inputs)
        return self.graphs.run(kind, list(network.parameters()), index, work, inputs)

    def own_tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors that a part, such as `penalty/r1` or `augment/ada`, keeps; not copied."""
        prefix = f"{part}/"
        return {name.removeprefix(prefix): tensor for name, tensor in self.own.items() if name.startswith(prefix)}


def create_state(
    recipe: Recipe, budget: TrainParams, image_shape: ImageShape, n_classes: int, seed: int, device: torch.device
) -> TrainState:
    """Untrained networks and their optimisers on `device`, a function of the seed."""
    gan = build_gan(recipe, image_shape, n_classes, seed)
    layout = torch.channels_last if budget.channels_last else torch.contiguous_format
    for network in (gan.generator, gan.discriminator):
        network.to(device).to(memory_format=layout)
    ema = copy.deepcopy(gan.generator).requires_grad_(False) if recipe.averaged else None
    beta1 = max(recipe.beta1.start, recipe.beta1.end) if isinstance(recipe.beta1, Schedule) else recipe.beta1
    beta2 = value_at(recipe.beta2, 0, budget.steps)
    own, names = _parts(recipe, device)
    return TrainState(
        gan,
        ema,
        make_optimiser(recipe.optimiser, gan.generator, value_at(recipe.lr_g, 0, budget.steps), beta1, beta2),
        make_optimiser(recipe.optimiser, gan.discriminator, value_at(recipe.lr_d, 0, budget.steps), beta1, beta2),
        losses=torch.zeros(min(budget.report_every, budget.steps), len(names), device=device),
        seed=seed,
        names=names,
        own=own,
    )


def _parts(recipe: Recipe, device: torch.device) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors that a recipe's penalties and augmentations keep, and the names of all its curves."""
    used = [name for name in (recipe.penalty, *recipe.regularisers) if PENALTIES[name].value is not None]
    parts: dict[str, Penalty | Augmentation] = {f"penalty/{name}": PENALTIES[name] for name in used}
    names = [*(LOSS_NAMES[1:] if NETWORKS[recipe.network].flow else LOSS_NAMES), *parts]
    parts |= {f"augment/{name}": AUGMENTATIONS[name] for name in recipe.augment}
    own: dict[str, Tensor] = {}
    for part, entry in parts.items():
        own |= {f"{part}/{name}": tensor.to(device) for name, tensor in entry.own().items()}
        names += [f"{part}/{name}" for name in entry.reported]
    return own, tuple(names)


def reported_losses(state: TrainState, budget: TrainParams) -> dict[str, float] | None:
    """The means of the curves where this step is one of `report_every` or the last, else None."""
    full = state.step > 0 and state.step % len(state.losses) == 0
    return mean_losses(state) if full or state.step == budget.steps else None


def mean_losses(state: TrainState) -> dict[str, float]:
    """The mean of each curve since the last report.

    Raises:
        Diverged: a value is NaN or infinite.
    """
    rows = state.losses.cpu()
    count = (state.step - 1) % len(rows) + 1
    spoken = {"loss/d": "the loss of D", "loss/g": "the loss of G"}
    for row, values in enumerate(rows[:count].tolist()):
        for name, value in zip(state.names, values, strict=True):
            if value != value or abs(value) == float("inf"):
                raise Diverged(f"{spoken.get(name, name)} is {value}", state.step - count + row + 1)
    return dict(zip(state.names, rows[:count].mean(dim=0).tolist(), strict=True))


def require_finite(state: TrainState) -> None:
    """Make sure that a checkpoint of `state` would be worth keeping: neither a loss nor a weight is NaN or infinite.

    Raises:
        Diverged: one is.
    """
    mean_losses(state)
    for name, tensor in state.tensors().items():
        if not tensor.isfinite().all():
            raise Diverged(f"{name} is not finite", state.step)
