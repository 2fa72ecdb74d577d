"""Adversarial training: one step, and the loop as a Python generator.

Whoever iterates `train` logs, draws, scores, checkpoints, prunes or stops; nothing here knows of MLflow, Optuna or
files. Every draw is named by (seed, stream, step), so `TrainState` is all there is. What a recipe names (loss, penalty,
augmentations, optimiser) acts as a value from its registry: the step has no branch on a name. A loss without a
discriminator has an update of its own, beside that of a GAN.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from pipeline.core.bfloat16 import autocast
from pipeline.core.randomness import named_draws, stable_hash
from pipeline.core.world import ALONE, STEP, World
from pipeline.data.batches import ImageSet, batch
from pipeline.gan.augment import AUGMENTATIONS, augment_for_discriminator
from pipeline.gan.flow import FlowLoss, update_flow
from pipeline.gan.losses import AdversarialLoss, smoothed
from pipeline.gan.penalties import Update, clip_weights
from pipeline.gan.rates import decay_at, set_optimisers, update_ema
from pipeline.gan.schedules import value_at
from pipeline.gan.state import Diverged, TrainState, create_state, mean_losses, reported_losses, require_finite
from pipeline.gan.step_terms import terms_at
from pipeline.models.layers import mixes_images
from pipeline.params import Recipe, TrainParams

__all__ = [
    "Diverged", "StepReport", "TrainState", "create_state", "draw_inputs", "mean_losses", "reported_losses",
    "require_finite", "train", "train_step",
]  # fmt: skip

REAL_LOGITS = "D's logits of the real images"  # beside the curves in what an update of D returns


@dataclass(frozen=True)
class StepReport:
    """What happened: the step just done, and at each `report_every` steps the mean losses since the last report."""

    step: int
    losses: dict[str, float] | None


def train(
    state: TrainState,
    images: ImageSet,
    loss: AdversarialLoss | FlowLoss,
    recipe: Recipe,
    budget: TrainParams,
    world: World = ALONE,
) -> Iterator[StepReport]:
    """Train from `state.step` to `budget.steps`, yielding after every step; `state` is changed in place.

    The losses stay on the device between reports, so a step never waits for it. Of several ranks the first calls this;
    the others follow it with `advance`.

    Raises:
        Diverged: a loss is NaN or infinite, found at the next report; it names the loss and the step.
    """
    while state.step < budget.steps:
        with world.lead(STEP):
            advance(state, images, loss, recipe, budget, world)
        yield StepReport(state.step, reported_losses(state, budget))


def advance(
    state: TrainState,
    images: ImageSet,
    loss: AdversarialLoss | FlowLoss,
    recipe: Recipe,
    budget: TrainParams,
    world: World,
) -> None:
    """One step of `state`, on every rank."""
    row = state.step % len(state.losses)
    state.losses[row] = train_step(state, images, loss, recipe, budget, world)
    state.step += 1


def train_step(
    state: TrainState,
    images: ImageSet,
    loss: AdversarialLoss | FlowLoss,
    recipe: Recipe,
    budget: TrainParams,
    world: World = ALONE,
) -> Tensor:
    """`n_critic` updates of D and one of G, or of G alone where there is no D, on the device alone.

    Returns:
        The last values of the curves `state.names`, float32 (K,), detached, on the device: the losses of D and G
        without the penalty, the penalty as it was added, and what penalties and augmentations report.
    """
    set_optimisers(state, recipe, budget)
    if isinstance(loss, FlowLoss):
        curves = update_flow(state, images, loss, recipe, budget, world)
    else:
        curves = _update_both(_Step(state, images, smoothed(loss, recipe.label_smoothing), recipe, budget, world))
    if state.ema is not None:
        update_ema(state.ema, state.gan.generator, decay_at(recipe, state.step, budget.steps))
    return curves


def _update_both(step: "_Step") -> Tensor:
    n_critic, done = step.recipe.n_critic, step.state.step
    for index in range(done * n_critic, (done + 1) * n_critic):
        step.update_discriminator(index)
    step.update_generator()
    return step.curves()


class _Step:
    """One training step: what both updates share, and the curves that they write."""

    def __init__(
        self,
        state: TrainState,
        images: ImageSet,
        loss: AdversarialLoss,
        recipe: Recipe,
        budget: TrainParams,
        world: World,
    ) -> None:
        self.state, self.images, self.loss, self.recipe = state, images, loss, recipe
        self.device, self.budget, self.world = images.images.device, budget, world
        self.noise = recipe.instance_noise * (1 - state.step / budget.steps)
        self.terms = terms_at(recipe, state.step, budget.steps)
        scheduled = value_at(recipe.augment_strength, state.step, budget.steps)
        self.strengths = {
            name: scheduled if AUGMENTATIONS[name].adapt is None else state.own[f"augment/{name}/strength"]
            for name in recipe.augment
        }
        # The batch is drawn at once, and passes the networks in parts, one by one.
        self.rank, self.parts = world.all_of(budget.accumulate), world.micro_batches(budget.accumulate)
        self.fakes: tuple[Tensor, Tensor, Tensor] | None = None  # images, latents, labels of D's last update, to reuse
        self.noted: dict[str, list[Tensor]] = {}  # the values of an update for the curves, one for each micro-batch
        self.values: dict[str, Tensor] = {}  # of the curves, of the last updates

    def update_discriminator(self, index: int) -> None:
        """Update number `index` of D, counted from 0 over the whole training."""
        state, discriminator = self.state, self.state.gan.discriminator
        real_images, real_labels = self._real(state.seed, index)
        latents, labels = self._inputs("d", index, real_labels)
        state.optimiser_d.zero_grad()
        inputs = (real_images, real_labels, latents, labels)
        found = state.gradients(self._kind("discriminator", index), discriminator, index, self._gradients_of_d, inputs)
        self.world.average_gradients(discriminator.parameters())
        state.optimiser_d.step()
        if self.recipe.clip is not None:
            clip_weights(discriminator, self.recipe.clip)
        self._adapt(found[REAL_LOGITS])
        self.values |= found

    def _gradients_of_d(self, index: int, *inputs: Tensor) -> dict[str, Tensor]:
        """D's gradients by (real images, real labels, latents, labels); D's logits of the real ones, and curves."""
        self.noted = {}
        with parametrize.cached():  # all images pass D under the same normalised weights
            real_logits = [self._learn_discriminator(part, index, *map(part.cut, inputs)) for part in self.parts]
        whole = real_logits[0] if len(real_logits) == 1 else torch.stack(real_logits, dim=1).flatten()
        return {REAL_LOGITS: whole, **self._noted_means()}

    def _learn_discriminator(
        self, part: World, index: int, real_images: Tensor, real_labels: Tensor, latents: Tensor, labels: Tensor
    ) -> Tensor:
        """Add the gradients of D by a part of the batch; what D said of its real images."""
        gan = self.state.gan
        reused = self.recipe.reuse_fakes and (index + 1) % self.recipe.n_critic == 0
        with torch.set_grad_enabled(reused), self._autocast():
            fake_images = self._generate(latents, labels, "d", index, part)
        if reused:
            self.fakes, fake_images = (fake_images, latents, labels), fake_images.detach()
        show = self._augmentation(index, part)
        real, fake = show(real_images, "real"), show(fake_images, "fake")
        real_logits, fake_logits = self._logits_of_both(real, real_labels, fake, labels)
        update = functools.partial(
            Update, gan.generator, gan.discriminator, real, real_labels, fake, labels,
            real_images=real_images, fake_images=fake_images, real_logits=real_logits, fake_logits=fake_logits,
            latents=latents, show=show, world=part,
        )  # fmt: skip
        # A loss may compare any logits of the batch: each rank computes it from all of them.
        loss = self.loss.discriminator(self.world.whole(real_logits), self.world.whole(fake_logits))
        self._learn(part, "loss/d", loss, "discriminator", index, update)
        return real_logits.detach()

    def _logits_of_both(self, real: Tensor, real_labels: Tensor, fake: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """D's logits of the real and of the fake images, which pass it together unless it would mix them."""
        discriminator = self.state.gan.discriminator
        with self._autocast():
            if self.recipe.group > 1 or mixes_images(discriminator):
                logits = [discriminator(real, real_labels), discriminator(fake, labels)]
            else:
                logits = discriminator(torch.cat((real, fake)), torch.cat((real_labels, labels))).chunk(2)
        real_logits, fake_logits = (one.float() for one in logits)
        return real_logits, fake_logits

    def update_generator(self) -> None:
        """The update of G of this step."""
        state, generator, index = self.state, self.state.gan.generator, self.state.step
        real = self._real(stable_hash(state.seed, "real for g"), index) if self.loss.paired else ()
        inputs = (*self._inputs("g", index, real[1] if real else None), *real)
        state.optimiser_g.zero_grad()
        self.values |= state.gradients(self._kind("generator", index), generator, index, self._gradients_of_g, inputs)
        self.world.average_gradients(generator.parameters())
        state.optimiser_g.step()

    def _gradients_of_g(self, index: int, *inputs: Tensor) -> dict[str, Tensor]:
        """G's gradients by (latents, labels) and, where the loss is paired, (real images, real labels); curves."""
        self.noted, discriminator = {}, self.state.gan.discriminator
        discriminator.requires_grad_(False)  # G's step needs no gradient of D's weights: a third less to compute
        with parametrize.cached():
            for part in self.parts:
                self._learn_generator(part, index, *map(part.cut, inputs))
        discriminator.requires_grad_(True)
        return self._noted_means()

    def _learn_generator(
        self,
        part: World,
        index: int,
        latents: Tensor,
        labels: Tensor,
        real_images: Tensor | None = None,
        real_labels: Tensor | None = None,
    ) -> None:
        """Add the gradients of G by a part of the batch."""
        gan, show = self.state.gan, self._augmentation(index, part)
        real = real_logits = None
        with self._autocast():
            if self.fakes is None:
                fake_images = self._generate(latents, labels, "g", index, part)
            else:
                fake_images, latents, labels = self.fakes
            fake = show(fake_images, "g")
            logits = [gan.discriminator(fake, labels).float()]
            if real_images is not None and real_labels is not None:
                real = show(real_images, "real for g")
                real_logits = gan.discriminator(real, real_labels).float()
                logits.append(real_logits)
        update = functools.partial(
            Update, gan.generator, gan.discriminator, real, real_labels, fake, labels,
            real_images=real_images, fake_images=fake_images, real_logits=real_logits, fake_logits=logits[0],
            latents=latents, show=show, world=part,
        )  # fmt: skip
        loss = self.loss.generator(*self._best([self.world.whole(one) for one in logits]))
        self._learn(part, "loss/g", loss, "generator", index, update)

    def _learn(
        self, part: World, curve: str, loss: Tensor, whose: str, index: int, update: Callable[..., Update]
    ) -> None:
        """Add the gradients of a part's loss, with the penalties that are this network's and due, to the batch's."""
        self._note(curve, loss)
        for term in self.terms:
            if term.penalty.value is None or term.penalty.of != whose:
                continue
            if not term.due(index):
                self._note(term.curve, torch.zeros((), device=self.device))
                continue
            draws = named_draws(self.device, part, self.state.seed, *term.stream, index)
            own = self.state.own_tensors(term.curve)
            value = term.weight * term.penalty.value(update(draws=draws, own=own))  # in float32
            self._note(term.curve, value)
            loss = loss + value
        # The loss of the batch is the mean over its parts. All parts go back through the same normalised weights.
        share = torch.full_like(loss, 1 / len(self.parts))
        loss.backward(share, retain_graph=part is not self.parts[-1])

    def _note(self, curve: str, value: Tensor) -> None:
        self.noted.setdefault(curve, []).append(value.detach())

    def _noted_means(self) -> dict[str, Tensor]:
        return {
            curve: values[0] if len(values) == 1 else torch.stack(values).mean() for curve, values in self.noted.items()
        }

    def _kind(self, whose: str, index: int) -> tuple[object, ...]:
        """What tells updates apart that do different things: whose they are, and which penalties are due."""
        return whose, *(term.due(index) for term in self.terms if term.penalty.of == whose)

    def curves(self) -> Tensor:
        """The values of `state.names` in this step, float32 (K,), the same on all ranks."""
        values = [self.values[name] if name in self.values else self.state.own[name] for name in self.state.names]
        return self.world.mean(torch.stack([value.float() for value in values]))

    def _real(self, seed: int, index: int) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        return batch(self.images, index, recipe.batch_size, seed, recipe.flip, recipe.dequantise, self.rank)

    def _inputs(self, stream: str, index: int, real_labels: Tensor | None) -> tuple[Tensor, Tensor]:
        latents, labels = draw_inputs(self.recipe, self.images, self.state.seed, stream, index, self.rank)
        return latents, real_labels if self.loss.paired and real_labels is not None else labels

    def _generate(self, latents: Tensor, labels: Tensor, stream: str, index: int, part: World) -> Tensor:
        """G's images; a G that draws numbers, as its attribute `draws` says, has its own for this call."""
        generator = self.state.gan.generator
        if hasattr(generator, "draws"):
            draws = named_draws(self.device, part, self.state.seed, "generator", stream, index)
            generator.draws = draws  # type: ignore[assignment]
        images: Tensor = generator(latents, labels)
        return images

    def _augmentation(self, index: int, part: World) -> Callable[[Tensor, str], Tensor]:
        """(images of a part, name of the stream that it draws from) -> the images as D is shown them."""
        strengths, noise, seed = self.strengths, self.noise, self.state.seed
        return lambda images, stream: augment_for_discriminator(images, strengths, noise, seed, stream, index, part)

    def _best(self, logits: list[Tensor]) -> list[Tensor]:
        """The logits that G learns from: of the share `top_k` of the fakes, those that D takes for most real."""
        share = value_at(self.recipe.top_k, self.state.step, self.budget.steps)
        if share == 1:
            return logits
        places = logits[0].topk(math.ceil(share * len(logits[0]))).indices
        return [one[places] for one in logits]

    def _adapt(self, real_logits: Tensor) -> None:
        for name in self.recipe.augment:
            if adapt := AUGMENTATIONS[name].adapt:
                adapt(self.state.own_tensors(f"augment/{name}"), self.world.whole(real_logits))

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return autocast(self.budget.precision, self.device)


def draw_inputs(
    recipe: Recipe, images: ImageSet, seed: int, stream: str, index: int, world: World = ALONE
) -> tuple[Tensor, Tensor]:
    """Latents ~ N(0, 1), float32 (N, Z), and the labels of random real images, int64 (N,), for one batch of fakes."""
    draws = named_draws(images.images.device, world, seed, "latents", stream, index)
    count = recipe.batch_size // world.size
    latents = draws.randn(count, recipe.latent_dim)
    return latents, images.labels[draws.randint(0, len(images.labels), (count,))]
