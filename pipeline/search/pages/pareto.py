"""Two charts of a study that minimises a cost beside the distance: its trials and their front, and the finalists."""

import math
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from pipeline.report.charts import NAME_GAP, Point, spread_out
from pipeline.report.formatting import digits
from pipeline.search.pages.drawing import Axis, Dot, Drawing, Stroke, axis, frame, margin, steps
from pipeline.search.pages.marks import told
from pipeline.search.study.results import Finalist, Results

SIZE, TOP, BOTTOM, RIGHT = (500.0, 330.0), 34.0, 288.0, 484.0
NAMES = 62.0  # what the names of finalists take beside their chart
COST = {"images": "real images that D was shown", "seconds": "seconds of training"}
WIDE = 10.0  # from so many times the lowest cost on, the axis is logarithmic


def front_chart(results: Results, metric: str) -> Drawing:
    """Every complete trial's distance against its cost, and the front as a staircase."""
    front = {trial.number for trial in results.front}
    x, y = _axes(results, [_point(trial) for trial in results.complete], metric, RIGHT)
    about = "One dot a complete trial; the line is the Pareto front."
    made = frame(f"{metric} against cost", about, x, y, SIZE, metric)
    for trial in results.complete:
        cost, distance = _point(trial)
        css = "m2" if trial is results.start_trial else "m1" if trial.number in front else "m0"
        name = f"{told(trial)}; {digits(cost)} {results.against}"
        made.dots.append(Dot(x(cost), y(distance), css, name, 5.0 if trial.number in front else 3.5))
    corners = [(x(cost), y(distance)) for cost, distance in map(_point, results.front)]
    if corners:
        stairs = [(corners[0][0], TOP), *corners, (RIGHT, corners[-1][1])]
        made.strokes.append(Stroke(steps(stairs), "curve m1", "the Pareto front"))
    return made


def finals_cost(results: Results, metric: str) -> Drawing:
    """Every finalist's mean distance, with its 95% interval, against its mean cost."""
    shown = [finalist for finalist in results.ranked if finalist.finals and finalist.cost is not None]
    points = [(finalist.cost or 0.0, value) for finalist in shown for value in _ends(finalist)]
    x, y = _axes(results, points, metric, RIGHT - NAMES)
    made = frame("Finalists anew", "The mean of each and its 95% interval, against its mean cost.", x, y, SIZE, metric)
    places = []
    for finalist in shown:
        start, at = finalist is results.start, (x(finalist.cost), y(finalist.mean))
        css = "m2" if start else "m1" if finalist is results.winner else "m0"
        name = "start" if start else f"trial {finalist.trial}"
        if finalist.interval:
            low, high = finalist.interval
            reach = f"95% interval {low:.2f} to {high:.2f}"
            made.line((at[0], y(low)), (at[0], y(high)), f"whisker {css}", f"{name}, {reach}")
        cost = f"{digits(finalist.cost or 0.0)} {results.against}"
        made.dots.append(Dot(*at, css, f"{name}: mean {finalist.mean:.2f}, {cost}", 5.0))
        places.append((at, name))
    places.sort(key=lambda place: place[0][1])
    heights = spread_out([at[1] for at, _ in places], NAME_GAP, TOP, BOTTOM)
    for (at, name), height in zip(places, heights, strict=True):
        made.text(at[0] + 9, height + 4, name)
    return made


def _point(trial: FrozenTrial) -> Point:
    """Cost and distance of a complete trial of two objectives."""
    distance, cost = trial.values
    return cost, distance


def _ends(finalist: Finalist) -> Sequence[float]:
    return finalist.interval or (finalist.mean,)


def _axes(results: Results, points: Sequence[Point], metric: str, right: float) -> tuple[Axis, Axis]:
    """Cost and distance: logarithmic where the values are above 0, the cost only where it spans much."""
    costs, distances = ([point[index] for point in points if math.isfinite(point[index])] for index in (0, 1))
    low, high = min(costs, default=1.0), max(costs, default=10.0)
    least, most = min(distances, default=1.0), max(distances, default=10.0)
    y = axis(metric, least, most, (BOTTOM, TOP), log=least > 0)
    name = COST[results.against or "images"]
    return axis(name, low, high, (margin(y), right), log=0 < low * WIDE <= high), y
