"""Stage report: the comparison on one page, and the leaderboard."""

from pipeline import layout
from pipeline.errors import exit_cleanly
from pipeline.report import write_report
from pipeline.stages import begin

SHOWN = ["rank", "model", "seed", "metric", "value", "ratio_to_floor"]


@exit_cleanly
def main() -> None:
    params = begin()
    table = write_report(params, layout.REPORTS)
    print(table[SHOWN].to_string(index=False, float_format="{:.2f}".format))
    print(f"report: {layout.REPORTS / 'report.html'}")


if __name__ == "__main__":
    main()
