"""What is left of studies that are over: tables, pages, and what MLflow is told of them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core import paths
from pipeline.core.files import write_bytes
from pipeline.report.charts import Chart
from pipeline.search.pages import charts
from pipeline.search.pages.comparison import compare
from pipeline.search.pages.drawing import Drawing
from pipeline.search.pages.export import write, write_comparison
from pipeline.search.pages.page import render, render_comparison, subject, svg_file
from pipeline.search.study.mlflow_run import slug, track_progress
from pipeline.search.study.results import Results, gain_text
from pipeline.tracking.tracker import Tracker


def publish(results: Results, tracker: Tracker) -> Path:
    """Write a study's tables and its page to reports/studies/<study>, tell MLflow, and return the page's path."""
    about, folder = subject(), paths.REPORTS / "studies" / slug(results.study)
    drawn = charts.drawings(results, about.metric)
    files = write(results, folder)
    page = folder / "study.html"
    write_bytes(page, render(results, about, drawn).encode())
    track(tracker, results, drawn, [*files, page])
    return page


def publish_comparison(studies: Sequence[Results]) -> Path:
    """Write the comparison of several studies to reports/studies, and return the page's path."""
    folder = paths.REPORTS / "studies"
    write_comparison(compare(studies), folder)
    page = folder / "comparison.html"
    write_bytes(page, render_comparison(studies, subject()).encode())
    return page


def track(tracker: Tracker, results: Results, drawn: Mapping[str, Chart | Drawing], files: Sequence[Path]) -> None:
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
        for name, chart in drawn.items():
            write_bytes(Path(folder) / f"{name}.svg", svg_file(chart).encode())
            tracker.artifact(Path(folder) / f"{name}.svg", "charts")
