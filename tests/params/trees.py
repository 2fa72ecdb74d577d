"""params.yaml as a plain tree, changed in one place, and the sentences with which a tree is refused."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import PipelineError
from pipeline.params import parse

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
TREE: dict[str, Any] = YAML(typ="safe", pure=True).load(TEXT)
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
NAN, INF = float("nan"), float("inf")


def leaves(node: Any, name: str = "") -> Iterator[str]:
    """The dotted names of all values that are not sections, without those of search.space: its keys are free."""
    if name == "search.space":
        return
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{name}.{key}".lstrip("."))
    else:
        yield name


def sections(node: Any, name: str = "") -> Iterator[str]:
    """The dotted names of all sections, the models' entries too."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield (inner := f"{name}.{key}".lstrip("."))
            yield from () if inner == "search.space" else sections(value, f"{name}.{key}".lstrip("."))


LEAVES, SECTIONS = list(leaves(TREE)), list(sections(TREE))
SHARED = [name for name in LEAVES if not name.startswith("models.")]  # what every file must hold
OWN = [name for name in LEAVES if name.startswith("models.")]  # what a model changes of the recipe


def holder(tree: Any, name: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted name, and its last key."""
    *parents, key = name.split(".")
    for part in parents:
        tree = tree[part]
    return tree, key


def value_of(name: str, tree: Any = TREE) -> Any:
    section, key = holder(tree, name)
    return section[key]


def changed(name: str, value: Any) -> dict[str, Any]:
    """A copy of params.yaml's tree with one value replaced or added."""
    tree = copy.deepcopy(TREE)
    section, key = holder(tree, name)
    section[key] = value
    return tree


def faults(tree: Any) -> list[str]:
    """The sentences with which `tree` is refused, without the name of the file."""
    with pytest.raises(PipelineError) as caught:
        parse(tree, "file")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("file: ") for line in lines), lines
    return [line.removeprefix("file: ") for line in lines]
