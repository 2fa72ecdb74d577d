"""The ranking as a table of text. Its columns stand in `columns`: a further one is one entry there."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.formatting import DASH, TIMES, amount, decimals, digits, interval, mean_and_std, number
from pipeline.report.results import ProtocolGroup, Results, RunResult
from pipeline.report.uncertainty import mean_interval, typical_error


@dataclass(frozen=True)
class Column:
    """A column of the ranking: `cell` makes its text from all outcomes of a model, or from a single one."""

    title: str
    cell: Callable[[Sequence[RunResult]], str]
    floor: str = ""
    number: bool = True


def columns(results: Results, group: ProtocolGroup) -> tuple[Column, ...]:
    """The ranking's columns after rank and model."""
    places = decimals(run.value for run in results.outcomes)
    several = any(len(standing.outcomes) > 1 for standing in group.standings)
    floor_error = results.measured_floor(group)[1].get(results.metric)
    over_seeds = (Column("95% interval of the mean", lambda runs: _interval(runs, places)),) if several else ()
    return (
        Column(
            results.metric, lambda runs: mean_and_std([run.value for run in runs], places), number(group.floor, places)
        ),
        *over_seeds,
        Column("± sampling", lambda runs: _sampling(runs, places), _error(floor_error, places)),
        Column(f"{TIMES} floor", lambda runs: mean_and_std([run.ratio for run in runs], 2), "1.00"),
        Column("best checkpoint", lambda runs: mean_and_std([run.scores.best_value for run in runs], places)),
        Column("its step", _best_steps),
        Column("network", lambda runs: str(runs[0].info["recipe"]["network"]), number=False),
        Column("loss", lambda runs: str(runs[0].info["recipe"]["loss"]), number=False),
        Column("small sample: untrained → final", improvement),
        Column("params G", lambda runs: f"{runs[0].info['parameters_g']:,}"),
        Column("params D", lambda runs: f"{runs[0].info['parameters_d']:,}"),
        Column("steps", lambda runs: f"{runs[0].info['steps']:,}"),
        Column("images seen", lambda runs: f"{runs[0].info['images_seen']:,}"),
        Column("training s", lambda runs: amount([run.seconds for run in runs])),
        Column("images/s", lambda runs: amount([run.info["images_seen"] / (run.seconds or math.nan) for run in runs])),
    )


def ranking(results: Results, group: ProtocolGroup) -> dict[str, Any]:
    """A ranking as text: its columns, and for each model a row, followed by those of its seeds if it has several."""
    made = columns(results, group)
    rows = []
    for standing in group.standings:
        runs = standing.outcomes
        cells = [column.cell(runs) for column in made]
        seeds = [(run.seed, _seed_cells(made, run, cells)) for run in runs if len(runs) > 1]
        rows.append({"rank": standing.rank, "run": runs[0], "cells": cells, "seeds": seeds})
    return {"columns": made, "rows": rows}


def _seed_cells(made: Sequence[Column], run: RunResult, shared: Sequence[str]) -> list[str]:
    """A seed's row: its score, and of the rest what its model's row does not say already."""
    score, *rest = [column.cell([run]) for column in made]
    return [score, *("" if own == cell else own for own, cell in zip(rest, shared[1:], strict=True))]


def improvement(runs: Sequence[RunResult]) -> str:
    """How far the small-sample distance fell, as the mean over seeds."""
    curves = [run.distances for run in runs]
    if not all(curves):
        return DASH
    first, last = (statistics.fmean(curve[end] for curve in curves) for end in (0, -1))
    factor = f" ({first / last:.1f}{TIMES})" if last > 0 else ""
    return f"{digits(first)} → {digits(last)}{factor}"


def _interval(runs: Sequence[RunResult], places: int) -> str:
    ends = mean_interval([run.value for run in runs])
    return interval(ends, places) if ends else ""


def _sampling(runs: Sequence[RunResult], places: int) -> str:
    return _error(typical_error([run.scores.error for run in runs]), places)


def _error(error: float | None, places: int) -> str:
    return DASH if error is None else number(error, places)


def _best_steps(runs: Sequence[RunResult]) -> str:
    """The step of the best checkpoint, or from the first to the last of several seeds."""
    steps = [run.scores.best_step for run in runs]
    return f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,}{DASH}{max(steps):,}"
