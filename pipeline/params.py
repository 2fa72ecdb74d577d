"""params.yaml as frozen, strict Python values: load, override, save; and the command that changes it.

    python -m pipeline.params use cifar10               show how a preset differs from params.yaml, and write it
    python -m pipeline.params set train.steps=500 ...   change single values; comments stay

params.yaml is the only place with values. Nothing here has a default, because DVC cannot see a default in Python and
would not notice that it changed. What a value means stands beside it in params.yaml; here stand its type and range.
Names that stand in registries (networks, losses, ...) and rules across fields are checked in `pipeline.check`.
"""

import argparse
import difflib
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_serializer
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from pipeline.errors import PipelineError, exit_cleanly, suggest
from pipeline.files import write_bytes
from pipeline.schema import LARGEST, Section, faults, parse_yaml, printable

PARAMS_FILE = Path("params.yaml")
NULL_TAG = "tag:yaml.org,2002:null"  # written as the word, not as nothing
PRESETS = Path(__file__).resolve().parent.parent / "presets"

Count = Annotated[int, Field(ge=1, le=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")]


def _labels(value: Any) -> Any:
    if value in ("data", "balanced") or (type(value) is int and 0 <= value < 2**31):
        return value
    raise ValueError("must be data, balanced, or the number of one class")


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
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5, allow_inf_nan=False)]
    penalty: str
    penalty_weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    clip: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None
    width_g: Annotated[int, Field(ge=1, le=4096)]
    width_d: Annotated[int, Field(ge=1, le=4096)]
    latent_dim: Annotated[int, Field(ge=1, le=65536)]
    norm_d: Literal["none", "batch", "spectral"]
    spectral_norm_g: bool
    init: Literal["normal", "xavier", "orthogonal"]
    init_from: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}(@[0-9a-f]{16})?$")] | None
    batch_size: Annotated[int, Field(ge=2, le=65536)]
    n_critic: Annotated[int, Field(ge=1, le=100)]
    optimiser: str
    lr_g: Rate
    lr_d: Rate
    beta1: Beta
    beta2: Beta
    lr_decay: Literal["none", "linear"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    ema_warmup: bool
    flip: bool
    dequantise: bool
    augment: Annotated[tuple[str, ...], Field(strict=False, max_length=100)]
    instance_noise: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class TrainParams(Section):
    steps: Count
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    report_every: Count
    grid_every: Count
    score_every: Count
    score_samples: Annotated[int, Field(ge=2)]
    rollbacks: Annotated[int, Field(ge=0, le=100)]
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
    if value is None or type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    raise ValueError("must be a finite number")


def _choice(value: Any) -> Any:
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
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
    checkpoint_every: Count
    tracking: bool
    log_model: bool


class Params(Section):
    """The whole of params.yaml."""

    data: DataParams
    metrics: MetricsParams
    train: TrainParams
    models: Annotated[Mapping[Name, Recipe], Field(min_length=1, max_length=100)]
    compare: CompareParams
    generate: GenerateParams
    search: SearchParams
    runtime: RuntimeParams

    def override(self, changes: Mapping[str, Any]) -> "Params":
        """A copy with values replaced by dotted name: ``params.override({"models.dcgan.lr_g": 1e-4})``.

        Raises:
            PipelineError: a name does not exist, or the result is not valid.
        """
        tree = self.model_dump(mode="json")
        for name, value in changes.items():
            section, key = _find(tree, name)
            section[key] = value
        return parse(tree, "params")


def load(path: Path | str = PARAMS_FILE) -> Params:
    """Read and validate a params file.

    Raises:
        PipelineError: with one sentence for each fault: its place, the rule and the value received.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise PipelineError(f"{path} cannot be read ({error.strerror}): run from the repository's root") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    if len(text) > LARGEST:
        raise PipelineError(f"{path} is larger than {LARGEST // 1024} KiB, which no params file is: name the right one")
    return parse(parse_yaml(text, path), path)


def parse(tree: Any, source: Path | str) -> Params:
    """Validate a plain tree of dicts and lists, read from `source`."""
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise PipelineError("\n".join(f"{source}: {fault}" for fault in faults(error, Params))) from None


def save(changes: Mapping[str, Any], path: Path | str = PARAMS_FILE) -> Params:
    """Change values of a params file by dotted name, atomically, keeping its comments and layout.

    Nothing is written if the result would not be valid. Returns the new params.
    """
    params = load(path).override(changes)
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL_TAG, "null"))
    tree = yaml.load(Path(path).read_text(encoding="utf-8"))
    for name, value in changes.items():
        section, key = _find(tree, name)
        section[key] = _flow(value)
    buffer = io.BytesIO()
    yaml.dump(tree, buffer)
    if parse(parse_yaml(buffer.getvalue().decode(), Path(path)), path) != params:
        raise PipelineError(f"{path}: {', '.join(changes)}: an alias ties it to other values; write them out first")
    write_bytes(path, buffer.getvalue())
    return params


def _flow(value: Any) -> Any:
    """A list as it stands in params.yaml, [a, b] on one line; anything else as it is."""
    if not isinstance(value, list | tuple):
        return value
    items = CommentedSeq(value)
    items.fa.set_flow_style()
    return items


def _find(tree: Any, name: str) -> tuple[Any, str]:
    """The dict that holds the dotted `name`, and its last key."""
    *parents, key = name.split(".")
    section = tree
    for depth, part in enumerate([*parents, key]):
        if not isinstance(section, Mapping) or part not in section:
            place = printable(".".join([*parents, key][: depth + 1]))
            known = section if isinstance(section, Mapping) else ()
            raise PipelineError(f"{place}: no such parameter; {suggest(part, known)}")
        if depth < len(parents):
            section = section[part]
    return section, key


def _use(preset: str) -> None:
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if preset not in names:
        raise PipelineError(f"{printable(preset)}: no such preset; {suggest(preset, names)}")
    source = PRESETS / f"{preset}.yaml"
    load(source)
    old = PARAMS_FILE.read_bytes() if PARAMS_FILE.exists() else b""
    new = source.read_bytes()
    if old == new:
        print(f"{PARAMS_FILE} is the preset {preset} already")
        return
    before, after = (text.decode(errors="replace").splitlines(True) for text in (old, new))
    print("".join(difflib.unified_diff(before, after, str(PARAMS_FILE), preset, n=0)))
    if old:
        write_bytes(PARAMS_FILE.with_suffix(".previous.yaml"), old)
    write_bytes(PARAMS_FILE, new)
    print(f"wrote {PARAMS_FILE} from {source.name}" + ("; the former one is params.previous.yaml" if old else ""))


def _set(assignments: list[str]) -> None:
    changes = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise PipelineError(f"{printable(assignment)}: write it as name=value, for example train.steps=500")
        changes[name] = parse_yaml(value, Path(printable(name)))
    save(changes)
    print(f"wrote {', '.join(assignments)} to {PARAMS_FILE}")


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.params", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("use", help="write a preset to params.yaml").add_argument("preset")
    setter = commands.add_parser("set", help="change single values in params.yaml")
    setter.add_argument("assignments", nargs="+", metavar="name=value")
    options = parser.parse_args(arguments)
    if options.command == "use":
        _use(options.preset)
    else:
        _set(options.assignments)


if __name__ == "__main__":
    main()
