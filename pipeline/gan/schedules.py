"""Values that change while a model trains: constant, linear and cosine, as functions of the step."""

import math
from collections.abc import Callable

from pipeline.params import Schedule

# The share of the way from start to end that is left at a share t of the time, t from 0 to 1.
SHAPES: dict[str, Callable[[float], float]] = {
    "none": lambda t: 1.0,
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
}


def value_at(value: float | Schedule, step: int, steps: int) -> float:
    """A number, or what a schedule gives at `step` of `steps`; counted from 0, so the first step has its start.

    >>> value_at(Schedule(start=1.0, end=0.0, shape="cosine", until=0.5), 25, 100)
    0.5
    """
    if not isinstance(value, Schedule):
        return value
    left = SHAPES[value.shape](min(1.0, step / (value.until * steps)))
    return value.end + (value.start - value.end) * left
