"""Numbers as text, with the same rounding, signs and dashes everywhere on the page."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"
PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def decimals(values: Iterable[float]) -> int:
    """Decimals for a column of values: as many as its smallest value needs; zeros do not count.

    >>> decimals([250.0, 3.0]), decimals([0.5]), decimals([0.002])
    (2, 4, 6)
    """
    least = min((abs(value) for value in values if value), default=1.0)
    return 1 if least >= 100 else 2 if least >= 1 else 4 if least >= 0.01 else 6


def number(value: float, places: int) -> str:
    """A number with separated thousands, and without a sign if it rounds to 0.

    >>> number(-1234.5, 1), number(-0.01, 1)
    ('−1,234.5', '0.0')
    """
    return f"{value:z,.{places}f}".replace("-", MINUS)


def data_title(description: Mapping[str, Any]) -> str:
    """The images that dataset.json describes, as a title.

    >>> data_title({"name": "digits", "image_shape": [1, 16, 16]})
    'digits, 16 × 16, grey'
    """
    channels, height, width = description["image_shape"]
    return f"{description['name']}, {width} {TIMES} {height}, {'grey' if channels == 1 else 'RGB'}"


def mean_and_std(values: Sequence[float], places: int) -> str:
    r"""A value, or the mean ± sample standard deviation of several.

    >>> mean_and_std([1.0, 3.0], 2)
    '2.00\xa0±\xa01.41'
    """
    mean = number(statistics.fmean(values), places)
    return mean if len(values) == 1 else f"{mean}{PLUS_MINUS}{number(statistics.stdev(values), places)}"


def interval(ends: tuple[float, float], places: int) -> str:
    """Both ends of an interval.

    >>> interval((-1.0, 2.5), 1)
    '−1.0 to 2.5'
    """
    return " to ".join(number(end, places) for end in ends)


def amount(values: Sequence[float]) -> str:
    """The mean of measured amounts; a dash if one was not measured."""
    mean = statistics.fmean(values)
    return digits(mean) if math.isfinite(mean) else DASH


def digits(value: float) -> str:
    """At least three significant digits, without an exponent."""
    return number(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)


def listed(words: Sequence[str]) -> str:
    """Words as an enumeration.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
