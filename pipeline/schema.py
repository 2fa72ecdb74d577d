"""Strict values: a section of a YAML file as a frozen class, and one sentence for each fault of what was read."""

import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import suggest


class Section(BaseModel):
    """A part of params.yaml: frozen, no unknown keys, no conversion between types (1 for 1.0 apart)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def faults(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Each fault that pydantic found in what should have been a `model`, as `place: rule, got value`."""
    found = error.errors()
    within = {fault["loc"][:-1] for fault in found}  # pydantic calls a list too short if all its items are wrong
    told = (fault for fault in found if not (fault["type"] == "too_short" and fault["loc"] in within))
    return list(dict.fromkeys(_sentence(fault, model) for fault in told))


def _sentence(fault: Any, model: type[BaseModel]) -> str:
    """One of pydantic's errors as `place: rule, got value`."""
    place = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "the file"
    kind, context, value = fault["type"], fault.get("ctx", {}), _short(fault["input"])
    bounds = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
    limits = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    kinds = {"int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
             "bool_type": "true or false", "string_type": "a text", "finite_number": "a finite number",
             "tuple_type": "a list", "model_type": "a section of `key: value` lines",
             "dict_type": "a section of `key: value` lines",
             "mapping_type": "a section of `key: value` lines"}  # fmt: skip
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
