"""Drawings of points, bars and boxes as geometry in an SVG's units, which templates/drawing.html draws.

Line charts are in pipeline.report.charts; these are the other shapes of a study's page. Colours are CSS classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.report.charts import (
    LETTER,
    Point,
    Scale,
    Tick,
    linear_ticks,
    log_ticks,
    path_data,
    short_numbers,
    shorten,
    span,
)


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    css: str
    name: str  # its tooltip
    radius: float = 3.5


@dataclass(frozen=True)
class Stroke:
    d: str
    css: str
    name: str = ""


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    css: str
    opacity: float = 1.0
    name: str = ""


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    anchor: str = "start"
    css: str = ""
    name: str = ""


@dataclass
class Drawing:
    """Layers from the back to the front: boxes, strokes, dots, texts."""

    title: str
    description: str
    width: float
    height: float
    boxes: list[Box] = field(default_factory=list)
    strokes: list[Stroke] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def line(self, a: Point, b: Point, css: str, name: str = "") -> None:
        self.strokes.append(Stroke(path_data([a, b]), css, name))

    def text(self, x: float, y: float, text: str, anchor: str = "start", css: str = "", name: str = "") -> None:
        self.texts.append(Text(round(x, 1), round(y, 1), text, anchor, css, name))


@dataclass(frozen=True)
class Axis:
    """One parameter's values to positions: numbers on a scale, perhaps logarithmic, or choices at equal distances."""

    name: str
    scale: Scale
    choices: tuple[str, ...] = ()
    whole: bool = False  # whole numbers only

    def __call__(self, value: object) -> float:
        return self.scale(float(self.choices.index(str(value))) if self.choices else float(value))  # type: ignore[arg-type]

    def ticks(self, about: int) -> tuple[Tick, ...]:
        """About so many round values, or the choices' own names."""
        if self.choices:
            return tuple(Tick(self.scale(index), choice) for index, choice in enumerate(self.choices))
        make = _powers if self.scale.log else linear_ticks
        values = make(self.scale.low, self.scale.high, about)
        values = [value for value in values if value == round(value)] if self.whole else values
        if self.scale.log and any(value < 1e-3 for value in values):
            texts = [_power(value) for value in values]
        else:
            texts = short_numbers(values)
        return tuple(Tick(self.scale(value), text) for value, text in zip(values, texts, strict=True))


def number_axis(name: str, low: float, high: float, ends: Point, log: bool = False, whole: bool = False) -> Axis:
    """An axis of numbers with a little room at both ends of it, from position ends[0] to ends[1]."""
    return Axis(name, Scale(*span([low, high], log), *ends, log), whole=whole)


def choice_axis(name: str, choices: Sequence[object], ends: Point) -> Axis:
    return Axis(name, Scale(-0.5, len(choices) - 0.5, *ends), tuple(map(str, choices)))


def plot_frame(title: str, description: str, x: Axis, y: Axis, size: Point, y_name: str) -> Drawing:
    """A drawing that holds two axes: grid lines for y, ticks for both."""
    made = Drawing(title, description, *size)
    left, right = sorted((x.scale.start, x.scale.end))
    bottom = max(y.scale.start, y.scale.end)
    made.text(0, 14, y_name)
    for tick in y.ticks(6):
        made.line((left, tick.position), (right, tick.position), "grid")
        made.text(left - 8, tick.position + 4, shorten(tick.text), "end", name=tick.text)
    for tick in x.ticks(max(2, round((right - left) / 70))):
        made.text(tick.position, bottom + 20, shorten(tick.text), "middle", name=tick.text)
    made.text(right, bottom + 38, x.name, "end")
    return made


def left_margin(y: Axis) -> float:
    """How far from the left edge a plot begins whose vertical axis is `y`."""
    return 14 + LETTER * max((len(shorten(tick.text)) for tick in y.ticks(6)), default=1)


def staircase(points: Sequence[Point]) -> str:
    """A line that goes sideways, then down: the best value so far."""
    corners = [points[0]]
    for x, y in points[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return path_data(corners)


def bars(title: str, description: str, rows: Sequence[tuple[str, float]], size: float = 500) -> Drawing:
    """Horizontal bars of shares 0..1, longest as given first, each with its name before and its percentage behind."""
    height, left = 26.0, 20 + LETTER * max((len(shorten(name)) for name, _ in rows), default=1)
    made = Drawing(title, description, size, height * len(rows) + 6)
    for index, (name, share) in enumerate(rows):
        y, width = 4 + index * height, round(max(share, 0) * (size - left - 50), 1)
        made.boxes.append(Box(round(left, 1), y, max(width, 1), height - 8, "m0", 1.0, f"{name}: {share:.0%}"))
        made.text(left - 8, y + 13, shorten(name), "end", "label", name)
        made.text(left + max(width, 1) + 8, y + 13, f"{share:.0%}")
    return made


@dataclass(frozen=True)
class IntervalRow:
    """A row of `intervals`: single values as dots, their mean as a bar across them, its interval as a line."""

    name: str
    values: Sequence[float]
    mean: float
    ends: Point | None
    css: str


def intervals(title: str, description: str, rows: Sequence[IntervalRow], x_name: str, size: float = 760) -> Drawing:
    """Rows of values with the 95% intervals of their means, on one axis."""
    known = [v for row in rows for v in [*row.values, *(row.ends or ())] if math.isfinite(v)]
    height, top = 30.0, 10.0
    left = 16 + LETTER * max((len(shorten(row.name)) for row in rows), default=1)
    x = number_axis(x_name, min(known, default=0), max(known, default=1), (left, size - 16))
    bottom = top + height * len(rows)
    made = Drawing(title, description, size, bottom + 44)
    for tick in x.ticks(8):
        made.line((tick.position, top), (tick.position, bottom), "grid")
        made.text(tick.position, bottom + 20, tick.text, "middle")
    made.text(size - 16, bottom + 38, x_name, "end")
    for index, row in enumerate(rows):
        y = top + height * (index + 0.5)
        made.text(left - 8, y + 4, shorten(row.name), "end", "label", row.name)
        if row.ends:
            ends = [(x(end), y) for end in row.ends]
            made.line(ends[0], ends[1], f"whisker {row.css}", f"95% interval {row.ends[0]:.2f} to {row.ends[1]:.2f}")
        if row.values:
            made.line((x(row.mean), y - 8), (x(row.mean), y + 8), f"mean {row.css}", f"mean {row.mean:.2f}")
        else:
            made.text(left + 8, y + 4, "failed with every seed")
        made.dots += [Dot(x(value), y, f"open {row.css}", f"{value:.2f}") for value in row.values]
    return made


def _powers(low: float, high: float, about: int) -> list[float]:
    """Powers of ten where there are three or more, which are the shortest labels."""
    powers = [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    return powers[:: -(-len(powers) // about)] if len(powers) > 2 else log_ticks(low, high, about)


def _power(value: float) -> str:
    """1e-4 as 10⁻⁴, 2e-4 as 2·10⁻⁴."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"
