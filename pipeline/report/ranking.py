"""The ranking as a table of text. To add a column, add an entry in `columns`."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures import css
from pipeline.report.formatting import DASH, TIMES, amount, digits, interval, mean_and_std, number
from pipeline.report.results import ProtocolGroup, Results, RunResult
from pipeline.report.uncertainty import mean_interval, typical_error


@dataclass(frozen=True)
class Column:
    """A column of the ranking: `cell` makes its text from all runs of a model, or from a single run."""

    title: str
    cell: Callable[[Sequence[RunResult]], str]
    floor: str = ""


def columns(results: Results, group: ProtocolGroup) -> tuple[Column, ...]:
    """The ranking's columns after rank and model."""
    places = results.places
    several = any(len(ranked.runs) > 1 for ranked in group.ranking)
    floor = DASH if group.floor is None else number(group.floor, places)
    # Of as many images as the ranked values, or of fewer: then beside a column of values of as few.
    equal = group.floor_images == group.protocol.get("generated_images")
    at_floor = Column(f"at N = {group.floor_images:,}", lambda runs: _optional(runs, "at_floor", places), floor)
    whole = equal and group.floor_images == results.floor["test_images"]
    floor_error = results.measured_floor(group)[1].get(results.metric) if whole else None
    solved = any(run.evaluations > 1 for ranked in group.ranking for run in ranked.runs)
    evaluations = (Column("evaluations an image", lambda runs: f"{runs[0].evaluations:,}"),) if solved else ()
    over_seeds = (Column("95% interval of the mean", lambda runs: _interval(runs, places)),) if several else ()
    return (
        Column(results.metric, lambda runs: mean_and_std([run.value for run in runs], places), floor if equal else ""),
        *over_seeds,
        Column("± sampling", lambda runs: _sampling(runs, places), _error(floor_error, places) if equal else ""),
        *(() if equal else (at_floor,)),
        Column(f"{TIMES} floor", lambda runs: _optional(runs, "ratio", 2), DASH if group.floor is None else "1.00"),
        Column("best checkpoint", lambda runs: mean_and_std([run.scores.best_value for run in runs], places)),
        Column("its step", _best_steps),
        Column("network", lambda runs: str(runs[0].info["recipe"]["network"])),
        Column("loss", lambda runs: str(runs[0].info["recipe"]["loss"])),
        Column("small sample: untrained → final", improvement),
        *evaluations,
        Column("params G", lambda runs: f"{runs[0].info['parameters_g']:,}"),
        Column("params D", lambda runs: f"{runs[0].info['parameters_d']:,}"),
        Column("steps", lambda runs: f"{runs[0].info['steps']:,}"),
        Column("images seen", lambda runs: f"{runs[0].info['images_seen']:,}"),
        Column("training s", lambda runs: amount([run.seconds for run in runs])),
        Column("images/s", lambda runs: amount([run.info["images_seen"] / (run.seconds or math.nan) for run in runs])),
    )


def ranking_table(results: Results, group: ProtocolGroup) -> dict[str, Any]:
    """A ranking as text: its columns, and for each model a row, followed by those of its seeds if it has several."""
    shown = columns(results, group)
    rows = []
    for ranked in group.ranking:
        runs = ranked.runs
        cells = [column.cell(runs) for column in shown]
        seeds = [(run.seed, _seed_cells(shown, run, cells)) for run in runs if len(runs) > 1]
        row = {"rank": ranked.rank, "name": ranked.model, "css": css(runs[0].index), "model": runs[0].index}
        rows.append(row | {"cells": cells, "seeds": seeds})
    return {"columns": [column.title for column in shown], "rows": rows, "floor": [column.floor for column in shown]}


def _seed_cells(shown: Sequence[Column], run: RunResult, shared: Sequence[str]) -> list[str]:
    """A seed's row: its score, and the other cells only where they differ from its model's row."""
    score, *rest = [column.cell([run]) for column in shown]
    return [score, *("" if own == cell else own for own, cell in zip(rest, shared[1:], strict=True))]


def improvement(runs: Sequence[RunResult]) -> str:
    """The small-sample distance of the untrained and the final generator, as means over seeds, and their ratio."""
    curves = [run.distances for run in runs]
    if not all(curves):
        return DASH
    first, last = (statistics.fmean(curve[end] for curve in curves) for end in (0, -1))
    factor = f" ({first / last:.1f}{TIMES})" if last > 0 else ""
    return f"{digits(first)} → {digits(last)}{factor}"


def _interval(runs: Sequence[RunResult], places: int) -> str:
    ends = mean_interval([run.value for run in runs])
    return interval(ends, places) if ends else ""


def _optional(runs: Sequence[RunResult], name: str, places: int) -> str:
    """A value of `Scores` that not all results have; a dash if one of the runs lacks it."""
    values = [getattr(run.scores, name) for run in runs]
    return DASH if None in values else mean_and_std(values, places)


def _sampling(runs: Sequence[RunResult], places: int) -> str:
    return _error(typical_error([run.scores.error for run in runs]), places)


def _error(error: float | None, places: int) -> str:
    return DASH if error is None else number(error, places)


def _best_steps(runs: Sequence[RunResult]) -> str:
    """The step of the best checkpoint; with several seeds, the range of steps."""
    steps = [run.scores.best_step for run in runs]
    return f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,}{DASH}{max(steps):,}"
