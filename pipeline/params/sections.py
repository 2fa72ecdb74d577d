"""The sections of params.yaml as frozen, strict classes: a type and a range for every value.

Nothing here has a default: DVC cannot see a default in Python and would not notice that it changed. What a value means
is said beside it in params.yaml. Names that stand in registries (networks, losses, ...) and rules across fields are
checked in `pipeline.check`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    model_serializer,
    model_validator,
)

from pipeline.core.errors import PipelineError, printable, suggest
from pipeline.params.schema import NUMBER, SCHEDULE, Neutral, Section, faults, is_finite

Count = Annotated[int, Field(ge=1, le=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")]


class Schedule(Section):
    """A value that changes while a model trains: from `start` to `end` by `shape`, then constant.

    until: the share of train.steps after which `end` is reached.
    """

    start: float
    end: float
    shape: Literal["linear", "cosine"]
    until: Annotated[float, Field(gt=0, le=1)]


class Schedulable:
    """Marks a value that is a number within limits (those of pydantic's Field), or a schedule between two of them."""

    def __init__(self, **limits: float) -> None:
        self._limits: dict[str, Any] = limits

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        number = Annotated[float, Field(allow_inf_nan=False, **self._limits)]
        one = TypeAdapter(number)

        def both_ends(schedule: Any, handler: Any) -> Any:
            checked: Schedule = handler(schedule)
            for end in (checked.start, checked.end):
                one.validate_python(end)
            return checked

        def kind(value: Any) -> str:
            return SCHEDULE if isinstance(value, Mapping | Schedule) else NUMBER

        schedule = Annotated[Schedule, WrapValidator(both_ends)]
        kinds = Annotated[number, Tag(NUMBER)] | Annotated[schedule, Tag(SCHEDULE)]
        return handler.generate_schema(Annotated[kinds, Discriminator(kind)])


Rate = Annotated[float | Schedule, Schedulable(gt=0, le=10)]
Beta = Annotated[float | Schedule, Schedulable(ge=0, lt=1)]
PenaltyWeight = Annotated[float | Schedule, Schedulable(gt=0, le=1e6)]
Share = Annotated[float | Schedule, Schedulable(ge=0, le=1)]
HalfLife = Annotated[float | Schedule, Schedulable(ge=0, le=1e12)]


def _labels(value: Any) -> Any:
    if value in ("data", "balanced") or (type(value) is int and 0 <= value < 2**31):
        return value
    raise ValueError("must be data, balanced, or the number of one class")


def _devices(value: Any) -> Any:
    numbers = list(value) if isinstance(value, list | tuple) else []
    different = all(type(one) is int and 0 <= one < 100 for one in numbers) and len(set(numbers)) == len(numbers)
    if numbers and different:
        return tuple(numbers)
    if value == "auto" or (type(value) is int and 1 <= value <= 1024):
        return value
    raise ValueError("must be auto, a number from 1 to 1024, or a list of different GPUs such as [0, 2]")


class DataParams(Section):
    dataset: str
    root: str
    image_size: Annotated[int, Field(ge=4, le=1024)]
    channels: Literal[1, 3]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    limit: Count | None
    bad_images: Literal["refuse", "skip"]
    max_megapixels: Annotated[float, Field(gt=0, le=1000)]
    seed: Seed


class MetricsParams(Section):
    extractor: str
    further_extractors: Annotated[tuple[str, ...], Field(strict=False, max_length=20)]
    weights: str | None
    unknown_weights: Literal["refuse", "allow"]
    batch_size: Count
    compile: bool
    bootstrap: Annotated[int, Field(ge=0, le=10_000)]
    infinity: bool


class Recipe(Section):
    """How one GAN is built and trained: an entry under `models:`."""

    network: str
    loss: str
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5, allow_inf_nan=False), Neutral(0)]
    penalty: Annotated[str, Neutral("none")]
    penalty_weight: PenaltyWeight
    penalty_every: Annotated[int, Field(ge=1, le=10_000), Neutral(1)]
    regularisers: Annotated[
        Mapping[str, Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]], Field(max_length=100), Neutral({})
    ]
    clip: Annotated[Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None, Neutral(None)]
    width_g: Annotated[int, Field(ge=1, le=4096)]
    width_d: Annotated[int, Field(ge=1, le=4096)]
    latent_dim: Annotated[int, Field(ge=1, le=65536)]
    norm_d: Literal["none", "batch", "spectral"]
    minibatch_std: Annotated[int, Field(ge=0, le=65536), Neutral(0)]
    pack: Annotated[int, Field(ge=1, le=100), Neutral(1)]
    spectral_norm_g: Annotated[bool, Neutral(False)]
    init: Literal["normal", "xavier", "orthogonal"]
    init_from: Annotated[
        Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}(@[0-9a-f]{16})?$")] | None, Neutral(None)
    ]
    batch_size: Annotated[int, Field(ge=2, le=65536)]
    n_critic: Annotated[int, Field(ge=1, le=100)]
    reuse_fakes: Annotated[bool, Neutral(False)]
    top_k: Annotated[Annotated[float | Schedule, Schedulable(gt=0, le=1)], Neutral(1)]
    optimiser: str
    lr_g: Rate
    lr_d: Rate
    beta1: Beta
    beta2: Beta
    lr_decay: Literal["none", "linear", "cosine"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    ema_warmup: Annotated[bool, Neutral(False)]
    ema_half_life: Annotated[HalfLife | None, Neutral(None)]
    ema_ramp_up: Annotated[Annotated[float, Field(gt=0, le=10)] | None, Neutral(None)]
    flip: Annotated[bool, Neutral(False)]
    dequantise: Annotated[bool, Neutral(False)]
    augment: Annotated[tuple[str, ...], Field(strict=False, max_length=100), Neutral(())]
    augment_strength: Annotated[Share, Neutral(1)]
    instance_noise: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False), Neutral(0)]
    sampling_steps: Annotated[int, Field(ge=0, le=1000), Neutral(0)]
    solver: Annotated[str, Neutral("euler")]

    @property
    def averaged(self) -> bool:
        """Whether an average of G's weights is kept, by `ema_decay` or by `ema_half_life`."""
        return self.ema_decay is not None or self.ema_half_life is not None

    @property
    def group(self) -> int:
        """How many images D sees together, batch norm apart: packed ones, and the packs of a minibatch's spread."""
        return self.pack * max(self.minibatch_std, 1)


class TrainParams(Section):
    steps: Count
    precision: Literal["fp32", "bf16", "auto"]
    accumulate: Annotated[int, Field(ge=1, le=65536), Neutral(1)]
    channels_last: bool
    report_every: Count
    grid_every: Count
    score_every: Count
    score_samples: Annotated[int, Field(ge=2)]
    rollbacks: Annotated[int, Field(ge=0, le=100), Neutral(0)]
    rollback_lr: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class CompareParams(Section):
    models: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100, strict=False)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000, strict=False)]


class GenerateParams(Section):
    samples: Annotated[int, Field(ge=10)] | None
    labels: Annotated[str | int, BeforeValidator(_labels)]
    seed: Seed
    weights: Literal["ema", "raw"]
    batch_size: Count
    png_folder: bool


def _number(value: Any) -> Any:
    if value is None or is_finite(value):
        return value
    raise ValueError("must be a finite number")


def _choice(value: Any) -> Any:
    if value is None or type(value) in (bool, str) or is_finite(value):
        return value
    raise ValueError("must be a finite number, a text, true, false or null")


class Dimension(Section):
    """What one field of a recipe is varied over, either from `low` to `high` or over `choices`; see pipeline.search."""

    low: Annotated[Any, BeforeValidator(_number)] = None
    high: Annotated[Any, BeforeValidator(_number)] = None
    log: bool | None = None
    step: Annotated[Any, BeforeValidator(_number)] = None
    choices: Annotated[
        tuple[Annotated[Any, BeforeValidator(_choice)], ...] | None, Field(strict=False, max_length=100)
    ] = None

    @model_serializer
    def _given(self) -> dict[str, Any]:
        """What was written: low and high, or choices."""
        return {name: value for name, value in dict(self).items() if value is not None}


class SearchParams(Section):
    space: Annotated[Mapping[str, Dimension], Field(min_length=1, max_length=100)]
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "qmc", "random"]
    pruner: Literal["hyperband", "median", "none"]
    against: Literal["images", "seconds"] | None
    seed: Seed
    steps: Count
    score_every: Count
    samples: Annotated[int, Field(ge=2)]
    finalists: Count
    final_seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000, strict=False)]


class RuntimeParams(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|meta|cuda(:\d{1,2})?)$")]
    devices: Annotated[str | int | tuple[int, ...], BeforeValidator(_devices)]
    resident: Literal["auto", "device", "host"]
    cuda_graphs: Literal["auto", "off"]
    jobs: Annotated[int, Field(ge=1, le=1024)]
    checkpoint_every: Count
    tracking: bool
    log_model: bool


class Params(Section):
    """The whole of params.yaml. `models` holds complete recipes: what an entry leaves out comes from `recipe`."""

    data: DataParams
    metrics: MetricsParams
    train: TrainParams
    recipe: Recipe
    models: Annotated[Mapping[Name, Recipe], Field(min_length=1, max_length=100)]
    compare: CompareParams
    generate: GenerateParams
    search: SearchParams
    runtime: RuntimeParams

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping) or not isinstance(tree.get("models"), Mapping):
            return tree
        try:
            shared = Recipe.model_validate(tree.get("recipe")).model_dump()
        except ValidationError:
            shared = {}  # its faults are found once, not in each model: a small file could have millions
        return {**tree, "models": completed(shared, tree["models"])}

    def differences(self, model: str) -> dict[str, Any]:
        """The fields of a recipe that are not as in `recipe`, as plain values."""
        shared, own = (recipe.model_dump(mode="json") for recipe in (self.recipe, self.models[model]))
        return {name: value for name, value in own.items() if value != shared[name]}

    def sparse(self) -> dict[str, Any]:
        """All values as params.yaml has them: an entry under `models` holds only its differences."""
        return {**self.model_dump(mode="json"), "models": {model: self.differences(model) for model in self.models}}

    def override(self, changes: Mapping[str, Any]) -> "Params":
        """A copy with values replaced by dotted name: ``params.override({"models.dcgan.lr_g": 1e-4})``.

        A change of `recipe.<field>` reaches every model whose value was the shared one.

        Raises:
            PipelineError: a name does not exist, or the result is not valid.
        """
        tree = self.sparse()
        for name, value in changes.items():
            section, key = find(tree, name)
            section[key] = value
        return parse(tree, "params")


def completed(shared: Any, models: Mapping[Any, Any]) -> dict[Any, Any]:
    """Each entry of `models` (None for one without differences) with what it leaves out from `shared`."""
    base = dict(shared) if isinstance(shared, Mapping) else {}
    return {
        name: {**base, **(own or {})} if own is None or isinstance(own, Mapping) else own
        for name, own in models.items()
    }


def parse(tree: Any, source: object) -> Params:
    """Validate a plain tree of dicts and lists, read from `source`, as it stands in params.yaml.

    Raises:
        PipelineError: with one sentence for each fault; one of `recipe` is not said again of those that inherit it.
    """
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        found = faults(error, Params, lambda place: _inherited(tree, place))
        raise PipelineError("\n".join(f"{source}: {fault}" for fault in found)) from None


def _inherited(tree: Any, place: tuple[Any, ...]) -> bool:
    """Whether `place` is a field of a model that its entry under `models` does not hold."""
    if len(place) < 3 or place[0] != "models" or place[2] not in Recipe.model_fields:
        return False  # of what is no field, a model's wrong name among it, only its entry can be the origin
    own = tree["models"].get(place[1])  # None too for a name that is no text, a fault that is told by itself
    return own is None or place[2] not in own


def find(tree: Any, name: str) -> tuple[Any, str]:
    """The mapping that holds the dotted `name` in a tree as params.yaml has it, and its last key.

    A model's field need not be there: what it leaves out is shared.

    Raises:
        PipelineError: there is no such parameter.
    """
    *parents, key = name.split(".")
    section, path = tree, []
    for part in [*parents, key]:
        path.append(part)
        known = Recipe.model_fields if len(path) == 3 and path[0] == "models" else section
        if not isinstance(known, Mapping) or part not in known:
            choices = known if isinstance(known, Mapping) else ()
            raise PipelineError(f"{printable('.'.join(path))}: no such parameter; {suggest(part, choices)}")
        if len(path) <= len(parents):
            if len(path) == 2 and path[0] == "models" and section[part] is None:
                section[part] = {}  # an entry without differences
            section = section.get(part)
    return section, key
