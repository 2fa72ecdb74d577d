"""Tables of the further metrics as text: metrics by models, and classes by models."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.formatting import DASH, decimals, listed, mean_and_std, number
from pipeline.report.metric_info import MetricInfo, class_prefix, in_order, metric_info
from pipeline.report.results import ProtocolGroup, Results, RunResult
from pipeline.report.uncertainty import typical_error

Floor = tuple[dict[str, float], dict[str, float]]  # values and sampling errors by name
NOT_MEASURED = "not measured"
DIRECTIONS = {"higher": "↑ higher", "lower": "↓ lower"}


@dataclass(frozen=True)
class Cell:
    """A model's value as text, and in small print its sampling error or the reason why it is missing."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class MetricRow:
    """A metric, or a class."""

    title: str
    key: str
    better: str
    cells: tuple[Cell, ...]
    floor: Cell


def metrics_table(results: Results, group: ProtocolGroup) -> list[MetricRow]:
    """One row for each metric that a model of the group has; models in order of rank."""
    further = _further(results)
    known = metric_info(results.metric, further)
    floor = results.measured_floor(group)
    models = [ranked.runs for ranked in group.ranking]
    shown = {key for runs in models for run in runs for key in run.scores.metrics}
    return [_row(key, known.get(key), models, floor) for key in in_order(shown, results.metric, further)]


def missing(results: Results, group: ProtocolGroup) -> dict[str, list[str]]:
    """The titles of the metrics that are not available to any model of the group, by the reason."""
    known = metric_info(results.metric, _further(results))
    runs = [run for ranked in group.ranking for run in ranked.runs]
    measured = {key for run in runs for key in run.scores.metrics}
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in run.scores.not_available):
        keys = [key for key, info in known.items() if info.measured_by == name] or [name]
        models: dict[str, list[str]] = {}
        for run in runs:
            models.setdefault(run.scores.not_available.get(name, NOT_MEASURED), []).append(run.name)
        reason = "; ".join(f"{text} ({listed(names)})" if len(models) > 1 else text for text, names in models.items())
        titles = [known[key].title if key in known else key for key in keys if key not in measured]
        found.setdefault(reason, []).extend(titles)
    return {reason: titles for reason, titles in found.items() if titles}


def explained(results: Results) -> dict[str, MetricInfo]:
    """The explanations of the metrics that any model has, by name."""
    measured = {key for run in results.runs for key in run.scores.metrics}
    return {key: info for key, info in metric_info(results.metric).items() if key in measured}


def _further(results: Results) -> dict[str, str]:
    """The further extractors of any run, and what the distance under each is called."""
    return {name: metric for run in results.runs for name, metric in run.scores.further.items()}


def class_table(results: Results, group: ProtocolGroup) -> list[MetricRow]:
    """The distance within each class: one row for each class that a model of the group has; empty if there is none."""
    prefix = class_prefix(results.metric)
    floor = results.measured_floor(group)
    models = [ranked.runs for ranked in group.ranking]
    metrics = [run.scores.metrics for runs in models for run in runs]
    keys = {key for held in metrics for key in held if key.startswith(prefix)}
    labels = sorted((key.removeprefix(prefix) for key in keys), key=lambda label: (len(label), label))
    places = decimals(held[key] for held in metrics for key in keys if key in held)
    return [
        MetricRow(
            results.class_name(label),
            prefix + label,
            "",
            tuple(_cell(prefix + label, "classes", runs, places) for runs in models),
            _floor_cell(prefix + label, floor, places),
        )
        for label in labels
    ]


def nearest(run: RunResult) -> str:
    """The measured distances to training images, in a few words."""
    held = run.scores.metrics
    missing = run.scores.not_available
    if "nearest_ratio" not in held or "copies" not in held:
        return f"n/a: {missing['memorisation']}" if "memorisation" in missing else NOT_MEASURED
    return f"ratio {held['nearest_ratio']:.2f}, copies {held['copies']:.3f}"


def _row(key: str, info: MetricInfo | None, models: Sequence[Sequence[RunResult]], floor: Floor) -> MetricRow:
    values = [run.scores.metrics[key] for runs in models for run in runs if key in run.scores.metrics]
    places = decimals(values) if info is None or info.places is None else info.places
    return MetricRow(
        info.title if info else key,
        key,
        DIRECTIONS.get(info.better, info.better) if info else "",
        tuple(_cell(key, info.measured_by if info else key, runs, places) for runs in models),
        _floor_cell(key, floor, places),
    )


def _cell(key: str, measured_by: str, runs: Sequence[RunResult], places: int) -> Cell:
    held = [run for run in runs if key in run.scores.metrics]
    if not held:
        reasons = dict.fromkeys(run.scores.not_available.get(measured_by, NOT_MEASURED) for run in runs)
        return Cell("n/a", "; ".join(reasons))
    text = mean_and_std([run.scores.metrics[key] for run in held], places)
    if len(held) < len(runs):
        return Cell(text, f"{len(held)} of {len(runs)} seeds")
    return Cell(text, _error(typical_error([run.scores.errors.get(key) for run in held]), places))


def _floor_cell(key: str, floor: Floor, places: int) -> Cell:
    values, errors = floor
    return Cell(number(values[key], places), _error(errors.get(key), places)) if key in values else Cell(DASH)


def _error(error: float | None, places: int) -> str:
    return "" if error is None else f"±{number(error, places)}"
