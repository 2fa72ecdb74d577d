"""The charts of a study: those of optuna.visualization, and its finals. One that has nothing to show is left out."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.report.figures import LIGHT, figure, hue, wrapped
from pipeline.search.pages.comparison import Entry
from pipeline.search.study.results import Finalist, StudyResults
from pipeline.search.study.trial_stats import curve_of, distance_of, has_failed

if TYPE_CHECKING:
    import plotly.graph_objects as go

FEWEST_IMPORTANCES, FEWEST_FIELD = 8, 5  # complete trials, below which importances or a field would be guesses
BEST_PART = 0.2  # of the trials: importances tell the values of these from those of all
OTHERS, WINNER, BASELINE = range(3)  # the hues of finalists
STATES = {"COMPLETE": hue(0), "PRUNED": LIGHT["soft"], "FAIL": hue(1)}  # instead of Optuna's blue, orange and red
RING = {"color": LIGHT["soft"], "width": 1}  # around dots whose own colour may be near the page's
KEPT_ATTRIBUTES = ("steps", "seconds", "fault", "failure")  # of a trial, shown beside its values


class IntervalRow(NamedTuple):
    """A finalist under its name, and the colour of its mean."""

    name: str
    finalist: Finalist
    colour: str


def study_charts(results: StudyResults, metric: str) -> dict[str, dict[str, "go.Figure"]]:
    """The charts of "finals", "trials" and the "space" by their titles, those that there are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        parts = {"finals": finals_charts, "trials": trial_charts, "space": space_charts}
        return {part: make(results, metric) for part, make in parts.items()}


def trial_charts(results: StudyResults, metric: str) -> dict[str, "go.Figure"]:
    """How the study went on: the best so far, all curves, when trials ran, and the Pareto front."""
    from optuna import visualization as drawn

    study, made = as_study(results), {}
    above_zero = all(value > 0 for trial in study.trials for value in (*curve_of(trial).values(), trial.value or 1))
    scale = "log" if above_zero else "linear"
    if len(results.complete) > 1:
        made["Best so far"] = drawn.plot_optimization_history(study, target_name=metric).update_yaxes(type=scale)
    if any(trial.intermediate_values and trial.state != TrialState.FAIL for trial in study.trials):
        made["Learning curves"] = drawn.plot_intermediate_values(study).update_yaxes(type=scale, title_text=metric)
    if len(results.complete) > 1:
        made["Share of trials below a value"] = drawn.plot_edf(study, target_name=metric)
        timeline = drawn.plot_timeline(study)
        made["When trials ran"] = timeline.for_each_trace(lambda bars: bars.update(marker_color=STATES[bars.name]))
    if results.cost_objective and results.front:
        both = as_study(results, costs=True)
        names = [metric, results.cost_objective]
        made["Distance and cost"] = drawn.plot_pareto_front(both, target_names=names)
    return made


def space_charts(results: StudyResults, metric: str) -> dict[str, "go.Figure"]:
    """Which parameters matter, and where the distance is low."""
    from optuna import visualization as drawn

    study, names, made = as_study(results), varied(results), {}
    shares = importances(results)
    if shares:
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_PART)
        made["Parameter importances"] = drawn.plot_param_importances(study, evaluator=evaluator, params=names)
        names.sort(key=lambda name: -shares[name])
    if not names:
        return made
    for name in names:
        slices = drawn.plot_slice(study, params=[name], target_name=metric)
        made[f"{metric} against {name}"] = slices.update_traces(marker_line=RING)
    together = drawn.plot_parallel_coordinate(study, params=names, target_name=metric)
    made["All parameters together"] = _with_best_marked(together, len(names))
    if len(names) > 1 and len(results.complete) >= FEWEST_FIELD:
        two = f"{names[0]} and {names[1]}"
        made[f"{two}, interpolated"] = drawn.plot_contour(study, params=names[:2], target_name=metric)
        ranks = drawn.plot_rank(study, params=names[:2], target_name=metric)
        made[f"{two}, by rank"] = ranks.update_traces(marker_line=RING)
    return made


def _with_best_marked(together: "go.Figure", parameters: int) -> "go.Figure":
    """Optuna's lines of all trials in colours of the page, dark or light: the best in one, on top of the others."""
    lines = sorted((trace for trace in together.data if trace.mode == "lines"), key=lambda line: -line.y[0])
    best = len(lines) - math.ceil(BEST_PART * len(lines))
    for place, line in enumerate(lines):
        line.update(line_color=LIGHT["soft"], opacity=0.4)
        if place >= best:
            line.update(line_color=hue(WINNER), line_width=2, opacity=0.9)
    together.data = lines  # without the scale of Optuna's colours
    together.update_layout(plot_bgcolor=None).update_annotations(font_color=LIGHT["soft"])
    return together.update_xaxes(range=[-0.45, parameters + 0.2])  # with the first numbers


def finals_charts(results: StudyResults, metric: str) -> dict[str, "go.Figure"]:
    """The finalists by rank, and in a study of two objectives also against their costs."""
    shown = [finalist for finalist in results.ranked if finalist.finals]
    if not shown:
        return {}
    rows = [IntervalRow(_name(results, each), each, hue(finalist_hue(results, each))) for each in shown]
    made = {"Finals": intervals_figure(rows, metric)}
    costs = [each.cost for each in shown]
    if None not in costs:
        means, marks = [row.finalist.mean for row in rows], {"color": [row.colour for row in rows], "size": 9}
        trace = {"type": "scatter", "mode": "markers+text", "x": costs, "y": means, "marker": marks,
                 "text": [row.name for row in rows], "textposition": "middle right", "cliponaxis": False,
                 "error_y": _spread(rows)}  # fmt: skip
        made["Finals: distance and cost"] = figure([trace], f"mean {results.cost_objective}", metric)
    return made


def comparison_figure(entries: Sequence[Entry], metric: str) -> "go.Figure":
    """Every model untuned (grey) and tuned (its colour)."""
    rows = []
    for entry in entries:
        name = wrapped(entry.results.model)
        rows.append(IntervalRow(f"{name}, tuned", entry.results.winner, hue(entry.index)))
        rows.append(IntervalRow(f"{name}, untuned", entry.results.baseline, LIGHT["soft"]))
    return intervals_figure([row for row in rows if row.finalist.finals], metric)


def intervals_figure(rows: Sequence[IntervalRow], metric: str) -> "go.Figure":
    """Every final seed as a ring, the mean as a dot with its 95% interval."""
    names = [row.name for row in rows]
    means = [row.finalist.mean for row in rows]
    seeds = [(value, row) for row in rows for value in row.finalist.finals]
    rings = {"symbol": "circle-open", "size": 8, "color": [row.colour for _, row in seeds]}
    made = figure(
        [
            {"type": "scatter", "mode": "markers", "name": "mean and 95% interval", "x": means, "y": names,
             "marker": {"size": 11, "color": [row.colour for row in rows]}, "error_x": _spread(rows)},
            {"type": "scatter", "mode": "markers", "name": "final seeds", "x": [value for value, _ in seeds],
             "y": [row.name for _, row in seeds], "marker": rings},
        ], metric, "", showlegend=True,
    )  # fmt: skip
    return made.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])


def as_study(results: StudyResults, costs: bool = False) -> optuna.Study:
    """The trials as a study in memory for Optuna's charts, by their numbers; of the distance alone, unless `costs`.

    Trials without a value other than pruned ones are Optuna's failed ones, and stand for numbers that are missing.
    """
    study = optuna.create_study(directions=["minimize"] * (2 if costs else 1))
    known = {trial.number: trial for trial in results.trials if trial.state.is_finished()}
    begin = min((trial.datetime_start for trial in known.values() if trial.datetime_start), default=None)
    for number in range(max(known, default=-1) + 1):
        trial = known.get(number)
        made = _copy(trial, costs) if trial else create_trial(state=TrialState.FAIL)
        made.datetime_start, made.datetime_complete = begin, begin
        if trial and trial.datetime_start:
            made.datetime_start, made.datetime_complete = trial.datetime_start, trial.datetime_complete
        study.add_trial(made)
    return study


def _copy(trial: FrozenTrial, costs: bool) -> FrozenTrial:
    distance = None if has_failed(trial) else distance_of(trial)
    values = None if distance is None else list(trial.values) if costs else [distance]
    return create_trial(
        state=TrialState.FAIL if has_failed(trial) else trial.state,
        values=values,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={key: trial.user_attrs[key] for key in KEPT_ATTRIBUTES if key in trial.user_attrs},
        intermediate_values=None if costs else curve_of(trial),
    )


def varied(results: StudyResults) -> list[str]:
    """The parameters that differ between complete trials."""
    complete = results.complete
    return [name for name in results.settings["space"] if len({str(t.params.get(name)) for t in complete}) > 1]


def importances(results: StudyResults) -> dict[str, float] | None:
    """Each parameter's share of what distinguishes the best trials from all, by PED-ANOVA; None if not computable.

    Watanabe et al. 2023, https://arxiv.org/abs/2304.10255. Complete trials only: a pruned one has no value.
    """
    names = varied(results)
    if len(results.complete) < FEWEST_IMPORTANCES or not names or len(set(map(distance_of, results.complete))) == 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_PART)
        found = get_param_importances(as_study(results), evaluator=evaluator, params=names)
    shares = {name: float(found.get(name, 0.0)) for name in results.settings["space"]}
    return dict(sorted(shares.items(), key=lambda pair: -pair[1])) if all(map(math.isfinite, shares.values())) else None


def finalist_hue(results: StudyResults, finalist: Finalist) -> int:
    """The hue of a finalist: the baseline and the winner have their own."""
    return BASELINE if finalist is results.baseline else WINNER if finalist is results.winner else OTHERS


def _spread(rows: Sequence[IntervalRow]) -> dict[str, Any]:
    """Plotly's error bars, from the means to both ends of their intervals."""
    ends = [(row.finalist.mean, *(row.finalist.interval or (row.finalist.mean,) * 2)) for row in rows]
    below, above = [mean - low for mean, low, _ in ends], [high - mean for mean, _, high in ends]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": LIGHT["soft"]}


def _name(results: StudyResults, finalist: Finalist) -> str:
    return "baseline" if finalist is results.baseline else f"trial {finalist.trial}"
