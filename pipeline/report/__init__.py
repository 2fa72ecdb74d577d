"""The comparison on one page: report.html, a single self-contained file, and leaderboard.csv.

readers, scores             files -> checked values
results                     all files -> Results: runs, ranked models, groups of one protocol
uncertainty                 intervals over seeds, sampling noise
formatting                  numbers -> text
metric_info                 title, explanation and better direction of each further metric
ranking, metrics_table      Results -> tables of text
conclusions                 Results -> sentences
export                      Results -> leaderboard.csv
figures                     plotly's charts: one theme, inline in the page, foreign text as text
curves, board               Results -> charts; the rows of the first screen
page, templates/            Results -> HTML

Only files are read, and nothing is fetched, neither when the page is made nor when it is opened.
"""

from pathlib import Path

import pandas as pd

from pipeline.core.files import write_bytes
from pipeline.params import Params
from pipeline.report.export import leaderboard
from pipeline.report.page import render
from pipeline.report.results import Results, read_results
from pipeline.tracking.addresses import model_pages

__all__ = ["leaderboard", "read_results", "render", "write_report"]


def write_report(params: Params, out: Path) -> tuple[Results, pd.DataFrame]:
    """Write leaderboard.csv and report.html to the folder `out`, and return what they show and the leaderboard.

    Raises:
        PipelineError: results of an experiment are missing or damaged; then nothing is written.
    """
    results = read_results(params)
    pages = model_pages(params, [run.info["recipe"] for run in results.runs], results.dataset)
    table, page = leaderboard(results), render(results, pages)
    write_bytes(out / "leaderboard.csv", table.to_csv(index=False, lineterminator="\n").encode())
    write_bytes(out / "report.html", page.encode())
    return results, table
