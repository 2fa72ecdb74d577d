"""Show and change params.yaml.

python -m pipeline.params use cifar10               show how a preset differs from params.yaml, and write it
python -m pipeline.params set train.steps=500 ...   change single values; comments stay
python -m pipeline.params show sagan                the complete recipe, with what it changes marked
python -m pipeline.params suggest --images 5000     gamma, batch, half-life, length by published rules for your images
"""

import argparse
import difflib
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import PipelineError, exit_cleanly, printable, suggest, visible
from pipeline.core.files import write_bytes
from pipeline.params.file import PARAMS_FILE, changed, load, preset_path, preset_text
from pipeline.params.schema import parse_yaml
from pipeline.params.sections import Params, Recipe, parse
from pipeline.params.suggest import report


def use(preset: str) -> None:
    """Write a preset to params.yaml, and then say how the two differed."""
    new = preset_text(preset)
    parse(parse_yaml(new, preset_path(preset)), preset_path(preset))
    old = PARAMS_FILE.read_bytes() if PARAMS_FILE.exists() else b""
    if old == new.encode():
        print(f"{PARAMS_FILE} is the preset {preset} already")
        return
    if old:
        write_bytes(PARAMS_FILE.with_suffix(".previous.yaml"), old)
    write_bytes(PARAMS_FILE, new.encode())
    before, after = old.decode(errors="replace").splitlines(True), new.splitlines(True)
    print("".join(difflib.unified_diff(before, after, str(PARAMS_FILE), preset, n=0)))
    print(f"wrote {PARAMS_FILE} from {preset}.yaml" + ("; the former one is params.previous.yaml" if old else ""))


def set_values(assignments: list[str]) -> None:
    """Write `name=value` pairs to params.yaml, all of them or none.

    Raises:
        PipelineError: they would make the params unsound. What was unsound before is no reason to refuse.
    """
    from pipeline.check import problems  # here, since the other commands need not wait for torch

    changes = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise PipelineError(f"{printable(assignment)}: write it as name=value, for example train.steps=500")
        changes[name] = parse_yaml(value, Path(printable(name)))
    params, text = changed(changes, PARAMS_FILE)
    former = set(problems(load()))
    faults = [fault for fault in problems(params) if fault not in former]
    if faults:
        raise PipelineError("\n".join([*faults, f"{PARAMS_FILE} stays as it was"]))
    write_bytes(PARAMS_FILE, text.encode())
    print(f"wrote {', '.join(map(visible, assignments))} to {PARAMS_FILE}")


def shown(params: Params, model: str) -> str:
    """A complete recipe, a line a field; `*` marks what it changes, with the shared value beside it.

    Raises:
        PipelineError: there is no such recipe.
    """
    if model not in params.models:
        raise PipelineError(f"{printable(model)}: no such recipe under models:; {suggest(model, params.models)}")
    own, recipe = params.differences(model), params.models[model].model_dump(mode="json")
    shared, lines = params.recipe.model_dump(mode="json"), []
    for field in Recipe.model_fields:
        line = f"{'*' if field in own else ' '} {field}: {_yaml(recipe[field])}"
        lines.append(f"{line:<36} # shared: {_yaml(shared[field])}" if field in own else line)
    return "\n".join([f"{model} (* = differs from recipe: in {PARAMS_FILE})", *lines])


def suggested(params: Params, images: int | None, batch: int | None) -> str:
    """Settings for the images of params.yaml, whose number is `images`, or that of the prepared training images.

    Raises:
        PipelineError: their number is not given, and none are prepared; or a number is out of range.
    """
    if images is None:
        from pipeline.data.prepared import load_description  # here, since the other commands need no numpy

        if not (paths.PREPARED / "dataset.json").exists():
            raise PipelineError("the number of images is not known: give --images N, or run `dvc repro prepare`")
        images = load_description(paths.PREPARED)["train"]
    if images < 1:
        raise PipelineError(f"--images must be at least 1, got {images}")
    if batch is not None and not 2 <= batch <= 65536:  # see Recipe
        raise PipelineError(f"--batch must be from 2 to 65536, as batch_size is, got {batch}")
    return report(params.data.image_size, images, batch)


def _yaml(value: object) -> str:
    """A value as it is written in params.yaml.

    >>> _yaml(None), _yaml(True), _yaml(["a", "b"]), _yaml(0.0002)
    ('null', 'true', '[a, b]', '0.0002')
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.params") -> None:
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("use", help="write a preset to params.yaml").add_argument("preset")
    setter = commands.add_parser("set", help="change single values in params.yaml")
    setter.add_argument("assignments", nargs="+", metavar="name=value")
    commands.add_parser("show", help="print a recipe with all its fields").add_argument("model")
    rules = commands.add_parser("suggest", help="print settings by published rules, for the size and number of images")
    rules.add_argument("--images", type=int, metavar="N", help="training images; default: those prepared")
    rules.add_argument("--batch", type=int, metavar="N", help="batch size; default: by the rule")
    options = parser.parse_args(arguments)
    if options.command == "use":
        use(options.preset)
    elif options.command == "set":
        set_values(options.assignments)
    elif options.command == "suggest":
        print(suggested(load(), options.images, options.batch))
    else:
        print(shown(load(), options.model))


if __name__ == "__main__":
    main()
