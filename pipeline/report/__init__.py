"""The comparison on one page: report.html, which needs nothing but itself, and leaderboard.csv.

    results      files -> Results: outcomes, standings, groups of one protocol; the leaderboard
    ranking      Results -> sentences and tables of text
    page         Results -> HTML, by the templates in pipeline/templates and the charts of pipeline.charts

Only files are read, and nothing is fetched: not when the page is made, and not when it is opened.
"""

from pathlib import Path

import pandas as pd

from pipeline.files import write_bytes
from pipeline.params import Params
from pipeline.report.page import render
from pipeline.report.results import leaderboard, read_results

__all__ = ["leaderboard", "read_results", "render", "write_report"]


def write_report(params: Params, out: Path) -> pd.DataFrame:
    """Write leaderboard.csv and report.html to the folder `out`, and return the leaderboard.

    Raises:
        PipelineError: results of an experiment are missing or damaged; then nothing is written.
    """
    results = read_results(params)
    table, page = leaderboard(results), render(results)
    write_bytes(out / "leaderboard.csv", table.to_csv(index=False, lineterminator="\n").encode())
    write_bytes(out / "report.html", page.encode())
    return table
