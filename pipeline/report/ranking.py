"""What the numbers say: the verdict in sentences, and the ranking as a table of text.

Columns of the ranking stand in `columns`: a further metric or an interval is one entry there.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.results import Group, Outcome, Results, Standing, differing

TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "\N{EN DASH}"
PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Column:
    """A column of the ranking: `cell` makes its text from all outcomes of a model, or from a single one."""

    title: str
    cell: Callable[[Sequence[Outcome]], str]
    floor: str = ""
    number: bool = True


def columns(results: Results, floor: float) -> tuple[Column, ...]:
    """The ranking's columns after rank and model."""
    places = decimals(results)
    return (
        Column(results.metric, lambda runs: spread([run.value for run in runs], places), f"{floor:,.{places}f}"),
        Column(f"{TIMES} floor", lambda runs: spread([run.ratio for run in runs], 2), "1.00"),
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


def ranking(results: Results, group: Group) -> dict[str, Any]:
    """A ranking as text: its columns, and for each model a row, followed by those of its seeds if it has several."""
    made = columns(results, group.floor)

    rows = []
    for standing in group.standings:
        runs = standing.outcomes
        cells = [column.cell(runs) for column in made]
        seeds = [(run.seed, _seed_cells(made, run, cells)) for run in runs if len(runs) > 1]
        rows.append({"rank": standing.rank, "run": runs[0], "cells": cells, "seeds": seeds})
    return {"columns": made, "rows": rows}


def _seed_cells(made: Sequence[Column], run: Outcome, shared: Sequence[str]) -> list[str]:
    """A seed's row: its score, and of the rest what its model's row does not say already."""
    score, *rest = [column.cell([run]) for column in made]
    return [score, *("" if own == cell else own for own, cell in zip(rest, shared[1:], strict=True))]


def verdict(results: Results) -> list[str]:
    """Sentences: who leads each ranking, and how far that can be trusted."""
    groups, seeds = results.groups, max(map(len, results.models.values()))
    sentences = [_leader(results, group) for group in groups]
    if len(groups) > 1:
        names = ", ".join(differing([group.protocol for group in groups]))
        sentences.insert(
            0,
            f"The experiments were measured by {len(groups)} protocols, which differ in {names}: each has a ranking "
            "of its own, and values of one are not comparable with another's.",
        )
    if seeds == 1:
        sentences.append("One training seed per model: nothing can be concluded about training variance.")
    return sentences


def _leader(results: Results, group: Group) -> str:
    leaders, metric, count = [s for s in group.standings if s.rank == 1], results.metric, len(group.standings)
    best, places = leaders[0], decimals(results)
    runs, ratio = len(best.values), statistics.fmean(run.ratio for run in best.outcomes)
    seeds = f" over {runs} training seeds" if runs > 1 else ""
    value = f"{spread(best.values, places)}{seeds}, {ratio:.1f} times the floor"
    if count == 1:
        return f"{best.model} reaches a {metric} of {value}; no other model was measured this way."
    if len(leaders) > 1:
        return f"{' and '.join(s.model for s in leaders)} share the lowest {metric} ({value}) of {count} models."
    mean = "mean " if runs > 1 else ""
    return f"{best.model} has the lowest {mean}{metric} ({value}) of {count} models.{_overlap(best, group)}"


def _overlap(best: Standing, group: Group) -> str:
    """A warning where seeds of another model reach into the range of the best one's."""
    rivals = [s.model for s in group.standings if s is not best and min(s.values) <= max(best.values)]
    if not rivals or len(best.values) == 1:
        return ""
    return f" Single seeds of {', '.join(rivals)} reach into its range: the order is not settled."


def improvement(runs: Sequence[Outcome]) -> str:
    """How far the small-sample distance fell, as the mean over seeds."""
    curves = [run.distances for run in runs]
    if not all(curves):
        return NOTHING
    first, last = (statistics.fmean(curve[end] for curve in curves) for end in (0, -1))
    factor = f" ({first / last:.1f}{TIMES})" if last > 0 else ""
    return f"{_digits(first)} → {_digits(last)}{factor}"


def decimals(results: Results) -> int:
    """As many for all values as the smallest of them needs."""
    least = min(abs(outcome.value) for outcome in results.outcomes)
    return 1 if least >= 100 else 2 if least >= 1 else 4


def spread(values: Sequence[float], places: int) -> str:
    r"""A value, or the mean ± sample standard deviation of several.

    >>> spread([1.0, 3.0], 2)
    '2.00\xa0±\xa01.41'
    """
    mean = f"{statistics.fmean(values):,.{places}f}"
    return mean if len(values) == 1 else f"{mean}{PLUS_MINUS}{statistics.stdev(values):,.{places}f}"


def amount(values: Sequence[float]) -> str:
    """The mean of measured amounts, or a dash if one was not measured."""
    mean = statistics.fmean(values)
    return _digits(mean) if math.isfinite(mean) else NOTHING


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"
