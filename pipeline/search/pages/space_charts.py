"""The charts of a study's space: which parameters matter, and where in it the distance is low."""

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial
from scipy.interpolate import RBFInterpolator

from pipeline.report.charts import Point, path_data
from pipeline.search.pages.charts import BOTTOM, RIGHT, SIZE, TOP, state_css, tooltip
from pipeline.search.pages.drawing import (
    Axis,
    Box,
    Dot,
    Drawing,
    Stroke,
    bars,
    choice_axis,
    left_margin,
    number_axis,
    plot_frame,
)
from pipeline.search.study.results import StudyResults
from pipeline.search.study.trial_stats import distance_of, last_distance_of, state_of

FEWEST_IMPORTANCES, FEWEST_FIELD = 8, 5  # complete trials, below which importances or a field would be guesses
BEST_PART = 0.2  # of the trials: importances tell the values of these from those of all
CELLS, BANDS = 28, 7  # of the field of two parameters: cells a side, shades
TINY = 1e-12


def importances(results: StudyResults) -> dict[str, float] | None:
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


def importance_chart(shares: dict[str, float]) -> Drawing:
    return bars("Parameter importances", "Shares of what tells the best trials from all", list(shares.items()))


def parameter_axis(results: StudyResults, name: str, ends: Point) -> Axis:
    """The axis of one parameter over its whole space, logarithmic where the space is."""
    space = results.settings["space"][name]
    if space.get("choices") is not None:
        return choice_axis(name, space["choices"], ends)
    whole = isinstance(results.settings["recipe"].get(name), int)
    return number_axis(name, float(space["low"]), float(space["high"]), ends, bool(space.get("log")), whole)


def slice_charts(results: StudyResults, metric: str) -> list[Drawing]:
    """For each parameter the values of the trials against it; pruned ones by the last point of their curve, grey."""
    shown = [(trial, value) for trial in results.trials if (value := last_distance_of(trial)) is not None and value > 0]
    values = [value for _, value in shown]
    made = []
    for name in results.settings["space"]:
        y = number_axis(metric, min(values, default=1.0), max(values, default=10.0), (188.0, 34.0), log=True)
        x = parameter_axis(results, name, (left_margin(y), 336.0))
        drawing = plot_frame(f"{metric} against {name}", "One dot a trial", x, y, (350, 230), metric)
        for trial, value in sorted(shown, key=lambda pair: state_of(pair[0]) == "complete"):
            if name in trial.params:
                drawing.dots.append(
                    Dot(x(trial.params[name]), y(value), _css(results, trial), tooltip(trial), _radius(trial))
                )
        made.append(drawing)
    return made


def parallel_chart(results: StudyResults, metric: str) -> Drawing | None:
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
    axes.append(number_axis(metric, min(values), max(values), (bottom, top), log))
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
        css = "curve m1" if best else "curve m2 strong" if trial is results.baseline_trial else f"curve m0 shade{shade}"
        made.strokes.append(Stroke(path_data(points), css, tooltip(trial)))
    return made


def field_chart(results: StudyResults, names: Sequence[str], metric: str) -> Drawing | None:
    """The distance over two parameters, interpolated between the trials: a hint where to look, not a measurement.

    None for less than two parameters or too few complete trials.
    """
    complete = [trial for trial in results.complete if (distance_of(trial) or 0.0) > 0]
    if len(names) < 2 or len(complete) < FEWEST_FIELD:
        return None
    first, second = names[:2]
    y = parameter_axis(results, second, (BOTTOM, TOP))
    x = parameter_axis(results, first, (left_margin(y), RIGHT))
    title = f"{metric} over two parameters"
    made = plot_frame(title, "The stronger the better; one dot a trial", x, y, SIZE, second)
    places = np.array([(x(trial.params[first]), y(trial.params[second])) for trial in complete])
    made.boxes += _shaded(places, np.log([distance_of(trial) or TINY for trial in complete]), x.scale.start)
    for trial in results.trials:
        if first in trial.params and second in trial.params and state_of(trial) != "waiting":
            where = x(trial.params[first]), y(trial.params[second])
            made.dots.append(Dot(*where, f"{_css(results, trial)} ringed", tooltip(trial)))
    return made


def _shaded(places: np.ndarray, heights: np.ndarray, left: float) -> list[Box]:
    """Boxes from `left` over a plot, the stronger the lower the interpolated height.

    Args:
        places: (N, 2), x and y of points.
        heights: (N,), of the points.
    """
    unit = (RIGHT - 34, BOTTOM - TOP)  # about the size of a plot: distances across and down count alike
    wide, high = (RIGHT - left) / CELLS, (BOTTOM - TOP) / CELLS
    centres = [(left + (i + 0.5) * wide, TOP + (j + 0.5) * high) for j in range(CELLS) for i in range(CELLS)]
    smooth = RBFInterpolator(places / unit, heights, kernel="linear", smoothing=0.05, degree=0)
    found = smooth(np.array(centres) / unit).clip(heights.min(), heights.max())
    shares = (heights.max() - found) / max(heights.max() - heights.min(), TINY)  # 1 = the lowest
    bands = np.minimum((shares * BANDS).astype(int), BANDS - 1).reshape(CELLS, CELLS)
    across = [round(left + index * wide, 1) for index in range(CELLS + 1)]
    down = [round(TOP + index * high, 1) for index in range(CELLS + 1)]
    boxes = []
    for line, (upper, lower) in zip(bands, pairwise(down), strict=True):
        starts = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), CELLS]
        for a, b in pairwise(starts):  # neighbours of one shade are one box
            opacity = round(0.06 + 0.7 * int(line[a]) / (BANDS - 1), 2)
            size = round(across[b] - across[a], 1), round(lower - upper, 1)
            boxes.append(Box(across[a], upper, *size, "m0", opacity))
    return boxes


def _css(results: StudyResults, trial: FrozenTrial) -> str:
    if results.best is not None and trial.number == results.best.number:
        return "m1"
    if trial is results.baseline_trial and state_of(trial) == "complete":
        return "m2"
    return state_css(trial)


def _radius(trial: FrozenTrial) -> float:
    return 3.5 if state_of(trial) == "complete" else 2.5
