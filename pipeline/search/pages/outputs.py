"""What a study leaves: its page, tables for other programs, and its part in MLflow."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core import paths
from pipeline.core.files import write_bytes, write_json
from pipeline.search.pages.comparison import Entry, rank_studies
from pipeline.search.pages.page import render_comparison, render_study, subject
from pipeline.search.study.mlflow_run import study_page, track_results
from pipeline.search.study.results import StudyResults, gain_text
from pipeline.search.study.trial_stats import (
    cost_of,
    curve_of,
    distance_of,
    images_of,
    seconds_of,
    state_of,
    steps_of,
    wall_seconds_of,
)
from pipeline.tracking.tracker import Tracker


def publish(results: StudyResults, tracker: Tracker) -> Path:
    """Write a study's tables and its page to reports/studies/<study>, tell MLflow, and return the page's path."""
    about, page = subject(), study_page(results.study)
    files = write_tables(results, page.parent)
    write_bytes(page, render_study(results, about).encode())
    track_results(tracker, results)
    for path in [*files, page]:
        tracker.artifact(path, "study")
    return page


def publish_comparison(studies: Sequence[StudyResults]) -> Path:
    """Write the comparison of several studies to reports/studies, and return the page's path."""
    folder = paths.REPORTS / "studies"
    _write_csv(folder / "comparison.csv", comparison_table(rank_studies(studies)))
    page = folder / "comparison.html"
    write_bytes(page, render_comparison(studies, subject()).encode())
    return page


def write_tables(results: StudyResults, folder: Path) -> list[Path]:
    """Write a study's tables to the folder `folder`, each file whole or not at all, and return their paths."""
    tables = {"trials": trials_table(results), "curves": curves_table(results), "finals": finals_table(results)}
    for name, table in tables.items():
        _write_csv(folder / f"{name}.csv", table)
    write_json(folder / "result.json", as_json(results))
    return [*(folder / f"{name}.csv" for name in tables), folder / "result.json"]


def trials_table(results: StudyResults) -> pd.DataFrame:
    """One row a trial. `value` is that of complete ones only; seconds are of training, wall_seconds of the last worker.

    With a cost beside the distance, `pareto` says which trials are on the front. The parameters' columns have the names
    of the recipe's fields, which differ from those of all other columns.
    """
    names = list(results.settings["space"])
    best = {trial.number for trial in results.front}
    rows = [
        {
            "number": trial.number,
            "state": state_of(trial),
            "value": distance_of(trial),
            **({"pareto": trial.number in best} if results.cost_objective else {}),
            "steps": trial.user_attrs.get("steps"),
            "images": images_of({**results.settings["recipe"], **trial.params}, trial),
            "seconds": trial.user_attrs.get("seconds"),
            "wall_seconds": wall_seconds_of(trial),
            "fault": trial.user_attrs.get("fault", ""),
            **{name: trial.params.get(name) for name in names},
        }
        for trial in results.trials
    ]
    return pd.DataFrame(rows)


def curves_table(results: StudyResults) -> pd.DataFrame:
    """The distance at every point of every trial's curve."""
    rows = [
        {"number": trial.number, "step": step, "distance": value}
        for trial in results.trials
        for step, value in curve_of(trial).items()
    ]
    return pd.DataFrame(rows, columns=["number", "step", "distance"])


def finals_table(results: StudyResults) -> pd.DataFrame:
    """One row a finalist and final seed, by rank; `value` is empty where training failed."""
    rows = [
        {
            "rank": rank,
            "trial": finalist.trial,
            "baseline": finalist is results.baseline,
            "seed": seed,
            "value": value,
            "mean": finalist.mean if finalist.finals else None,
            "ci95_low": (finalist.interval or (None, None))[0],
            "ci95_high": (finalist.interval or (None, None))[1],
            **({f"mean_{results.cost_objective}": finalist.cost} if results.cost_objective else {}),
            "in_study": finalist.proxy,
            **finalist.values,
        }
        for rank, finalist in enumerate(results.ranked, 1)
        for seed, value in [
            *zip(finalist.seeds, finalist.finals, strict=True),
            *((seed, None) for seed in finalist.failed),
        ]
    ]
    return pd.DataFrame(rows)


def comparison_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """One row a model, by the rank of its tuned recipe."""
    rows = []
    for entry in entries:
        results, found = entry.results, entry.results.gain
        row: dict[str, Any] = {"model": results.model, "study": results.study}
        for name, finalist, rank in (
            ("untuned", results.baseline, entry.rank_untuned),
            ("tuned", results.winner, entry.rank_tuned),
        ):
            low, high = finalist.interval or (None, None)
            mean = finalist.mean if finalist.finals else None
            row |= {f"{name}_rank": rank, f"{name}_mean": mean, f"{name}_ci95_low": low, f"{name}_ci95_high": high}
        low, high = (found.interval if found else None) or (None, None)
        row |= {"gain": found.gap if found else None, "gain_ci95_low": low, "gain_ci95_high": high}
        row |= {"seeds": len(results.winner.finals), "trials": len(results.trials), "winner": results.winner.trial}
        row |= {"steps": steps_of(results.trials), "seconds": seconds_of(results.trials)}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("tuned_rank")


def as_json(results: StudyResults) -> dict[str, Any]:
    """What a study found, with its settings; what there is not is null."""
    found, bias = results.gain, results.selection_bias
    return {
        "study": results.study,
        "model": results.model,
        "verdict": gain_text(results),
        "against": results.cost_objective,
        "front": [
            {"trial": trial.number, "distance": distance_of(trial), "cost": cost_of(trial), "values": trial.params}
            for trial in results.front
        ]
        if results.cost_objective
        else None,
        "winner": {"trial": results.winner.trial, "values": results.winner.values},
        "finalists": [
            {
                "trial": finalist.trial,
                "baseline": finalist is results.baseline,
                "values": finalist.values,
                "in_study": finalist.proxy,
                "mean": finalist.mean if finalist.finals else None,
                "interval": finalist.interval,
                "finals": dict(zip(map(str, finalist.seeds), finalist.finals, strict=True)),
                "failed_seeds": finalist.failed,
                "mean_cost": finalist.cost,
            }
            for finalist in results.ranked
        ],
        "gain": found and {"gap": found.gap, "ratio": _finite(found.ratio), "interval": found.interval},
        "selection_bias": bias
        and {
            "finalists": bias.count,
            "spearman": bias.spearman,
            "kendall": bias.kendall,
            "best_in_study": bias.best.trial,
            "its_final_rank": bias.final_rank,
            "ratio_to_baseline_in_study": bias.ratio_in_study,
            "ratio_to_baseline_in_finals": bias.ratio_in_finals,
            "retained_gain": bias.retained_gain,
        },
        "cost": {
            "trials": len(results.trials),
            "pruned": len(results.pruned),
            "failed": len(results.failed),
            "steps": steps_of(results.trials),
            "share_of_unpruned": results.cost,
            "seconds": seconds_of(results.trials),
            "seconds_per_trial": seconds_of(results.trials) / len(results.trials),
            "final_steps": steps_of(results.finals),
            "final_seconds": seconds_of(results.finals),
        },
        "settings": dict(results.settings),
        "finals": dict(results.budget),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())
