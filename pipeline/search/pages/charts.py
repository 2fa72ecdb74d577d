"""The charts of a study's trials and finals: best value so far, curves, cost against distance, intervals.

The baseline and the best trial have colours of their own in all charts.
"""

import math
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.report.charts import NAME_GAP, Chart, Line, Point, line_chart, spread_out
from pipeline.report.formatting import digits
from pipeline.search.pages.comparison import Entry
from pipeline.search.pages.drawing import (
    Axis,
    Dot,
    Drawing,
    IntervalRow,
    Stroke,
    intervals,
    left_margin,
    number_axis,
    plot_frame,
    staircase,
)
from pipeline.search.study.results import Finalist, StudyResults, short
from pipeline.search.study.trial_stats import curve_of, distance_of, last_distance_of, state_of

SIZE = 500.0, 330.0  # of a chart, whose plot ends at:
TOP, BOTTOM, RIGHT = 34.0, 288.0, 484.0
NAMES = 62.0  # the width of the finalists' names beside their chart
COST = {"images": "real images that D was shown", "seconds": "seconds of training"}
WIDE = 10.0  # from so many times the lowest cost on, the axis is logarithmic


def history_chart(results: StudyResults, axis_of: str, metric: str) -> Drawing:
    """Every trial's value and the best so far, against the trials ("trials") or the steps trained ("steps")."""
    rows, at = [], 0.0
    order = results.trials if axis_of == "trials" else sorted(results.trials, key=_finished)
    for index, trial in enumerate(order):
        at = float(index) if axis_of == "trials" else at + trial.user_attrs.get("steps", 0)
        rows.append((at, trial))
    known = [value for _, trial in rows if (value := last_distance_of(trial)) is not None and value > 0]
    x_name = {"trials": "trials", "steps": "steps trained, of all trials together"}[axis_of]
    low, high = min(known, default=1.0), max(known, default=10.0)
    y = number_axis(metric, low, high, (BOTTOM, TOP), log=True)
    x = number_axis(x_name, 0, max(at, 1), (left_margin(y), RIGHT))
    title = f"Best {metric} against {'trials' if axis_of == 'trials' else 'cost'}"
    made = plot_frame(title, "One dot a trial; the line is the best so far.", x, y, SIZE, metric)
    best: list[Point] = []
    for where, trial in rows:
        value, state = last_distance_of(trial), state_of(trial)
        if value is None or value <= 0:
            made.text(x(where), 44, "×", "middle", "fault", tooltip(trial))
            continue
        if state == "complete" and (not best or y(value) > best[-1][1]):
            best.append((x(where), y(value)))
        made.dots.append(Dot(x(where), y(value), state_css(trial), tooltip(trial)))
    if best:
        best.append((x(max(at, 1)), best[-1][1]))
        made.strokes.append(Stroke(staircase(best), "curve m0", "best so far"))
    baseline = distance_of(results.baseline_trial) if results.baseline_trial else None
    if baseline is not None and baseline > 0:
        made.line((x(0), y(baseline)), (RIGHT, y(baseline)), "rule", "the baseline")
    return made


def curves_chart(results: StudyResults, metric: str) -> Chart:
    """The distance while training, of every trial: pruned ones grey, the best and the baseline named."""
    best = results.best
    lines, named = [], []
    for trial in results.trials:
        points = [(float(step), value) for step, value in curve_of(trial).items()]
        state = state_of(trial)
        if best is not None and trial.number == best.number:
            name = "baseline" if trial is results.baseline_trial else f"trial {trial.number}"
            named.append(Line(points, "m1", tooltip(trial), name))
        elif trial is results.baseline_trial:
            named.append(Line(points, "m2", tooltip(trial), "baseline"))
        else:
            lines.append(Line(points, "m0 seed" if state == "complete" else "neutral seed", tooltip(trial)))
    lines.sort(key=lambda line: line.css == "m0 seed")
    description = "Logarithmic; one line a trial. Those that were pruned are grey and end early."
    title = f"{metric} while training, of every trial"
    return line_chart(title, description, lines + named, "steps", metric, log=True, size=(1040, 380))


def pareto_chart(results: StudyResults, metric: str) -> Drawing:
    """Every complete trial's distance against its cost, and the front as a staircase."""
    front = {trial.number for trial in results.front}
    x, y = _axes(results, [_point(trial) for trial in results.complete], metric, RIGHT)
    about = "One dot a complete trial; the line is the Pareto front."
    made = plot_frame(f"{metric} against cost", about, x, y, SIZE, metric)
    for trial in results.complete:
        cost, distance = _point(trial)
        css = "m2" if trial is results.baseline_trial else "m1" if trial.number in front else "m0"
        name = f"{tooltip(trial)}; {digits(cost)} {results.cost_objective}"
        made.dots.append(Dot(x(cost), y(distance), css, name, 5.0 if trial.number in front else 3.5))
    corners = [(x(cost), y(distance)) for cost, distance in map(_point, results.front)]
    if corners:
        stairs = [(corners[0][0], TOP), *corners, (RIGHT, corners[-1][1])]
        made.strokes.append(Stroke(staircase(stairs), "curve m1", "the Pareto front"))
    return made


def finals_cost_chart(results: StudyResults, metric: str) -> Drawing:
    """Every finalist's mean distance, with its 95% interval, against its mean cost."""
    shown = [finalist for finalist in results.ranked if finalist.finals and finalist.cost is not None]
    points = [(finalist.cost or 0.0, value) for finalist in shown for value in _ends(finalist)]
    x, y = _axes(results, points, metric, RIGHT - NAMES)
    made = plot_frame("Finals", "The mean of each and its 95% interval, against its mean cost.", x, y, SIZE, metric)
    places = []
    for finalist in shown:
        at, css, name = (x(finalist.cost), y(finalist.mean)), finalist_css(results, finalist), _name(results, finalist)
        if finalist.interval:
            low, high = finalist.interval
            reach = f"95% interval {low:.2f} to {high:.2f}"
            made.line((at[0], y(low)), (at[0], y(high)), f"whisker {css}", f"{name}, {reach}")
        cost = f"{digits(finalist.cost or 0.0)} {results.cost_objective}"
        made.dots.append(Dot(*at, css, f"{name}: mean {finalist.mean:.2f}, {cost}", 5.0))
        places.append((at, name))
    places.sort(key=lambda place: place[0][1])
    heights = spread_out([at[1] for at, _ in places], NAME_GAP, TOP, BOTTOM)
    for (at, name), height in zip(places, heights, strict=True):
        made.text(at[0] + 9, height + 4, name)
    return made


def finals_chart(results: StudyResults, metric: str) -> Drawing:
    """The finalists by rank, each with its seeds, mean and interval."""
    rows = [_row(_name(results, each), each, finalist_css(results, each)) for each in results.ranked]
    return intervals("Finals", "Every final seed, the mean and its 95% interval", rows, metric)


def comparison_chart(entries: Sequence[Entry], metric: str) -> Drawing:
    """Every model untuned (grey) and tuned (its colour)."""
    rows = []
    for entry in entries:
        name = entry.results.model
        rows.append(_row(f"{name}, tuned", entry.results.winner, f"m{entry.index % 8}"))
        rows.append(_row("untuned", entry.results.baseline, "neutral"))
    return intervals("Models untuned and tuned", "Every final seed, the mean and its 95% interval", rows, metric)


def tooltip(trial: FrozenTrial) -> str:
    """A trial in words: its number, state, distance or fault, and values."""
    state, value = state_of(trial), last_distance_of(trial)
    ended = trial.user_attrs.get("fault", "" if value is None else f"{value:.2f}")
    values = ", ".join(f"{name}={short(value)}" for name, value in trial.params.items())
    return f"trial {trial.number}, {state}{': ' if ended else ''}{ended}; {values}"


def state_css(trial: FrozenTrial) -> str:
    """The colour of a trial by its state."""
    return "m0" if state_of(trial) == "complete" else "neutral open"


def finalist_css(results: StudyResults, finalist: Finalist) -> str:
    """The colour of a finalist: the baseline and the winner have their own."""
    return "m2" if finalist is results.baseline else "m1" if finalist is results.winner else "m0"


def _name(results: StudyResults, finalist: Finalist) -> str:
    return "baseline" if finalist is results.baseline else f"trial {finalist.trial}"


def _point(trial: FrozenTrial) -> Point:
    """Cost and distance of a complete trial of two objectives."""
    distance, cost = trial.values
    return cost, distance


def _ends(finalist: Finalist) -> Sequence[float]:
    return finalist.interval or (finalist.mean,)


def _axes(results: StudyResults, points: Sequence[Point], metric: str, right: float) -> tuple[Axis, Axis]:
    """Cost and distance: logarithmic where the values are above 0, the cost only where it spans much."""
    costs, distances = ([point[index] for point in points if math.isfinite(point[index])] for index in (0, 1))
    low, high = min(costs, default=1.0), max(costs, default=10.0)
    least, most = min(distances, default=1.0), max(distances, default=10.0)
    y = number_axis(metric, least, most, (BOTTOM, TOP), log=least > 0)
    name = COST[results.cost_objective or "images"]
    return number_axis(name, low, high, (left_margin(y), right), log=0 < low * WIDE <= high), y


def _row(name: str, finalist: Finalist, css: str) -> IntervalRow:
    return IntervalRow(name, finalist.finals, finalist.mean, finalist.interval, css)


def _finished(trial: FrozenTrial) -> tuple[Any, int]:
    return (trial.datetime_complete or trial.datetime_start).timestamp() if trial.datetime_start else 0.0, trial.number
