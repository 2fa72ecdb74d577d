"""What is left of studies that are over: tables, pages, and what MLflow is told of them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.files import write_bytes
from pipeline.search import charts
from pipeline.search.comparison import compare
from pipeline.search.export import write, write_comparison
from pipeline.search.page import Subject, render, render_comparison, subject, svg_file
from pipeline.search.record import slug, track_progress
from pipeline.search.results import Results, gain_text
from pipeline.tracking import Tracker


def publish(results: Results, tracker: Tracker) -> Path:
    """Write a study's tables and its page to reports/studies/<study>, tell MLflow, and return the page's path."""
    about, folder = subject(), layout.REPORTS / "studies" / slug(results.study)
    files = write(results, folder)
    page = folder / "study.html"
    write_bytes(page, render(results, about).encode())
    track(tracker, results, about, [*files, page])
    return page


def publish_comparison(studies: Sequence[Results]) -> Path:
    """Write the comparison of several studies to reports/studies, and return the page's path."""
    folder = layout.REPORTS / "studies"
    write_comparison(compare(studies), folder)
    page = folder / "comparison.html"
    write_bytes(page, render_comparison(studies, subject()).encode())
    return page


def track(tracker: Tracker, results: Results, about: Subject, files: Sequence[Path]) -> None:
    """Log what a study found: its progress, its finals, the winner as tags, and as artifacts `files` and the charts."""
    track_progress(tracker, results.trials)
    for name, finalist in (("winner", results.winner), ("start", results.start)):
        if finalist.finals:
            tracker.metrics(len(results.trials), {f"finals/{name}": finalist.mean})
    winner = {f"winner.{name}": str(value) for name, value in results.winner.values.items()}
    tracker.tags({"winner": f"trial {results.winner.trial}", "verdict": gain_text(results), **winner})
    for path in files:
        tracker.artifact(path, "study")
    with tempfile.TemporaryDirectory() as folder:
        for name, drawn in drawings(results, about.metric).items():
            write_bytes(Path(folder) / f"{name}.svg", svg_file(drawn).encode())
            tracker.artifact(Path(folder) / f"{name}.svg", "charts")


def drawings(results: Results, metric: str) -> dict[str, Any]:
    """The charts of the study's page by name, those that there are."""
    shares = charts.importances(results)
    found = {
        "history": charts.history(results, "trials", metric),
        "history_cost": charts.history(results, "steps", metric),
        "intermediate_values": charts.curves(results, metric),
        "finals": charts.finals_chart(results, metric),
        "importances": charts.importance_bars(shares) if shares else None,
        "contour": charts.field(results, list(shares or results.settings["space"]), metric),
        "parallel_coordinates": charts.parallel(results, metric),
    }
    slices = zip(results.settings["space"], charts.slices(results, metric), strict=True)
    found |= {f"slice_{name}": drawn for name, drawn in slices}
    return {name: drawn for name, drawn in found.items() if drawn is not None}
