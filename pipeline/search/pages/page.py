"""The pages of studies: StudyResults -> HTML, by the templates beside this file and the look of the report."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from optuna.trial import FrozenTrial

from pipeline.core import paths
from pipeline.core.files import read_json
from pipeline.core.provenance import provenance
from pipeline.data.prepared import load_description
from pipeline.report.figures import TEMPLATES, chart, css
from pipeline.report.formatting import DASH, data_title, decimals, digits, interval, number
from pipeline.report.page import template_environment
from pipeline.report.results import differing
from pipeline.search.pages.charts import (
    BASELINE,
    FEWEST_IMPORTANCES,
    OTHERS,
    WINNER,
    comparison_figure,
    finalist_hue,
    study_charts,
)
from pipeline.search.pages.comparison import Entry, comparison_verdict, rank_studies, unequal
from pipeline.search.study.mlflow_run import group_of
from pipeline.search.study.results import Finalist, StudyResults, failures_text, gain_text, short
from pipeline.search.study.trial_stats import (
    distance_of,
    images_of,
    seconds_of,
    state_of,
    steps_of,
    wall_seconds_of,
)
from pipeline.tracking.addresses import server

OWN_TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Subject:
    """What all trials are measured by: the data in words, and the metric's name; and MLflow's experiment of them."""

    title: str
    metric: str
    group: str


def subject() -> Subject:
    """Read from the prepared data and their reference."""
    description, floor = load_description(paths.PREPARED), read_json(paths.REFERENCE / "floor.json")
    return Subject(data_title(description), floor["metric"], group_of(description))


@cache
def templates() -> jinja2.Environment:
    """The report's templates, and those of studies."""
    return template_environment().overlay(loader=jinja2.FileSystemLoader([OWN_TEMPLATES, TEMPLATES]))


def render_study(results: StudyResults, about: Subject) -> str:
    """The page of one study."""
    before = results.settings["recipe"]
    recipe = {**before, **results.winner.values}
    settings = {k: v for k, v in results.settings.items() if k not in ("space", "recipe", "data_sha256")}
    changed = [name for name, value in recipe.items() if value != before.get(name)]
    context = {
        "results": results,
        "subject": about,
        "verdict": study_verdict(results),
        "seeds": results.budget["final_seeds"],
        "final_steps": results.budget["train"]["steps"],
        "final_samples": results.budget["samples"] or "as many as training images",
        "finals": finals_rows(results, about),
        "selection_bias": selection_bias_table(results),
        "cost": cost_text(results),
        "charts": {
            part: {title: chart(made, title) for title, made in figures.items()}
            for part, figures in study_charts(results, about.metric).items()
        },
        "fewest": FEWEST_IMPORTANCES,
        "unequal_images": " and ".join(n for n in ("n_critic", "batch_size") if n in results.settings["space"]),
        "pictures": grids(results),
        "trials": trials_rows(results),
        "faults": [(trial.number, state_of(trial), trial.user_attrs["fault"]) for trial in results.failed],
        "space": results.settings["space"],
        "settings": settings | {"trials": len(results.trials)},
        "budget": {k: v for k, v in results.budget.items() if k != "finalists"},
        "winner_recipe": recipe,
        "changed": changed,
        "differences": [{name: short(held.get(name)) for name in changed} for held in (before, recipe)],
        "mlflow": f"{server()}/#/experiments" if server() else "",
        "command": f"python -m pipeline.search --model {results.model} --trials {len(results.trials)}",
        "versions": [*provenance().items(), ("data sha256", results.settings["data_sha256"])],
    }
    return templates().get_template("study.html").render(context)


def render_comparison(studies: Sequence[StudyResults], about: Subject) -> str:
    """The page of several studies."""
    entries = rank_studies(studies)
    first = entries[0].results
    recipes = [{**e.results.settings["recipe"], **e.results.winner.values} for e in entries]
    context = {
        "subject": about,
        "verdict": comparison_verdict(entries),
        "unequal": unequal(studies),
        "budget": f"{_count(len(first.trials), 'trial')} of {first.steps:,} steps, and finals of "
        f"{first.budget['train']['steps']:,}",
        "chart": chart(comparison_figure(entries, about.metric), "Models untuned and tuned", 120 + 56 * len(entries)),
        "table": comparison_rows(entries),
        "models": [entry.results.model for entry in entries],
        "recipes": recipes,
        "differs": differing(recipes),
        "versions": provenance().items(),
    }
    return templates().get_template("comparison.html").render(context)


def study_verdict(results: StudyResults) -> list[str]:
    """The winner in one sentence, and then how far the study's own values could be trusted."""
    text = gain_text(results)
    sentences = [f"{text[0].upper()}{text[1:]}, over {_count(len(results.winner.finals), 'fresh seed')}."]
    bias = results.selection_bias
    if bias and results.best is not None and bias.best is not results.baseline:
        rank = "was still the best" if bias.final_rank == 1 else f"ranked {bias.final_rank} of {len(results.finalists)}"
        kept = f" and kept {bias.retained_gain:.0%} of its gain" if bias.retained_gain is not None else ""
        sentences.append(f"In the finals the best trial of the study, trial {bias.best.trial}, {rank}{kept}.")
    if results.failed:
        sentences.append(f"Of {_count(len(results.trials), 'trial')}, {failures_text(results.failed)}.")
    return sentences


def cost_text(results: StudyResults) -> str:
    """What the study cost, in words."""
    seconds = [trial.user_attrs["seconds"] for trial in results.complete if "seconds" in trial.user_attrs]
    typical, total = statistics.median(seconds) if seconds else None, len(results.trials)
    devices = sorted({t.user_attrs["device"] for t in results.trials if "device" in t.user_attrs})
    where = f" on {', '.join(devices)}" if devices else ""
    return (
        f"{_count(total, 'trial')}: {len(results.complete)} complete, {len(results.pruned)} pruned, "
        f"{failures_text(results.failed)}. {steps_of(results.trials):,} steps were trained, {results.cost:.0%} of "
        f"those without pruning, in {digits(seconds_of(results.trials))} s of training{where}"
        + (f" ({digits(typical)} s for a typical complete trial)" if typical is not None else "")
        + f"; the finals took {steps_of(results.finals):,} steps and {digits(seconds_of(results.finals))} s more."
    )


def selection_bias_table(results: StudyResults) -> list[tuple[str, str]]:
    """What became of the study's order and of its best trial's gain, as rows of name and text."""
    found = results.selection_bias
    if found is None:
        return [("finalists with a value in the study", "none")]
    few = f"not computed for {found.count} finalists"
    best = "the baseline" if found.best is results.baseline else f"trial {found.best.trial}"
    rows = [
        ("finalists with a value in the study", str(found.count)),
        ("Spearman's rank correlation, study to finals", few if found.spearman is None else number(found.spearman, 2)),
        ("Kendall's rank correlation", few if found.kendall is None else number(found.kendall, 2)),
        ("best in the study", best),
        ("its rank in the finals", f"{found.final_rank} of {len(results.finalists)}"),
    ]
    for name, value in (("in the study", found.ratio_in_study), ("in the finals", found.ratio_in_finals)):
        rows.append((f"its value divided by the baseline's, {name}", DASH if value is None else f"{value:.3f}"))
    retained = DASH if found.retained_gain is None else f"{found.retained_gain:.0%}"
    return [*rows, ("part of its gain over the baseline that is left in the finals", retained)]


def finals_rows(results: StudyResults, about: Subject) -> dict[str, Any]:
    """The finalists by rank, as text."""
    places = decimals(value for finalist in results.finalists for value in finalist.finals)
    varied = list(results.settings["space"])
    columns = [f"mean {about.metric}", "95% interval", "seeds", "failed", "in the study"]
    columns += [f"mean {results.cost_objective}", *varied] if results.cost_objective else varied
    rows = []
    for rank, finalist in enumerate(results.ranked, 1):
        proxy = DASH if finalist.proxy is None else number(finalist.proxy, places)
        cells = [*_mean_cells(finalist, places), str(len(finalist.finals)), str(len(finalist.failed)), proxy]
        if results.cost_objective:
            cells.append(DASH if finalist.cost is None else digits(finalist.cost))
        cells += [short(finalist.values.get(name, DASH)) for name in varied]
        name = f"{finalist.trial}, the baseline" if finalist is results.baseline else str(finalist.trial)
        rows.append({"rank": rank, "name": name, "css": css(finalist_hue(results, finalist)), "cells": cells})
    return {"columns": columns, "rows": rows}


def trials_rows(results: StudyResults) -> dict[str, Any]:
    """All trials, as text."""
    names = list(results.settings["space"])
    places = decimals(distance_of(trial) or 0.0 for trial in results.complete)
    rows = []
    for trial in results.trials:
        distance, wall = distance_of(trial), wall_seconds_of(trial)
        value = DASH if distance is None else number(distance, places)
        images = images_of({**results.settings["recipe"], **trial.params}, trial)
        cells = [state_of(trial), value, f"{trial.user_attrs.get('steps', 0):,}"]
        cells += [f"{images:,}", digits(trial.user_attrs.get("seconds", 0.0))]
        cells += [DASH if wall is None else digits(wall), *(short(trial.params.get(n, DASH)) for n in names)]
        rows.append({"rank": "", "name": str(trial.number), "cells": cells})
    return {"columns": ["state", "value", "steps", "images", "training s", "wall s", *names], "rows": rows}


def comparison_rows(entries: Sequence[Entry]) -> dict[str, Any]:
    """The models by rank, as text."""
    finals = [f for entry in entries for f in (entry.results.baseline, entry.results.winner)]
    places = decimals(value for finalist in finals for value in finalist.finals)
    rows = []
    for entry in entries:
        results, found = entry.results, entry.results.gain
        cells = [*_mean_cells(results.winner, places), *_mean_cells(results.baseline, places)]
        cells.append(DASH if entry.rank_untuned is None else str(entry.rank_untuned))
        cells.append(number(found.gap, places) if found else DASH)
        cells.append(interval(found.interval, places) if found and found.interval else DASH)
        cells += [str(len(results.winner.finals)), str(len(results.trials)), f"{steps_of(results.trials):,}"]
        cells.append(digits(seconds_of(results.trials)))
        rank = DASH if entry.rank_tuned is None else str(entry.rank_tuned)
        rows.append({"rank": rank, "name": results.model, "css": css(entry.index), "cells": cells})
    columns = ["tuned mean", "95% interval", "untuned mean", "95% interval", "untuned rank", "better by",
               "95% interval", "seeds", "trials", "steps trained", "training s"]  # fmt: skip
    return {"columns": columns, "rows": rows}


def grids(results: StudyResults) -> list[dict[str, Any]]:
    """The last grids of the baseline and of the best, median and worst complete trials; path None where missing."""
    order = sorted(results.complete, key=lambda trial: (distance_of(trial), trial.number))
    places = decimals(distance_of(trial) or 0.0 for trial in order)
    baseline = results.baseline_trial
    wanted = [("baseline", BASELINE, baseline)] if baseline is not None and state_of(baseline) == "complete" else []
    if order:
        shown = {"best": (WINNER, order[0]), "median": (OTHERS, order[len(order) // 2]), "worst": (OTHERS, order[-1])}
        wanted += [(f"{place}: trial {trial.number}", hue, trial) for place, (hue, trial) in shown.items()]
    chosen: dict[int, dict[str, Any]] = {}
    for name, hue, trial in wanted:
        value = number(distance_of(trial) or 0.0, places)
        chosen.setdefault(trial.number, {"name": name, "css": css(hue), "value": value, "path": _grid(trial)})
    return list(chosen.values())


def _grid(trial: FrozenTrial) -> Path | None:
    name = Path(str(trial.user_attrs.get("work_folder", ""))).name
    if not name:
        return None
    return max((paths.root() / ".work" / name / "grids").glob("*.png"), default=None)


def _mean_cells(finalist: Finalist, places: int) -> list[str]:
    mean = number(finalist.mean, places) if finalist.finals else "failed"
    return [mean, interval(finalist.interval, places) if finalist.interval else DASH]


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
