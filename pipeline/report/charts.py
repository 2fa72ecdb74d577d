"""Line charts as geometry: scales, ticks, paths and labels in SVG units, which templates/macros.html draws.

A chart has no colours: each line has a CSS class, so that the page's light, dark and print colours apply. Lines are
labelled at their ends; labels that would overlap are moved apart and connected to their lines.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

LETTER = 7.2  # the width of a wide letter
NAME_GAP = 15  # the minimum distance between the baselines of two labels
LONGEST_NAME = 15  # letters; a longer name is shortened, and complete in its tooltip
MOST_POINTS = 400  # in a line; more are averaged in bins

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A curve. If `label` is given, it is written at the line's end."""

    points: Sequence[Point]
    css: str
    name: str
    label: str = ""


@dataclass(frozen=True)
class Tick:
    position: float
    text: str


@dataclass(frozen=True)
class SvgPath:
    d: str
    css: str
    name: str


@dataclass(frozen=True)
class Label:
    """A label at (x, y), and the points of the thin line that connects it to its curve."""

    x: float
    y: float
    text: str
    name: str
    css: str
    leader: str
    end: Point


@dataclass(frozen=True)
class Chart:
    """A drawing of `width` x `height` whose plot spans left..right and top..bottom; `rule` is a horizontal line."""

    title: str
    description: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    paths: tuple[SvgPath, ...]
    labels: tuple[Label, ...]
    rule: Tick | None


@dataclass(frozen=True)
class Scale:
    """Values low..high to positions start..end, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, about: int) -> tuple[Tick, ...]:
        values = log_ticks(self.low, self.high, about) if self.log else linear_ticks(self.low, self.high, about)
        return tuple(Tick(self(value), text) for value, text in zip(values, short_numbers(values), strict=True))


def line_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    log: bool = False,
    rule: tuple[float, str] | None = None,
    size: tuple[float, float] = (500, 330),
) -> Chart:
    """Lay out a chart. Points that are not finite, or not positive on a logarithmic axis, are left out."""
    kept = [[(x, y) for x, y in line.points if math.isfinite(x + y) and (y > 0 or not log)] for line in lines]
    heights = [y for points in kept for _, y in points] + ([rule[0]] if rule else [])
    width, height = size
    top, bottom = 34.0, height - 42
    y_scale = Scale(*span(heights, log), bottom, top, log)
    y_ticks = y_scale.ticks(6)
    left = 12 + LETTER * max((len(tick.text) for tick in y_ticks), default=1)
    names = [shorten(line.label) for line in lines]
    right = width - 28 - LETTER * max(map(len, names), default=0)
    x_scale = Scale(0, max((x for points in kept for x, _ in points), default=1) or 1, left, right)
    places = [[(x_scale(x), y_scale(y)) for x, y in points] for points in kept]
    return Chart(
        title, description, width, height, left, right, top, bottom, x_name, y_name,
        x_scale.ticks(max(2, round((right - left) / 60))), y_ticks,
        tuple(SvgPath(path_data(points), line.css, line.name) for line, points in zip(lines, places, strict=True)),
        name_ends(lines, places, right, (top, bottom)),
        Tick(y_scale(rule[0]), rule[1]) if rule else None,
    )  # fmt: skip


def name_ends(
    lines: Sequence[Line], places: Sequence[Sequence[Point]], right: float, limits: tuple[float, float]
) -> tuple[Label, ...]:
    """Labels beside the plot, each as close to its line's last point as the others allow."""
    named = [(points[-1], line) for line, points in zip(lines, places, strict=True) if line.label and points]
    named.sort(key=lambda pair: pair[0][1])
    heights = spread_out([end[1] for end, _ in named], NAME_GAP, *limits)
    labels = []
    for (end, line), y in zip(named, heights, strict=True):
        corner = f"{end[0]:g},{end[1]:g} {right + 2:g},{end[1]:g} {right + 10:g},{y:g}"
        labels.append(Label(right + 14, y, shorten(line.label), line.name, line.css, corner, end))
    return tuple(labels)


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending positions near the ascending `wanted` ones, at least `gap` apart, within low..high if they fit.

    >>> spread_out([10, 11, 40], 5, 0, 50)
    [8.0, 13.0, 40.0]
    """
    clusters: list[list[float]] = []  # neighbours that touch
    for position in wanted:
        clusters.append([position])
        while len(clusters) > 1 and _end(clusters[-2], gap, low, high) + gap > _start(clusters[-1], gap, low, high):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [
        round(_start(cluster, gap, low, high) + index * gap, 1) for cluster in clusters for index in range(len(cluster))
    ]


def _start(cluster: list[float], gap: float, low: float, high: float) -> float:
    length = gap * (len(cluster) - 1)
    return max(low, min(high - length, sum(cluster) / len(cluster) - length / 2))


def _end(cluster: list[float], gap: float, low: float, high: float) -> float:
    return _start(cluster, gap, low, high) + gap * (len(cluster) - 1)


def span(values: Sequence[float], log: bool) -> Point:
    """The least and greatest value, with some margin; a single value gets a margin too."""
    if not values:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.05, 1.02)
        return low / room, high * room
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def linear_ticks(low: float, high: float, about: int) -> list[float]:
    """Roughly `about` round values within low..high: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(index * step, 12) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float, about: int) -> list[float]:
    """Powers of ten within low..high, with 2 and 5 times them if those are few; linear ticks if the range is small."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        values = [factor * 10.0**power for power in powers for factor in factors]
        inside = [value for value in values if low <= value <= high]
        if len(inside) >= 4:
            return inside[:: max(1, -(-len(inside) // (2 * about)))]
    return inside if len(inside) > 2 else [value for value in linear_ticks(low, high, about) if value > 0]


def short_numbers(values: Sequence[float]) -> list[str]:
    """Tick labels in one unit: k for thousands or M for millions if the greatest has five digits or more."""
    greatest = max(map(abs, values), default=0)
    unit, letter = (1e6, "M") if greatest >= 2e6 else (1e3, "k") if greatest >= 1e4 else (1, "")
    return [f"{value / unit:,.10g}{letter if value else ''}".replace("-", "\N{MINUS SIGN}") for value in values]


def shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def path_data(points: Iterable[Point]) -> str:
    """The attribute `d` of an SVG path."""
    return "M" + " ".join(f"{x:g},{y:g}" for x, y in points)


def thin(points: Sequence[Point]) -> list[Point]:
    """The points; if there are too many to see, the means of bins of neighbours."""
    if len(points) <= MOST_POINTS:
        return list(points)
    return [(float(x), float(y)) for x, y in (bin.mean(axis=0) for bin in np.array_split(points, MOST_POINTS))]
