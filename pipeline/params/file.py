"""params.yaml and the presets as files: read, changed value by value, with their comments."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.core.errors import PipelineError, suggest
from pipeline.core.files import write_bytes
from pipeline.params.schema import LARGEST, parse_yaml
from pipeline.params.sections import Params, Recipe, find, parse

PARAMS_FILE = Path("params.yaml")
NULL_TAG = "tag:yaml.org,2002:null"  # written as the word, not as nothing
_PACKAGE = Path(__file__).resolve().parent.parent
# In a checkout presets/ stands beside the package, in an installed wheel it lies in it.
PRESETS = next((place for place in (_PACKAGE / "presets", _PACKAGE.parent / "presets") if place.is_dir()), _PACKAGE)
BASE = "base"  # a preset's key: the preset that it changes


def load(path: Path | str = PARAMS_FILE) -> Params:
    """Read and validate a params file.

    Raises:
        PipelineError: with one sentence for each fault: its place, the rule and the value received.
    """
    path = Path(path)
    return parse(_plain(path), path)


def preset_path(name: str) -> Path:
    """The file of a preset.

    Raises:
        PipelineError: there is no such preset.
    """
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in names:
        raise PipelineError(f"no preset is called {name!r}; {suggest(name, names)}")
    return PRESETS / f"{name}.yaml"


def preset_text(name: str) -> str:
    """A preset as a whole params file: one that names its `base` is that preset with its own values put in."""
    path = preset_path(name)
    own = parse_yaml(_read(path), path)
    if BASE not in own:
        return _read(path)
    base = _read(preset_path(own.pop(BASE)))
    comment = "".join(line for line in _read(path).splitlines(True) if line.startswith("#"))
    body = base[base.index("\ndata:") :]
    return comment + _changed(body, dict(_leaves(own)), path)


def save(changes: Mapping[str, Any], path: Path | str = PARAMS_FILE) -> Params:
    """Change values of a params file by dotted name, atomically, keeping its comments and layout.

    A model's value is written below `models:` only where it differs from the shared one. Nothing is written if the
    result would not be valid. Returns the new params.
    """
    path = Path(path)
    params, text = changed(changes, path)
    write_bytes(path, text.encode())
    return params


def changed(changes: Mapping[str, Any], path: Path) -> tuple[Params, str]:
    """The params after `changes`, and the text that `save` would write.

    Raises:
        PipelineError: a name does not exist, or the result is not valid.
    """
    tree = _plain(path)
    parse(tree, path)
    tree = _apart(tree)
    for name, value in changes.items():
        section, key = find(tree, name)
        section[key] = value
    params = parse(tree, path)
    text = _changed(_read(path), changes, path)
    if parse(parse_yaml(text, path), path) != params:
        raise PipelineError(f"{path}: {', '.join(changes)}: an alias ties it to other values; write them out first")
    return params, text


def _plain(path: Path) -> Any:
    """The file's tree of dicts and lists; of a preset that names its base, the whole one."""
    tree = parse_yaml(_read(path), path)
    if isinstance(tree, dict) and BASE in tree and path.resolve().parent == PRESETS:
        return parse_yaml(preset_text(path.stem), path)
    return tree


def _apart(tree: Any) -> Any:
    """A copy in which a value that aliases repeat stands once for each, so that one can be changed alone."""
    if isinstance(tree, dict):
        return {key: _apart(value) for key, value in tree.items()}
    return [_apart(value) for value in tree] if isinstance(tree, list) else tree


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise PipelineError(f"{path} cannot be read ({error.strerror}): run from the repository's root") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    if len(text) > LARGEST:
        raise PipelineError(f"{path} is larger than {LARGEST // 1024} KiB, which no params file is: name the right one")
    return text


def _leaves(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Every value below `tree` by dotted name.

    >>> _leaves({"data": {"limit": 5}, "seeds": [1, 2]})
    [('data.limit', 5), ('seeds', [1, 2])]
    """
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else [(above + key, value)]
    return found


def _changed(text: str, changes: Mapping[str, Any], path: Path) -> str:
    """`text` with values replaced by dotted name; its comments stay."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL_TAG, "null"))
    tree = yaml.load(text)
    differences = {}
    for name, value in changes.items():
        parts = name.split(".")
        if len(parts) == 3 and parts[0] == "models":
            differences[parts[1], parts[2]] = value
        else:
            section, key = find(tree, name)
            section[key] = _flow(value)
    for (model, field), value in differences.items():
        _write_difference(tree, model, field, value)
    text = _dump(yaml, tree)
    # Lines of a recipe in block style are added and removed as text: ruamel has the comment above the next recipe
    # belong to the last line of this one. Added first: a recipe from which all was removed is no block any more.
    for (model, field), value in sorted(differences.items(), key=lambda item: item[1] == _shared(tree, item[0][1])):
        text = _edit_lines(text, yaml, model, field, value)
    return text


def _write_difference(tree: CommentedMap, model: str, field: str, value: Any) -> None:
    """Put a recipe's value where no line comes or goes for it: it is there already, or the recipe is on one line."""
    find(tree, f"models.{model}.{field}")  # which also makes an empty entry a mapping
    own = tree["models"][model]
    if not isinstance(own, CommentedMap):
        own = tree["models"][model] = CommentedMap(own)
        own.fa.set_flow_style()
    if field in own:
        own[field] = _flow(value)
    elif own.fa.flow_style() or not own:
        own.fa.set_flow_style()
        own[field] = _flow(value)
    if own.fa.flow_style() and _is_shared(tree, model, field):
        del own[field]


def _edit_lines(text: str, yaml: YAML, model: str, field: str, value: Any) -> str:
    tree = yaml.load(text)
    own, lines = tree["models"][model], text.splitlines(True)
    if field in own and _is_shared(tree, model, field):
        if len(own) == 1:
            first = tree["models"].lc.key(model)[0]
            lines[first] = lines[first].replace(":", ": {}", 1)
        del lines[own.lc.key(field)[0]]
    elif field not in own and value != _shared(tree, field):
        last = own.lc.key(list(own)[-1])
        line = _dump(yaml, CommentedMap({field: _flow(value)}))
        lines.insert(last[0] + 1, " " * last[1] + line)
    return "".join(lines)


def _is_shared(tree: CommentedMap, model: str, field: str) -> bool:
    return bool(tree["models"][model][field] == _shared(tree, field))


def _shared(tree: CommentedMap, field: str) -> Any:
    assert field in Recipe.model_fields, field
    return tree["recipe"][field]


def _dump(yaml: YAML, tree: Any) -> str:
    buffer = io.BytesIO()
    yaml.dump(tree, buffer)
    return buffer.getvalue().decode()


def _flow(value: Any) -> Any:
    """A list or mapping as it stands in params.yaml, [a, b] on one line; anything else as it is."""
    if not isinstance(value, list | tuple | dict):
        return value
    items = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
    items.fa.set_flow_style()
    return items
