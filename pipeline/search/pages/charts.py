"""The charts of a study: best value so far, curves, importances, and the space that was explored."""

import math
import statistics
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial
from scipy.interpolate import RBFInterpolator

from pipeline.report.charts import Chart, Line, Point, line_chart, path_data
from pipeline.search.pages.comparison import Entry
from pipeline.search.pages.drawing import (
    Axis,
    Box,
    Dot,
    Drawing,
    Row,
    Stroke,
    axis,
    bars,
    choice_axis,
    frame,
    intervals,
    margin,
    steps,
)
from pipeline.search.pages.marks import emphasis, last, radius, style, told
from pipeline.search.pages.pareto import finals_cost, front_chart
from pipeline.search.study.results import Finalist, Results
from pipeline.search.study.trial_stats import curve_of, distance_of, state_of

FEWEST_IMPORTANCES, FEWEST_FIELD = 8, 5  # complete trials, below which importances or a field would be guesses
BEST_PART = 0.2  # of the trials, whose values the importances tell from those of all
CELLS, BANDS = 28, 7  # of the field of two parameters: cells a side, shades
TINY = 1e-12


def history(results: Results, axis_of: str, metric: str) -> Drawing:
    """Every trial's value and the best so far, against the trials ("trials") or the steps trained ("steps")."""
    rows, at = [], 0.0
    order = results.trials if axis_of == "trials" else sorted(results.trials, key=_finished)
    for index, trial in enumerate(order):
        at = float(index) if axis_of == "trials" else at + trial.user_attrs.get("steps", 0)
        rows.append((at, trial))
    known = [value for _, trial in rows if (value := last(trial)) is not None and value > 0]
    x_name = {"trials": "trials", "steps": "steps trained, of all trials together"}[axis_of]
    low, high = min(known, default=1.0), max(known, default=10.0)
    y = axis(metric, low, high, (288.0, 34.0), log=True)
    x = axis(x_name, 0, max(at, 1), (margin(y), 484.0))
    title = f"Best {metric} against {'trials' if axis_of == 'trials' else 'cost'}"
    made = frame(title, "One dot a trial; the line is the best so far.", x, y, (500, 330), metric)
    best: list[Point] = []
    for where, trial in rows:
        value, state = last(trial), state_of(trial)
        if value is None or value <= 0:
            made.text(x(where), 44, "×", "middle", "fault", told(trial))
            continue
        if state == "complete" and (not best or y(value) > best[-1][1]):
            best.append((x(where), y(value)))
        made.dots.append(Dot(x(where), y(value), style(state), told(trial)))
    if best:
        best.append((x(max(at, 1)), best[-1][1]))
        made.strokes.append(Stroke(steps(best), "curve m0", "best so far"))
    start = distance_of(results.start_trial) if results.start_trial else None
    if start is not None and start > 0:
        made.line((x(0), y(start)), (484.0, y(start)), "rule", "the recipe as it was")
    return made


def curves(results: Results, metric: str) -> Chart:
    """The distance while training, of every trial: pruned ones grey, the best and the recipe as it was named."""
    best = results.best
    lines, named = [], []
    for trial in results.trials:
        points = [(float(step), value) for step, value in curve_of(trial).items()]
        state = state_of(trial)
        if best is not None and trial.number == best.number:
            name = "start" if trial is results.start_trial else f"trial {trial.number}"
            named.append(Line(points, "m1", told(trial), name))
        elif trial is results.start_trial:
            named.append(Line(points, "m2", told(trial), "start"))
        else:
            lines.append(Line(points, "m0 seed" if state == "complete" else "neutral seed", told(trial)))
    lines.sort(key=lambda line: line.css == "m0 seed")
    description = "Logarithmic; one line a trial. Those that were pruned are grey and end early."
    title = f"{metric} while training, of every trial"
    return line_chart(title, description, lines + named, "steps", metric, log=True, size=(1040, 380))


def importances(results: Results) -> dict[str, float] | None:
    """Each parameter's share of what tells the best trials from all, by PED-ANOVA; None where it cannot be said.

    Watanabe et al. 2023, https://arxiv.org/abs/2304.10255. Complete trials only: a pruned one has no value.
    """
    complete = results.complete
    varied = [name for name in results.settings["space"] if len({str(t.params.get(name)) for t in complete}) > 1]
    if len(complete) < FEWEST_IMPORTANCES or not varied or len({distance_of(trial) for trial in complete}) == 1:
        return None
    study = optuna.create_study(direction="minimize")
    for trial in complete:  # with the distance alone
        study.add_trial(create_trial(value=distance_of(trial), params=trial.params, distributions=trial.distributions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_PART)
        found = get_param_importances(study, evaluator=evaluator, params=varied)
    shares = {name: float(found.get(name, 0.0)) for name in results.settings["space"]}
    if not all(map(math.isfinite, shares.values())):
        return None
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def importance_bars(shares: dict[str, float]) -> Drawing:
    return bars("Parameter importances", "Shares of what tells the best trials from all", list(shares.items()))


def parameter_axis(results: Results, name: str, ends: Point) -> Axis:
    """The axis of one parameter over its whole space, logarithmic where the space is."""
    space = results.settings["space"][name]
    if space.get("choices") is not None:
        return choice_axis(name, space["choices"], ends)
    whole = isinstance(results.settings["recipe"].get(name), int)
    return axis(name, float(space["low"]), float(space["high"]), ends, bool(space.get("log")), whole)


def slices(results: Results, metric: str) -> list[Drawing]:
    """For each parameter the values of the trials against it; pruned ones by the last point of their curve, grey."""
    shown = [(trial, value) for trial in results.trials if (value := last(trial)) is not None and value > 0]
    values = [value for _, value in shown]
    made = []
    for name in results.settings["space"]:
        y = axis(metric, min(values, default=1.0), max(values, default=10.0), (188.0, 34.0), log=True)
        x = parameter_axis(results, name, (margin(y), 336.0))
        drawing = frame(f"{metric} against {name}", "One dot a trial", x, y, (350, 230), metric)
        for trial, value in sorted(shown, key=lambda pair: state_of(pair[0]) == "complete"):
            if name in trial.params:
                drawing.dots.append(
                    Dot(x(trial.params[name]), y(value), emphasis(results, trial), told(trial), radius(trial))
                )
        made.append(drawing)
    return made


def parallel(results: Results, metric: str) -> Drawing | None:
    """One line a complete trial across all parameters, the better the darker; None without complete trials."""
    complete = sorted(results.complete, key=lambda trial: -(distance_of(trial) or 0.0))
    if not complete:
        return None
    names = list(results.settings["space"])
    top, bottom, width = 44.0, 300.0, 1040.0
    gap = (width - 140) / max(len(names), 1)
    values = [distance_of(trial) or 0.0 for trial in complete]
    log = min(values) > 0
    made = Drawing(f"Parameters and {metric}", "One line a complete trial; the better the stronger.", width, 320)
    axes = [parameter_axis(results, name, (bottom, top)) for name in names]
    axes.append(axis(metric, min(values), max(values), (bottom, top), log))
    for index, each in enumerate(axes):
        x = 70 + index * gap
        made.line((x, top), (x, bottom), "axis")
        made.text(x, 24, each.name, "middle", "label", each.name)
        for tick in each.ticks(5):
            made.text(x - 6, tick.position + 4, tick.text, "end")
    for rank, trial in enumerate(complete):
        places = [each(trial.params[name]) for name, each in zip(names, axes, strict=False)] + [axes[-1](values[rank])]
        points = [(round(70 + index * gap, 1), y) for index, y in enumerate(places)]
        best = rank == len(complete) - 1
        shade = 1 + rank * 4 // max(len(complete) - 1, 1)
        css = "curve m1" if best else "curve m2 strong" if trial is results.start_trial else f"curve m0 shade{shade}"
        made.strokes.append(Stroke(path_data(points), css, told(trial)))
    return made


def field(results: Results, names: Sequence[str], metric: str) -> Drawing | None:
    """The distance over two parameters: between the trials smoothed, so a map of where to look, no measurement.

    None for less than two parameters or too few complete trials.
    """
    complete = [trial for trial in results.complete if (distance_of(trial) or 0.0) > 0]
    if len(names) < 2 or len(complete) < FEWEST_FIELD:
        return None
    first, second = names[:2]
    y = parameter_axis(results, second, (288.0, 34.0))
    x = parameter_axis(results, first, (margin(y), 484.0))
    left, right = x.scale.start, x.scale.end
    made = frame(f"{metric} over two parameters", "The stronger the better; one dot a trial", x, y, (500, 330), second)
    places = np.array([(x(t.params[first]) / 450, y(t.params[second]) / 254) for t in complete])
    heights = np.log([distance_of(t) or TINY for t in complete])
    wide, high = (right - left) / CELLS, (288.0 - 34.0) / CELLS
    centres = [(left + (i + 0.5) * wide, 34 + (j + 0.5) * high) for j in range(CELLS) for i in range(CELLS)]
    smooth = RBFInterpolator(places, heights, kernel="linear", smoothing=0.05, degree=0)
    found = smooth(np.array(centres) / (450, 254)).clip(heights.min(), heights.max())
    shares = (heights.max() - found) / max(heights.max() - heights.min(), TINY)  # 1 = the best
    bands = np.minimum((shares * BANDS).astype(int), BANDS - 1).reshape(CELLS, CELLS)
    across = [round(left + index * wide, 1) for index in range(CELLS + 1)]
    down = [round(34 + index * high, 1) for index in range(CELLS + 1)]
    for line, (upper, lower) in zip(bands, pairwise(down), strict=True):
        starts = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), CELLS]
        for a, b in pairwise(starts):  # neighbours of one shade are one box
            opacity = round(0.06 + 0.7 * int(line[a]) / (BANDS - 1), 2)
            size = round(across[b] - across[a], 1), round(lower - upper, 1)
            made.boxes.append(Box(across[a], upper, *size, "m0", opacity))
    for trial in results.trials:
        if first in trial.params and second in trial.params and state_of(trial) != "waiting":
            where = x(trial.params[first]), y(trial.params[second])
            made.dots.append(Dot(*where, f"{emphasis(results, trial)} ringed", told(trial)))
    return made


def finals_chart(results: Results, metric: str) -> Drawing:
    """The finalists by rank, each with its seeds, mean and interval."""
    rows = []
    for finalist in results.ranked:
        start = finalist is results.start
        css = "m2" if start else "m1" if finalist is results.winner else "m0"
        rows.append(_row("start" if start else f"trial {finalist.trial}", finalist, css))
    return intervals("Finalists anew", "Every final seed, the mean and its 95% interval", rows, metric)


def comparison_chart(entries: Sequence[Entry], metric: str) -> Drawing:
    """Every model untuned (grey) and tuned (its colour)."""
    rows = []
    for entry in entries:
        name = entry.results.model
        rows.append(_row(f"{name}, tuned", entry.results.winner, f"m{entry.index % 8}"))
        rows.append(_row("untuned", entry.results.start, "neutral"))
    return intervals("Models untuned and tuned", "Every final seed, the mean and its 95% interval", rows, metric)


def drawings(results: Results, metric: str) -> dict[str, Chart | Drawing]:
    """The charts of a study's page by name, those that there are."""
    shares = importances(results)
    found: dict[str, Chart | Drawing | None] = {
        "history": history(results, "trials", metric),
        "history_cost": history(results, "steps", metric),
        "intermediate_values": curves(results, metric),
        "finals": finals_chart(results, metric),
        "pareto_front": front_chart(results, metric) if results.against else None,
        "finals_cost": finals_cost(results, metric) if results.against else None,
        "importances": importance_bars(shares) if shares else None,
        "contour": field(results, list(shares or results.settings["space"]), metric),
        "parallel_coordinates": parallel(results, metric),
    }
    named = zip(results.settings["space"], slices(results, metric), strict=True)
    found |= {f"slice_{name}": drawn for name, drawn in named}
    return {name: drawn for name, drawn in found.items() if drawn is not None}


def typical_seconds(results: Results) -> float | None:
    """The median training seconds of a trial that was not pruned."""
    known = [trial.user_attrs["seconds"] for trial in results.complete if "seconds" in trial.user_attrs]
    return statistics.median(known) if known else None


def _row(name: str, finalist: Finalist, css: str) -> Row:
    return Row(name, finalist.finals, finalist.mean, finalist.interval, css)


def _finished(trial: FrozenTrial) -> tuple[Any, int]:
    return (trial.datetime_complete or trial.datetime_start).timestamp() if trial.datetime_start else 0.0, trial.number
