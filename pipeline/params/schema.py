"""Strict values: YAML text, its sections as frozen classes, and one sentence for each fault of what was read."""

import itertools
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError

from pipeline.core.errors import PipelineError, printable, suggest

LARGEST = 2**18  # bytes of a params file, twenty times a preset; the YAML library reads about so much in 1 s
MOST_VALUES = 500_000  # in the file once its aliases are followed: ten lines of them can stand for 10**10 values
TOO_LARGE = 10**4300  # stands for a number of more digits than Python reads, and has more than it prints
MOST_FAULTS = 20  # told; a file of another kind has one in every line


NUMBER, SCHEDULE = "<number>", "<schedule>"  # the two kinds of a value that can change over training


@dataclass(frozen=True)
class Neutral:
    """Marks a field, and says the value with which it does nothing: ``flip: Annotated[bool, Neutral(False)]``."""

    value: Any


class Section(BaseModel):
    """A part of params.yaml: frozen, no unknown keys, no conversion between types (1 for 1.0 apart)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def neutral_values(cls) -> dict[str, Any]:
        """The value with which a field does nothing, by field, for those that are marked with one."""
        marks = ((name, mark) for name, field in cls.model_fields.items() for mark in field.metadata)
        return {name: mark.value for name, mark in marks if isinstance(mark, Neutral)}

    @classmethod
    def of_file(cls, values: Mapping[str, Any]) -> Self:
        """The section that a file holds; fields that are newer than the file have their neutral values."""
        return cls.model_validate({**cls.neutral_values(), **values})

    def effective(self) -> dict[str, Any]:
        """The fields that do something, as plain values: not those at their neutral value.

        A fingerprint is taken of these, so that a new field, while it is off, changes none.
        """
        neutral = self.neutral_values()
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name not in neutral or getattr(self, name) != neutral[name]
        }


def faults(
    error: ValidationError, model: type[BaseModel], hidden: Callable[[tuple[Any, ...]], bool] = lambda place: False
) -> list[str]:
    """Each fault that pydantic found in what should have been a `model`, as `place: rule, got value`; 20 at most.

    Those are left out whose place, a path of keys, is `hidden`.
    """
    found = [fault for fault in error.errors(include_url=False) if not hidden(fault["loc"])]
    within = {fault["loc"][:-1] for fault in found}  # pydantic calls a list too short if all its items are wrong
    told = (fault for fault in found if not (fault["type"] == "too_short" and fault["loc"] in within))
    sentences = list(dict.fromkeys(_sentence(fault, model) for fault in itertools.islice(told, MOST_FAULTS)))
    return sentences + ([f"and {len(found) - MOST_FAULTS} more faults"] if len(found) > MOST_FAULTS else [])


def _sentence(fault: Any, model: type[BaseModel]) -> str:
    """One of pydantic's errors as `place: rule, got value`."""
    place = (
        ".".join(printable(str(part), 100) for part in fault["loc"] if part not in ("[key]", NUMBER, SCHEDULE))
        or "the file"
    )
    kind, context, value = fault["type"], fault.get("ctx", {}), _short(fault["input"])
    bounds = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
    limits = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    kinds = {"int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
             "int_parsing_size": "a smaller number",
             "bool_type": "true or false", "string_type": "a text", "finite_number": "a finite number",
             "tuple_type": "a list", "model_type": "a section of `key: value` lines",
             "dict_type": "a section of `key: value` lines",
             "mapping_type": "a section of `key: value` lines"}  # fmt: skip
    if kind == "float_type" and type(fault["input"]) is int:  # which no float can hold
        kind = "int_parsing_size"
    if kind in bounds:
        return f"{place}: must be {bounds[kind]} {context[limits[kind]]}, got {value}"
    if kind in kinds:
        return f"{place}: must be {kinds[kind]}, got {value}"
    if kind == "extra_forbidden":
        return f"{place}: unknown key; {suggest(str(fault['loc'][-1]), _siblings(fault['loc'], model))}"
    if kind == "missing":
        return f"{place}: missing; add it (presets/ hold complete files)"
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'|(\d+)", context["expected"])
        return f"{place}: unknown value {value}; " + suggest(value.strip("'"), (a or b for a, b in choices))
    if kind == "string_pattern_mismatch":
        return f"{place}: must match {context['pattern']}, got {value}"
    if kind == "invalid_key":
        return f"{place}: a key must be a text, got {value}"
    if kind == "too_short":
        return f"{place}: must not be empty"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}, got {value}"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 60


def _short(value: Any) -> str:
    try:
        text = _REPR.repr(value)  # not repr: YAML aliases can make ten lines stand for 10**10 values
    except ValueError:  # more digits than Python prints
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def _siblings(location: tuple[Any, ...], model: type[BaseModel]) -> Iterable[str]:
    """The keys that exist in the section of `model` in which an unknown one was found."""
    section: Any = model
    for part in location[:-1]:
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[part].annotation
        elif get_origin(section) is Mapping:
            section = get_args(section)[1]
    return section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else ()


def is_finite(value: Any) -> bool:
    """Whether a value is a number, no boolean, that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


class _Constructor(SafeConstructor):
    """ruamel's, without merge keys: nested ones copy, so that a few lines take all memory."""

    def construct_yaml_int(self, node: Any) -> Any:
        """A whole number; one of more digits than Python reads is ± `TOO_LARGE`, which no parameter can be."""
        try:
            return super().construct_yaml_int(node)
        except ValueError:
            if re.fullmatch(r"[-+]?[0-9_]+", node.value):
                return -TOO_LARGE if node.value.startswith("-") else TOO_LARGE
            raise

    def flatten_mapping(self, node: Any) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                problem = "merge keys (<<) are not read: write the values out"
                raise ConstructorError(problem=problem, problem_mark=key.start_mark)


_Constructor.add_constructor("tag:yaml.org,2002:int", _Constructor.construct_yaml_int)


def parse_yaml(text: str, path: Path) -> Any:
    """YAML 1.2, as DVC reads it: `2e-4` is a number and `off` is a word. `path` is what faults are told of.

    Raises:
        PipelineError: it is not YAML, or its aliases stand for too much.
    """
    if conflict := re.search(r"^(<<<<<<<|>>>>>>>) ", text, re.MULTILINE):
        line = text.count("\n", 0, conflict.start()) + 1
        raise PipelineError(
            f"{path}: line {line} is of a merge that git left to you: choose a side and delete the marks"
        )
    if re.search(r"^\ufeff?%YAML +1\.[01]\b", text, re.MULTILINE):
        raise PipelineError(f"{path}: YAML 1.2 is read, in which 010 is ten and off is a word: remove the line %YAML")
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        tree = yaml.load(text)
        values = _values(tree, {})
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = _first_line(error.problem)
        problem = f"{_first_line(error.context)}, {problem}" if problem.startswith("but ") else problem
        raise PipelineError(f"{path}: {place}{problem}") from None
    except RecursionError:
        raise PipelineError(f"{path}: nested too deeply: no parameter has more than four levels") from None
    except Exception as error:  # ruamel lets all through: LookupError, ArithmeticError, AttributeError ...
        raise PipelineError(f"{path}: not valid YAML ({_first_line(str(error) or type(error).__name__)})") from None
    if values > MOST_VALUES:
        raise PipelineError(f"{path}: its aliases multiply to more than {MOST_VALUES:,} values: write it without them")
    return tree


def _values(tree: Any, known: dict[int, int]) -> int:
    """How many values `tree` has where an alias counts as what it stands for; `known` holds those already counted."""
    if not isinstance(tree, dict | list):
        return 1
    if id(tree) not in known:
        known[id(tree)] = 1  # of one that holds itself
        children = tree.values() if isinstance(tree, dict) else tree
        known[id(tree)] = 1 + sum(_values(child, known) for child in children)
    return known[id(tree)]


def _first_line(text: Any) -> str:
    return printable((str(text).splitlines() or [""])[0], 200)
