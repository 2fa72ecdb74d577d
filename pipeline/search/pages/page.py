"""The pages of studies: Results -> HTML, by pipeline/search/templates and the look of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from optuna.trial import FrozenTrial
from PIL import Image

from pipeline.core import paths
from pipeline.core.files import read_json
from pipeline.core.provenance import provenance
from pipeline.data.prepared import load_description
from pipeline.report.charts import Chart
from pipeline.report.formatting import DASH, TIMES, decimals, digits, interval, number
from pipeline.report.page import TEMPLATES, template_environment
from pipeline.report.results import differing
from pipeline.search.pages import charts
from pipeline.search.pages.comparison import Entry, compare, comparison_verdict, unequal
from pipeline.search.pages.drawing import Drawing
from pipeline.search.pages.export import wall_seconds
from pipeline.search.study.results import Finalist, Results, gain_text, short
from pipeline.search.study.trial_stats import distance_of, images_of, seconds_of, state_of, steps_of

OWN_TEMPLATES = Path(__file__).resolve().parent / "templates"
SHOWN = 3  # best and worst trials whose grids are shown
WIDEST = 340  # pixels of a grid


@dataclass(frozen=True)
class Subject:
    """What all trials are measured by: the data in words, the metric's name, and the floor, 0 where there is none."""

    title: str
    metric: str
    floor: float


def subject() -> Subject:
    """Read from the prepared data and their reference."""
    description, floor = load_description(paths.PREPARED), read_json(paths.REFERENCE / "floor.json")
    channels, _, width = description["image_shape"]
    title = f"{description['name']}, {width} {TIMES} {width}, {'grey' if channels == 1 else 'RGB'}"
    return Subject(title, floor["metric"], float(floor["value"]))


@cache
def templates() -> jinja2.Environment:
    """The report's templates, and those of studies."""
    return template_environment().overlay(loader=jinja2.FileSystemLoader([OWN_TEMPLATES, TEMPLATES]))


def render(results: Results, about: Subject, drawn: Mapping[str, Chart | Drawing]) -> str:
    """The page of one study, with its charts as `charts.drawings` gives them."""
    recipe = {**results.settings["recipe"], **results.winner.values}
    settings = {k: v for k, v in results.settings.items() if k not in ("space", "recipe", "data_sha256")}
    pictures = grids(results)
    context = {
        "results": results,
        "subject": about,
        "verdict": verdict(results),
        "seeds": results.budget["final_seeds"],
        "final_steps": results.budget["train"]["steps"],
        "final_samples": results.budget["samples"] or "as many as training images",
        "finals_chart": drawn["finals"],
        "pareto": [drawn[name] for name in ("pareto_front", "finals_cost") if name in drawn],
        "finals": finals_table(results, about),
        "luck": luck(results),
        "cost": cost_text(results),
        "histories": [drawn["history"], drawn["history_cost"]],
        "curves": drawn["intermediate_values"],
        "shares": drawn.get("importances"),
        "fewest": charts.FEWEST_IMPORTANCES,
        "slices": [drawn[f"slice_{name}"] for name in results.settings["space"]],
        "field": drawn.get("contour"),
        "parallel": drawn.get("parallel_coordinates"),
        "unequal_images": " and ".join(n for n in ("n_critic", "batch_size") if n in results.settings["space"]),
        "pictures": pictures,
        "tile": min(max([_width(p["path"]) for p in pictures if p["path"]], default=WIDEST), WIDEST),
        "trials": trials_table(results),
        "faults": [(trial.number, trial.user_attrs["fault"]) for trial in results.diverged],
        "space": results.settings["space"],
        "settings": settings | {"trials": len(results.trials)},
        "budget": {k: v for k, v in results.budget.items() if k != "finalists"},
        "winner_recipe": recipe,
        "changed": [name for name, value in recipe.items() if value != results.settings["recipe"].get(name)],
        "command": f"python -m pipeline.search --model {results.model} --trials {len(results.trials)}",
        "provenance": provenance(),
    }
    return templates().get_template("study.html").render(context)


def render_comparison(studies: Sequence[Results], about: Subject) -> str:
    """The page of several studies."""
    entries = compare(studies)
    first = entries[0].results
    recipes = [{**e.results.settings["recipe"], **e.results.winner.values} for e in entries]
    context = {
        "subject": about,
        "verdict": comparison_verdict(entries),
        "unequal": unequal(studies),
        "budget": f"{_count(len(first.trials), 'trial')} of {first.steps:,} steps, and finals of "
        f"{first.budget['train']['steps']:,}",
        "chart": charts.comparison_chart(entries, about.metric),
        "table": comparison_rows(entries),
        "models": [entry.results.model for entry in entries],
        "recipes": recipes,
        "differs": differing(recipes),
        "provenance": provenance(),
    }
    return templates().get_template("comparison.html").render(context)


def svg_file(drawn: Chart | Drawing) -> str:
    """A chart as a file of its own, in the page's colours."""
    template = "macros.html" if isinstance(drawn, Chart) else "drawing.html"
    module: Any = templates().get_template(template).make_module({"css": None, "keys": None})
    markup = str(module.chart(drawn) if isinstance(drawn, Chart) else module.drawing(drawn))
    style = "".join(
        (folder / name).read_text() for folder, name in ((TEMPLATES, "style.css"), (OWN_TEMPLATES, "study.css"))
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawn.width}" height="{drawn.height}"'
    paper = "svg { background: var(--paper); font-family: sans-serif; padding: 12px; }"
    return markup.strip().replace("<svg", head, 1).replace("<title>", f"<style>{style}{paper}</style><title>", 1)


def verdict(results: Results) -> list[str]:
    """The winner in one sentence, and then how far the study's own values could be trusted."""
    said = gain_text(results)
    sentences = [f"{said[0].upper()}{said[1:]}, over {_count(len(results.winner.finals), 'fresh seed')}."]
    found, best = results.optimism, results.best
    if found and best is not None and found.best is not results.start:
        place = "still the best" if found.place == 1 else f"number {found.place} of {len(results.finalists)}"
        kept = f", and kept {found.kept:.0%} of its advantage" if found.kept is not None else ""
        sentences.append(f"The best of the study, trial {found.best.trial}, was {place} when trained anew{kept}.")
    if results.diverged:
        sentences.append(f"{_count(len(results.diverged), 'trial')} of {len(results.trials)} diverged.")
    return sentences


def cost_text(results: Results) -> str:
    """What the study cost, in words."""
    typical, total = charts.typical_seconds(results), len(results.trials)
    devices = sorted({t.user_attrs["device"] for t in results.trials if "device" in t.user_attrs})
    where = f" on {', '.join(devices)}" if devices else ""
    return (
        f"{_count(total, 'trial')}: {len(results.complete)} complete, {len(results.pruned)} pruned, "
        f"{len(results.diverged)} diverged. {steps_of(results.trials):,} steps were trained, {results.cost:.0%} of "
        f"those without pruning, in {digits(seconds_of(results.trials))} s of training{where}"
        + (f" ({digits(typical)} s for a typical complete trial)" if typical is not None else "")
        + f"; the finals took {steps_of(results.finals):,} steps and {digits(seconds_of(results.finals))} s more."
    )


def luck(results: Results) -> list[tuple[str, str]]:
    """What became of the study's order and of its best trial's advantage, as rows of name and text."""
    found = results.optimism
    if found is None:
        return [("finalists with a value in the study", "none")]
    few = f"not said of {found.count} finalists"
    best = "the recipe as it was" if found.best is results.start else f"trial {found.best.trial}"
    rows = [
        ("finalists with a value in the study", str(found.count)),
        ("Spearman's rank correlation, study to finals", few if found.spearman is None else number(found.spearman, 2)),
        ("Kendall's", few if found.kendall is None else number(found.kendall, 2)),
        ("best in the study", best),
        ("its place anew", f"{found.place} of {len(results.finalists)}"),
    ]
    for name, value in (("in the study", found.in_study), ("anew", found.anew)):
        text = DASH if value is None else f"{value:.3f}"
        rows.append((f"its value to that of the recipe as it was, {name}", text))
    rows.append(("part of its advantage that is left", DASH if found.kept is None else f"{found.kept:.0%}"))
    return rows


def finals_table(results: Results, about: Subject) -> dict[str, Any]:
    """The finalists by rank, as text."""
    places = decimals(value for finalist in results.finalists for value in finalist.finals)
    varied = list(results.settings["space"])
    columns = [f"mean {about.metric}", "95% interval", f"{TIMES} floor", "seeds", "diverged", "in the study"]
    columns += [f"mean {results.against}", *varied] if results.against else varied
    rows = []
    for rank, finalist in enumerate(results.ranked, 1):
        start = finalist is results.start
        css = "m2" if start else "m1" if finalist is results.winner else "m0"
        ratio = number(finalist.mean / about.floor, 2) if finalist.finals and about.floor > 0 else DASH
        proxy = DASH if finalist.proxy is None else number(finalist.proxy, places)
        cells = [*_mean_cells(finalist, places), ratio, str(len(finalist.finals)), str(len(finalist.diverged)), proxy]
        if results.against:
            cells.append(DASH if finalist.cost is None else digits(finalist.cost))
        cells += [short(finalist.values.get(name, DASH)) for name in varied]
        name = f"{finalist.trial}, the recipe as it was" if start else str(finalist.trial)
        rows.append({"rank": rank, "name": name, "css": css, "cells": cells})
    return {"columns": columns, "rows": rows}


def trials_table(results: Results) -> dict[str, Any]:
    """All trials, as text."""
    names = list(results.settings["space"])
    places = decimals(distance_of(trial) or 0.0 for trial in results.complete)
    rows = []
    for trial in results.trials:
        distance, wall = distance_of(trial), wall_seconds(trial)
        value = DASH if distance is None else number(distance, places)
        images = images_of({**results.settings["recipe"], **trial.params}, trial)
        cells = [str(trial.number), state_of(trial), value, f"{trial.user_attrs.get('steps', 0):,}"]
        cells += [f"{images:,}", digits(trial.user_attrs.get("seconds", 0.0))]
        cells += [DASH if wall is None else digits(wall), *(short(trial.params.get(n, DASH)) for n in names)]
        rows.append(cells)
    return {"columns": ["trial", "state", "value", "steps", "images", "training s", "wall s", *names], "rows": rows}


def comparison_rows(entries: Sequence[Entry]) -> dict[str, Any]:
    """The models by rank, as text."""
    finals = [f for entry in entries for f in (entry.results.start, entry.results.winner)]
    places = decimals(value for finalist in finals for value in finalist.finals)
    rows = []
    for entry in entries:
        results, found = entry.results, entry.results.gain
        cells = [*_mean_cells(results.winner, places), *_mean_cells(results.start, places)]
        cells.append(DASH if entry.rank_untuned is None else str(entry.rank_untuned))
        cells.append(number(found.gap, places) if found else DASH)
        cells.append(interval(found.interval, places) if found and found.interval else DASH)
        cells += [str(len(results.winner.finals)), str(len(results.trials)), f"{steps_of(results.trials):,}"]
        cells.append(digits(seconds_of(results.trials)))
        rank = DASH if entry.rank_tuned is None else str(entry.rank_tuned)
        rows.append({"rank": rank, "name": results.model, "css": f"m{entry.index % 8}", "cells": cells})
    columns = ["tuned mean", "95% interval", "untuned mean", "95% interval", "untuned rank", "better by",
               "95% interval", "seeds", "trials", "steps trained", "training s"]  # fmt: skip
    return {"columns": columns, "rows": rows}


def grids(results: Results) -> list[dict[str, Any]]:
    """The last grids of the recipe as it was, of the best and of the worst complete trials; path None where missing."""
    order = sorted(results.complete, key=lambda trial: (distance_of(trial), trial.number))
    worst = order[max(SHOWN, len(order) - SHOWN) :]
    chosen: dict[int, tuple[FrozenTrial, str]] = {}
    start = results.start_trial
    if start is not None and state_of(start) == "complete":
        chosen[start.number] = start, "m2"
    for trial in [*order[:SHOWN], *worst]:
        chosen.setdefault(trial.number, (trial, "m1" if trial is order[0] else "m0"))
    places = decimals(distance_of(trial) or 0.0 for trial in order)
    return [
        {
            "name": "start" if css == "m2" else f"trial {trial.number}",
            "css": css,
            "value": number(distance_of(trial) or 0.0, places),
            "path": _grid(trial),
        }
        for trial, css in chosen.values()
    ]


def _grid(trial: FrozenTrial) -> Path | None:
    name = Path(str(trial.user_attrs.get("work_folder", ""))).name
    if not name:
        return None
    return max((paths.root() / ".work" / name / "grids").glob("*.png"), default=None)


def _width(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def _mean_cells(finalist: Finalist, places: int) -> list[str]:
    mean = number(finalist.mean, places) if finalist.finals else "diverged"
    return [mean, interval(finalist.interval, places) if finalist.interval else DASH]


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
