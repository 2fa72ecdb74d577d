"""What a study varies: `search.space` of params.yaml as Optuna's distributions, and what is wrong with it."""

from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from pipeline.check_recipe import NAMING, dimension_problem, is_whole_number, recipe_of
from pipeline.core.errors import PipelineError, suggest
from pipeline.params import Dimension, Params, Schedule


def space_of(params: Params, model: str) -> dict[str, Dimension]:
    """The dimensions for one model: those named by a recipe's field, and those by models.<model>.<field>, which win."""
    prefix, space = f"models.{model}.", params.search.space
    general = {name: dimension for name, dimension in space.items() if "." not in name}
    return general | {name.removeprefix(prefix): value for name, value in space.items() if name.startswith(prefix)}


def distributions(params: Params, model: str) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each field that is varied."""
    recipe = params.models[model]
    return {name: _distribution(dim, getattr(recipe, name)) for name, dim in space_of(params, model).items()}


def current(params: Params, model: str) -> dict[str, Any]:
    """The recipe's own values of the fields that are varied: the first trial.

    Raises:
        PipelineError: one of them is a schedule, which is no value that a study can try.
    """
    values = {name: getattr(params.models[model], name) for name in space_of(params, model)}
    for name, value in values.items():
        if isinstance(value, Schedule):
            raise PipelineError(f"search.space.{_scheduled(model, name)}", field=f"models.{model}.{name}")
    return values


def suggest_values(trial: Trial, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """The trial's values, sampled or given, by field.

    Where an earlier worker was killed between two of them, the ones that it stored are drawn again and left out, so
    that the sampler's random numbers for the others are those that they would have been.
    """
    stored = trial.params
    redrawn = stored.keys() - trial.relative_params.keys() if stored and stored.keys() < space.keys() else set()
    for name, distribution in space.items():
        if name in redrawn:
            trial.study.sampler.sample_independent(
                trial.study, trial.study.get_trials()[trial.number], name, distribution
            )
        if isinstance(distribution, FloatDistribution):
            trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        elif isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        elif isinstance(distribution, CategoricalDistribution):
            trial.suggest_categorical(name, distribution.choices)
    return dict(trial.params)


def with_values(params: Params, model: str, values: Mapping[str, Any]) -> Params:
    """Params whose recipe has these values."""
    return params.override({f"models.{model}.{name}": value for name, value in values.items()})


def problems(params: Params, model: str) -> Iterator[str]:
    """One sentence for each fault of a study of one model: its place, the rule, and the remedy."""
    if model not in params.models:
        yield f"--model {model}: no such recipe; {suggest(model, params.models)}"
        return
    yield from (f"search.space.{name}: {NAMING}" for name in params.search.space if recipe_of(params, name) is None)
    for name, dimension in space_of(params, model).items():
        fault = _dimension_problem(params, model, name, dimension)
        if fault:
            yield f"search.space.{fault}"
    yield from _cost_problems(params, model)


def data_problems(params: Params, model: str, images: int) -> Iterator[str]:
    """What does not go with the number of training images, which is known when they are prepared."""
    dimension = space_of(params, model).get("batch_size")
    if dimension is not None:
        largest = max(dimension.choices or (dimension.high,))
        if largest > images:
            yield f"search.space.batch_size: must be at most the number of training images, {images}, got {largest}"


def _cost_problems(params: Params, model: str) -> Iterator[str]:
    """What does not go with a cost that is minimised beside the distance."""
    search, both = params.search, f"with search.against: {params.search.against}"
    if search.against is None:
        return
    if search.pruner != "none":
        yield f"search.pruner: must be none {both}, got {search.pruner}: Optuna prunes by one objective"
    if search.sampler == "cmaes":
        yield f"search.sampler: must be tpe, gp, nsga2, qmc or random {both}: cmaes minimises one objective only"
    if search.against == "images" and not space_of(params, model).keys() & {"n_critic", "batch_size"}:
        yield f"search.against: images needs n_critic or batch_size in {model}'s space, or all trials cost the same"


def _dimension_problem(params: Params, model: str, name: str, dimension: Dimension) -> str | None:
    """What is wrong with one dimension, as `field: rule and remedy`."""
    own = getattr(params.models[model], name, None)
    if isinstance(own, Schedule):
        return _scheduled(model, name)
    fault = dimension_problem(params.models[model], name, dimension)
    if fault:
        return fault
    if name == "ema_decay" and None in (dimension.choices or ()) and params.generate.weights == "ema":
        return f"{name}: null leaves nothing to sample with generate.weights: ema: leave it out, or set that to raw"
    if not _includes(dimension, own):
        return f"{name}: must include {own}, the value in {model}: the first trial is the recipe as it is"
    return None


def _scheduled(model: str, name: str) -> str:
    return (
        f"{name}: is a schedule in {model}, but a study tries numbers only: give models.{model}.{name} a number, "
        "or leave it out of search.space"
    )


def _includes(dimension: Dimension, value: Any) -> bool:
    if dimension.choices is not None:
        return value in dimension.choices
    fits = dimension.step is None or is_whole_number(value - dimension.low, dimension.step)
    return bool(dimension.low <= value <= dimension.high and fits)


def _distribution(dimension: Dimension, own: Any) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None and dimension.high is not None
    log = bool(dimension.log)
    if isinstance(own, int):
        return IntDistribution(int(dimension.low), int(dimension.high), log=log, step=int(dimension.step or 1))
    return FloatDistribution(float(dimension.low), float(dimension.high), log=log, step=dimension.step)
