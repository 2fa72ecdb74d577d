"""leaderboard.csv: one row an experiment, for other programs."""

import statistics

import pandas as pd

from pipeline.report.metric_info import in_order
from pipeline.report.results import RankedModel, Results
from pipeline.report.uncertainty import mean_interval


def leaderboard(results: Results) -> pd.DataFrame:
    """One row an experiment, by rank of its model and then by value; nothing in it is measured time.

    Where protocols differ, the rows of one protocol follow those of the other, and ranks begin again at 1. `seeds`,
    `mean`, `std` and `ci95_*` are the model's, the same in all its rows. The last columns are the further metrics
    in the order of the report, without single classes; the columns before them are always the same.
    """
    further = in_order({key for run in results.outcomes for key in run.scores.metrics}, results.metric)
    rows = [
        {
            "rank": standing.rank,
            "model": run.model,
            "seed": run.seed,
            "metric": results.metric,
            "value": run.value,
            "sampling_error": run.scores.error,
            "floor": run.floor,
            "ratio_to_floor": run.ratio,
            **_over_seeds(standing),
            "collapsed": ", ".join(run.scores.collapsed),
            "best_value": run.scores.best_value,
            "best_step": run.scores.best_step,
            "network": run.info["recipe"]["network"],
            "loss": run.info["recipe"]["loss"],
            **{key: run.info[key] for key in ("steps", "images_seen", "parameters_g", "parameters_d")},
            "protocol": group.key,
            **{key: run.scores.metrics.get(key) for key in further},
        }
        for group in results.groups
        for standing in group.standings
        for run in standing.outcomes
    ]
    return pd.DataFrame(rows)


def _over_seeds(standing: RankedModel) -> dict[str, float | int | None]:
    values = standing.values
    low, high = mean_interval(values) or (None, None)
    return {
        "seeds": len(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "ci95_low": low,
        "ci95_high": high,
    }
