"""The first screen: for each model its rank, its distance with an interval as a bar, and a strip of its samples."""

import statistics
from dataclasses import dataclass

from pipeline.report.conclusions import has_failed
from pipeline.report.formatting import TIMES, interval, mean_and_std
from pipeline.report.results import ProtocolGroup, RankedModel, Results, RunResult
from pipeline.report.uncertainty import NORMAL, mean_interval


@dataclass(frozen=True)
class Row:
    """A model's row. `bar` holds percentages of the bar's width: its end, and both ends of the interval if known."""

    rank: int
    run: RunResult
    value: str
    spread: str
    ratio: str
    flag: str
    bar: dict[str, float]
    beyond: bool


def board(results: Results, group: ProtocolGroup) -> tuple[list[Row], float | None]:
    """The rows of a ranking, and where the floor stands on their bars in percent; None without a floor.

    The bars begin at 0 and have the length of the worst model that has not failed; longer ones are cut off.
    """
    places = results.places
    standing = [ranked for ranked in group.ranking if not has_failed(ranked)] or list(group.ranking)
    tops = [max(statistics.fmean(ranked.values), (reach(ranked) or (0, 0))[1]) for ranked in standing]
    whole = 1.05 * max(*tops, group.floor or 0.0, 1e-12)
    rows = []
    for ranked in group.ranking:
        mean, ends = statistics.fmean(ranked.values), reach(ranked)
        rows.append(
            Row(
                ranked.rank,
                min(ranked.runs, key=lambda run: results.runs.index(run)),
                mean_and_std(ranked.values, places),
                interval(ends, places) if ends else "",
                "" if ranked.ratio is None else f"{ranked.ratio:,.1f}{TIMES} floor",
                _flag(ranked),
                {"to": _share(mean, whole)}
                | ({"low": _share(ends[0], whole), "high": _share(ends[1], whole)} if ends else {}),
                mean > whole,
            )
        )
    return rows, None if group.floor is None else _share(group.floor, whole)


def reach(ranked: RankedModel) -> tuple[float, float] | None:
    """The 95% interval of the mean over training seeds; of a single seed, that of its sampling error if known."""
    value, error = ranked.values[0], ranked.runs[0].scores.error
    sampled = None if error is None else (value - NORMAL * error, value + NORMAL * error)
    return mean_interval(ranked.values) or sampled


def _share(value: float, whole: float) -> float:
    return round(100 * min(1.0, max(0.0, value / whole)), 2)


def _flag(ranked: RankedModel) -> str:
    fallen = sum(bool(run.scores.collapsed) for run in ranked.runs)
    if not fallen:
        return "rolled back" if any(run.info["rollbacks"] for run in ranked.runs) else ""
    return "collapsed" if len(ranked.runs) == 1 else f"{fallen} of {len(ranked.runs)} seeds collapsed"
