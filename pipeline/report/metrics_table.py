"""The further metrics as tables of text: metrics by models, classes by models, and what is near to training images."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.formatting import DASH, decimals, mean_and_std, number
from pipeline.report.metric_info import MetricInfo, class_prefix, in_order, metric_info
from pipeline.report.results import ProtocolGroup, Results, RunResult
from pipeline.report.uncertainty import typical_error

Floor = tuple[dict[str, float], dict[str, float]]  # values and sampling errors by name
DIRECTIONS = {"higher": "↑ higher", "lower": "↓ lower"}


@dataclass(frozen=True)
class Cell:
    """A model's value as text, and below it in small print its sampling error or why it is lacking."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class MetricRow:
    """A metric: `reason` says why no model has it, and then stands for all cells."""

    title: str
    key: str
    better: str
    cells: tuple[Cell, ...]
    floor: Cell
    reason: str = ""


def metrics_table(results: Results, group: ProtocolGroup) -> list[MetricRow]:
    """One row a metric that a model of the group has, or says why it has not; models in the order of the ranking."""
    known, floor = metric_info(results.metric), results.measured_floor(group)
    models = [standing.outcomes for standing in group.standings]
    runs = [run for outcomes in models for run in outcomes]
    lacking = {name for run in runs for name in run.scores.not_available}
    shown = {key for run in runs for key in run.scores.metrics}
    shown |= {key for key, meaning in known.items() if meaning.measured_by in lacking}
    shown |= lacking - {meaning.measured_by for meaning in known.values()}
    return [_row(key, known.get(key), models, floor) for key in in_order(shown, results.metric)]


def explained(results: Results) -> dict[str, MetricInfo]:
    """What the rows of all tables mean, by name, of those metrics that any model has."""
    measured = {key for run in results.outcomes for key in run.scores.metrics}
    return {key: meaning for key, meaning in metric_info(results.metric).items() if key in measured}


def class_table(results: Results, group: ProtocolGroup) -> list[MetricRow]:
    """The distance within each class, one row a class that a model of the group has; empty where there is none."""
    prefix, floor = class_prefix(results.metric), results.measured_floor(group)
    models = [standing.outcomes for standing in group.standings]
    keys = {key for outcomes in models for run in outcomes for key in run.scores.metrics if key.startswith(prefix)}
    labels = sorted((key.removeprefix(prefix) for key in keys), key=lambda label: (len(label), label))
    places = decimals(run.scores.metrics[key] for o in models for run in o for key in keys if key in run.scores.metrics)
    return [
        MetricRow(
            _class_name(results, label),
            prefix + label,
            "",
            tuple(_cell(prefix + label, "classes", outcomes, places) for outcomes in models),
            _floor_cell(prefix + label, floor, places),
        )
        for label in labels
    ]


def nearest(run: RunResult) -> str:
    """What is measured of the distances to training images, in a few words."""
    held, lacking = run.scores.metrics, run.scores.not_available
    if "nearest_ratio" not in held or "copies" not in held:
        return f"n/a: {lacking['memorisation']}" if "memorisation" in lacking else "not measured"
    return f"ratio {held['nearest_ratio']:.2f}, copies {held['copies']:.3f}"


def _row(key: str, meaning: MetricInfo | None, models: Sequence[Sequence[RunResult]], floor: Floor) -> MetricRow:
    values = [run.scores.metrics[key] for outcomes in models for run in outcomes if key in run.scores.metrics]
    places = decimals(values) if meaning is None or meaning.places is None else meaning.places
    cells = tuple(_cell(key, meaning.measured_by if meaning else key, outcomes, places) for outcomes in models)
    reasons = {cell.small for cell in cells}
    return MetricRow(
        meaning.title if meaning else key,
        key,
        DIRECTIONS.get(meaning.better, meaning.better) if meaning else "",
        cells,
        _floor_cell(key, floor, places),
        reasons.pop() if not values and len(reasons) == 1 else "",
    )


def _cell(key: str, measured_by: str, outcomes: Sequence[RunResult], places: int) -> Cell:
    held = [run for run in outcomes if key in run.scores.metrics]
    if not held:
        reasons = dict.fromkeys(run.scores.not_available.get(measured_by, "not measured") for run in outcomes)
        return Cell("n/a", "; ".join(reasons))
    text = mean_and_std([run.scores.metrics[key] for run in held], places)
    if len(held) < len(outcomes):
        return Cell(text, f"{len(held)} of {len(outcomes)} seeds")
    return Cell(text, _error(typical_error([run.scores.errors.get(key) for run in held]), places))


def _floor_cell(key: str, floor: Floor, places: int) -> Cell:
    values, errors = floor
    return Cell(number(values[key], places), _error(errors.get(key), places)) if key in values else Cell(DASH)


def _error(error: float | None, places: int) -> str:
    return "" if error is None else f"±{number(error, places)}"


def _class_name(results: Results, label: str) -> str:
    names = results.dataset["classes"]
    return str(names[int(label)]) if label.isdecimal() and int(label) < len(names) else label
