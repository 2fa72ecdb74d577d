"""leaderboard.csv: one row for each experiment, for other programs."""

import statistics

import pandas as pd

from pipeline.report.metric_info import in_order
from pipeline.report.results import RankedModel, Results
from pipeline.report.uncertainty import mean_interval


def leaderboard(results: Results) -> pd.DataFrame:
    """One row for each experiment, sorted by the rank of its model and then by value. It contains no measured times.

    If protocols differ, the rows of each protocol follow each other, and ranks begin again at 1. `seeds`, `mean`, `std`
    and `ci95_*` belong to the model and are the same in all its rows. The last columns are the further metrics in the
    order of the report, without single classes; the columns before them are always the same.
    """
    further = in_order({key for run in results.runs for key in run.scores.metrics}, results.metric)
    rows = [
        {
            "rank": ranked.rank,
            "model": run.model,
            "seed": run.seed,
            "metric": results.metric,
            "value": run.value,
            "sampling_error": run.scores.error,
            "floor": run.scores.floor,
            "value_at_floor": run.scores.at_floor,
            "ratio_to_floor": run.scores.ratio,
            **_over_seeds(ranked),
            "collapsed": ", ".join(run.scores.collapsed),
            "best_value": run.scores.best_value,
            "best_step": run.scores.best_step,
            "network": run.info["recipe"]["network"],
            "loss": run.info["recipe"]["loss"],
            **{key: run.info[key] for key in ("steps", "images_seen", "parameters_g", "parameters_d")},
            "network_evaluations": run.evaluations,
            "protocol": group.key,
            **{key: run.scores.metrics.get(key) for key in further},
        }
        for group in results.groups
        for ranked in group.ranking
        for run in ranked.runs
    ]
    return pd.DataFrame(rows)


def _over_seeds(ranked: RankedModel) -> dict[str, float | int | None]:
    values = ranked.values
    low, high = mean_interval(values) or (None, None)
    return {
        "seeds": len(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "ci95_low": low,
        "ci95_high": high,
    }
