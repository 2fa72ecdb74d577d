"""What is wrong with a recipe, or a search space, beyond types and ranges: unknown names, impossible combinations."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from pydantic import ValidationError

from pipeline.core.errors import PipelineError, printable, suggest
from pipeline.core.ranks import uneven
from pipeline.data.datasets import expected_classes
from pipeline.gan.augment import AUGMENTATIONS
from pipeline.gan.flow import FLOW_LOSSES
from pipeline.gan.losses import LOSSES
from pipeline.gan.optimisers import OPTIMISERS
from pipeline.gan.penalties import PENALTIES
from pipeline.gan.step import create_state
from pipeline.gan.warm_start import warm_start
from pipeline.models import NETWORKS, build_gan
from pipeline.models.unet import SOLVERS
from pipeline.params import Dimension, Params, Recipe, Schedule
from pipeline.params.schema import faults

SMALL = {"width_g": 8, "width_d": 8, "latent_dim": 2}  # a network that is quickly built
WITHOUT_D = {  # fields that do nothing without a D, and their neutral values
    "label_smoothing": 0, "penalty": "none", "penalty_every": 1, "regularisers": {}, "clip": None, "pack": 1,
    "n_critic": 1, "top_k": 1, "reuse_fakes": False, "augment": (), "augment_strength": 1, "instance_noise": 0,
}  # fmt: skip

NAMING = "write a field of a recipe, or models.<recipe>.<field>"
FIXED = {"network", "init_from", "augment"}  # another network is another recipe, see --models; augment is a list
REGISTRIES: dict[str, Mapping[str, object]] = {
    "loss": {**LOSSES, **FLOW_LOSSES}, "penalty": PENALTIES, "optimiser": OPTIMISERS, "solver": SOLVERS,
}  # fmt: skip


def recipe_problems(place: str, recipe: Recipe, params: Params) -> Iterator[str]:
    """One sentence for each fault of a recipe, which stands at `place`: the rule, and the remedy."""
    yield from unknown(f"{place}.loss", recipe.loss, [*LOSSES, *FLOW_LOSSES])
    yield from unknown(f"{place}.network", recipe.network, NETWORKS)
    yield from unknown(f"{place}.penalty", recipe.penalty, PENALTIES)
    yield from unknown(f"{place}.optimiser", recipe.optimiser, OPTIMISERS)
    yield from unknown(f"{place}.solver", recipe.solver, SOLVERS)
    for name in recipe.augment:
        yield from unknown(f"{place}.augment", name, AUGMENTATIONS)
    if len(set(recipe.augment)) < len(recipe.augment):
        yield f"{place}.augment: must not name anything twice, got {list(recipe.augment)}"
    for name in recipe.regularisers:
        yield from unknown(f"{place}.regularisers", name, PENALTIES)
        if name in ("none", recipe.penalty):
            yield f"{place}.regularisers: {name} must not be among them, " + (
                "which is no regulariser" if name == "none" else "since it is the penalty already"
            )
    adaptive = [name for name in recipe.augment if name in AUGMENTATIONS and AUGMENTATIONS[name].adapt]
    if adaptive and recipe.loss in LOSSES and LOSSES[recipe.loss].paired:
        yield (
            f"{place}.augment: must not hold {adaptive[0]} with loss {recipe.loss}: it follows the signs of logits, "
            "but this loss uses only their differences; use ada_fixed with a value or schedule as augment_strength"
        )
    if recipe.loss in LOSSES and {recipe.penalty, *recipe.regularisers} <= set(PENALTIES):
        yield from _impossible_pairs(place, recipe)
    yield from _batch_problems(place, recipe, params)
    if recipe.ema_decay is not None and recipe.ema_half_life is not None:
        yield f"{place}.ema_decay: must be null with ema_half_life, which gives the decay"
    if recipe.ema_half_life is None and recipe.ema_ramp_up is not None:
        yield f"{place}.ema_ramp_up: must be null without ema_half_life, which it limits"
    if recipe.ema_half_life is not None and recipe.ema_warmup:
        yield f"{place}.ema_warmup: must be false with ema_half_life, which has ema_ramp_up instead"
    if params.generate.weights == "ema" and not recipe.averaged:
        yield f"{place}.ema_decay: must be a number with generate.weights: ema; or set generate.weights: raw"
    if recipe.network in NETWORKS and recipe.solver in SOLVERS:
        yield from _network_problems(place, recipe, params)
        yield from _flow_problems(place, recipe)


def _network_problems(place: str, recipe: Recipe, params: Params) -> Iterator[str]:
    """What a network asks of the normalisations, of the data and of the extractor."""
    network = NETWORKS[recipe.network]
    if network.features_of in (params.metrics.extractor, *params.metrics.further_extractors):
        field = "extractor" if network.features_of == params.metrics.extractor else "further_extractors"
        must = "must not be" if field == "extractor" else "must not name"
        yield (
            f"metrics.{field}: {must} {network.features_of} with the network {recipe.network} "
            f"({place}), whose D is built on its features: measure these samples by other extractors"
        )
    if not network.spectral:
        for field, used in (("norm_d", recipe.norm_d == "spectral"), ("spectral_norm_g", recipe.spectral_norm_g)):
            if used:
                remedy = "none" if field == "norm_d" else "false"
                with_network = f"with the network {recipe.network}, which takes no spectral norm"
                yield f"{place}.{field}: must be {remedy} {with_network}"
    for name, refused in _terms(place, recipe):
        if PENALTIES[name].needs_styles and not network.styled:
            able = ", ".join(name for name, entry in NETWORKS.items() if entry.styled)
            yield f"{refused}, for which G needs styles; networks with them: {able}"
    if recipe.norm_d == "batch" and not network.batch_norm_d:
        yield f"{place}.norm_d: the network {recipe.network} has no batch norm in D; use spectral or none"
    try:
        shape = (params.data.channels, params.data.image_size, params.data.image_size)
        classes = expected_classes(params.data)
        small = recipe.model_copy(update=SMALL | ({"latent_dim": recipe.latent_dim} if network.flow else {}))
        build_gan(small, shape, 2 if classes is None else classes, seed=0)
    except PipelineError as error:
        yield f"{error} (the network of {place})"
    else:
        known = classes is not None or not network.conditional
        if recipe.init_from and recipe.optimiser in OPTIMISERS and known:
            yield from _origin_problems(place, recipe, params, shape, classes or 0)


def _flow_problems(place: str, recipe: Recipe) -> Iterator[str]:
    """What does not go with a network without D: another loss, no solver, fields of D; and the reverse for a GAN."""
    with_network = f"with the network {recipe.network}"
    flow, known = NETWORKS[recipe.network].flow, FLOW_LOSSES if NETWORKS[recipe.network].flow else LOSSES
    if recipe.loss in (LOSSES.keys() | FLOW_LOSSES.keys()) - known.keys():
        why = "which has no D" if flow else "which is no flow"
        yield f"{place}.loss: must be one of {', '.join(known)} {with_network}, {why}; got {recipe.loss}"
    if flow != (recipe.sampling_steps > 0):
        must = "at least 1" if flow else "0"
        why = "which goes from noise to image in steps" if flow else "which makes an image in one pass"
        yield f"{place}.sampling_steps: must be {must} {with_network}, {why}; got {recipe.sampling_steps}"
    if not flow and recipe.solver != "euler":
        yield f"{place}.solver: must be euler {with_network}, which has no solver; got {recipe.solver}"
    for field, off in WITHOUT_D.items() if flow else ():
        if getattr(recipe, field) != off:
            own = recipe.model_dump(mode="json")[field]
            yield f"{place}.{field}: must be {_yaml(off)} {with_network}, which has no D; got {_yaml(own)}"


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _batch_problems(place: str, recipe: Recipe, params: Params) -> Iterator[str]:
    """What packing, the spread of a minibatch, and what shares a batch ask of the network and of the batch."""
    network, devices, accumulate = NETWORKS.get(recipe.network), params.runtime.devices, params.train.accumulate
    for field, size in (("pack", recipe.pack), ("minibatch_std", max(recipe.minibatch_std, 1))):
        if recipe.batch_size % size:
            yield f"{place}.{field}: must divide batch_size, {recipe.batch_size}, got {size}"
    if recipe.pack > 1 and recipe.minibatch_std and recipe.batch_size % recipe.group:
        rule = f"must be a multiple of {recipe.group}, pack times minibatch_std"
        yield f"{place}.batch_size: {rule}, got {recipe.batch_size}"
    count = len(devices) if isinstance(devices, tuple) else 1 if devices == "auto" else int(devices)
    if problem := uneven(recipe.batch_size, recipe.group, accumulate, "micro-batches"):
        yield f"train.accumulate: in {place}, {problem}"
    elif problem := uneven(recipe.batch_size, recipe.group * accumulate, count):
        yield f"{place}.batch_size: {problem}"
    if accumulate > 1:
        yield from _accumulation_problems(place, recipe, accumulate)
    if network and network.conditional and recipe.pack > 1:
        yield f"{place}.pack: must be 1 with the network {recipe.network}, which takes a label for each image"
    if network and network.features_of and recipe.pack > 1:
        why = "whose D passes each image through a frozen network"
        yield f"{place}.pack: must be 1 with the network {recipe.network}, {why}"
    if network and recipe.minibatch_std and not network.minibatch_std_d:
        able = ", ".join(name for name, entry in NETWORKS.items() if entry.minibatch_std_d) or "none"
        yield f"{place}.minibatch_std: must be 0 with the network {recipe.network}; networks with it: {able}"


def _accumulation_problems(place: str, recipe: Recipe, accumulate: int) -> Iterator[str]:
    """What cannot be learnt from a part of the batch at a time."""
    above = "with train.accumulate above 1 (or set that to 1)"
    if recipe.batch_size < 2 * accumulate:
        yield f"train.accumulate: must be at most half of {place}.batch_size, {recipe.batch_size}, got {accumulate}"
    if recipe.loss in LOSSES and LOSSES[recipe.loss].whole_batch:
        yield f"{place}.loss: must not be {recipe.loss} {above}, since it compares each logit with the whole batch"
    if recipe.top_k != 1:
        yield f"{place}.top_k: must be 1 {above}, since it chooses among the whole batch"
    if recipe.reuse_fakes:
        yield f"{place}.reuse_fakes: must be false {above}, since it keeps what all fakes need for their gradient"
    for name, refused in _terms(place, recipe):
        if PENALTIES[name].whole_batch or PENALTIES[name].own():
            yield f"{refused} {above}, since it measures the whole batch"


def _terms(place: str, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The known penalties of a recipe, each with the words that refuse it where it stands."""
    if recipe.penalty in PENALTIES:
        yield recipe.penalty, f"{place}.penalty: must not be {recipe.penalty}"
    for name in recipe.regularisers:
        if name in PENALTIES:
            yield name, f"{place}.regularisers: must not hold {name}"


def _origin_problems(
    place: str, recipe: Recipe, params: Params, shape: tuple[int, int, int], classes: int
) -> Iterator[str]:
    """What keeps a recipe from starting with the networks that it names."""
    try:
        assert recipe.init_from
        warm_start(create_state(recipe, params.train, shape, classes, 0, torch.device("cpu")), recipe.init_from)
    except PipelineError as error:
        yield f"{place}.init_from: {error}"


def _impossible_pairs(place: str, recipe: Recipe) -> Iterator[str]:
    """What a loss, a penalty and D's normalisation ask of each other."""
    loss, terms = LOSSES[recipe.loss], [recipe.penalty, *recipe.regularisers]
    bounded = recipe.norm_d == "spectral" or recipe.clip is not None
    bounded = bounded or any(PENALTIES[name].enforces_lipschitz for name in terms)
    if loss.needs_lipschitz and not bounded:
        remedy = "must be spectral (or set penalty: gradient, or clip)"
        yield f"{place}.norm_d: {remedy} with loss {recipe.loss}, which needs D's gradient bounded"
    if recipe.label_smoothing and not loss.cross_entropy:
        smooth = ", ".join(name for name, value in LOSSES.items() if value.cross_entropy)
        others = f"losses with labels: {smooth}"
        yield f"{place}.label_smoothing: must be 0 with loss {recipe.loss}, which has no labels; {others}"
    if recipe.reuse_fakes and loss.paired:
        yield f"{place}.reuse_fakes: must be false with loss {recipe.loss}, which draws new pairs for G's update"
    mixed = [name for name in terms if PENALTIES[name].needs_independent_logits] if recipe.norm_d == "batch" else []
    for name in mixed:
        yield (
            f"{place}.norm_d: must not be batch with penalty {name}, which needs logits that depend on their own "
            "image alone: batch norm mixes images; use none or spectral"
        )
    if recipe.clip is not None and recipe.norm_d == "spectral":
        yield f"{place}.clip: must be null with norm_d: spectral, which divides weights by their norm, clipped or not"


def unknown(place: str, name: str, known: Collection[str]) -> Iterator[str]:
    """A sentence if a name stands in no registry."""
    if name not in known:
        yield f"{place}: unknown name {name!r}; {suggest(name, known)}"


def recipe_of(params: Params, name: str) -> Recipe | None:
    """The recipe to which a dimension's name refers: a model's, or the shared one; None if it refers to no recipe."""
    parts = name.split(".")
    if len(parts) == 1:
        return params.recipe
    return params.models.get(parts[1]) if len(parts) == 3 and parts[0] == "models" else None


def space_problems(params: Params) -> Iterator[str]:
    """One sentence for each dimension that no recipe could be tuned over, whichever a study is of."""
    for name, dimension in params.search.space.items():
        place, recipe = f"search.space.{printable(name, 200)}", recipe_of(params, name)
        if recipe is None:
            yield f"{place}: {NAMING}"
            continue
        above, _, field = place.rpartition(".")
        own = getattr(recipe, field, None)
        typed = own is not None and not isinstance(own, Schedule)  # else another recipe may have a number
        fault = dimension_problem(recipe, name.rpartition(".")[2], dimension, typed)
        if fault:
            yield f"{above}.{fault}"


def dimension_problem(recipe: Recipe, name: str, dimension: Dimension, typed: bool = True) -> str | None:
    """What is wrong with a dimension of the field `name`, as `field: rule and remedy`, or None.

    typed: its ends must be numbers as the recipe's own value is one.
    """
    if name not in Recipe.model_fields:
        return f"{printable(name)}: unknown field of a recipe; {suggest(name, Recipe.model_fields)}"
    if name in FIXED:
        return f"{name}: cannot be varied: write another recipe with it, and compare the two with --models"
    fault = _shape_problem(dimension, getattr(recipe, name), typed)
    if fault:
        return f"{name}: {fault}"
    ends = dimension.choices if dimension.choices is not None else (dimension.low, dimension.high)
    return next((fault for value in ends if (fault := _value_problem(recipe, name, value))), None)


def _value_problem(recipe: Recipe, name: str, value: Any) -> str | None:
    """Why no recipe can have this value, or None. Not whether it goes with the recipe's other values: they may vary."""
    try:
        Recipe.model_validate({**recipe.model_dump(), name: value})
    except ValidationError as error:
        return faults(error, Recipe)[0]
    known = REGISTRIES.get(name)
    if known is not None and value not in known:
        return f"{name}: unknown name {value!r}; {suggest(value, known)}"
    return None


def is_whole_number(distance: float, step: float) -> bool:
    """Whether the distance is a whole number of steps; one of more than can be counted is not."""
    try:
        steps = distance / step
    except OverflowError:
        return False
    return math.isfinite(steps) and math.isclose(steps, round(steps), rel_tol=1e-9, abs_tol=1e-9)


def _shape_problem(dimension: Dimension, own: Any, typed: bool) -> str | None:
    """What is wrong with a dimension by itself, or, if `typed`, for a field whose value is `own`."""
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.choices is not None:
        if (low, high, step, dimension.log) != (None, None, None, None):
            return "has choices, so it takes no low, high, log or step"
        if len(dimension.choices) < 2 or len(set(dimension.choices)) < len(dimension.choices):
            return "must have at least two choices, none of them twice"
        return None
    if low is None or high is None:
        return "needs low and high, or choices"
    if typed and (isinstance(own, bool) or not isinstance(own, int | float)):
        return f"is not a number, so it needs choices (its value is {own})"
    if typed and isinstance(own, int) and any(isinstance(value, float) for value in (low, high, step)):
        return f"takes whole numbers, got low {low}, high {high}, step {step}"
    if low >= high:
        return f"low must be below high, got low {low}, high {high}"
    if dimension.log and low <= 0:
        return f"low must be above 0 with log: true, got {low}"
    if dimension.log and step is not None:
        return "takes log or step, not both"
    if step is not None and not 0 < step <= high - low:
        return f"step must be above 0 and at most high - low, got {step}"
    if step is not None and not is_whole_number(high - low, step):
        return f"high must be low plus a whole number of steps, got low {low}, high {high}, step {step}"
    return None
