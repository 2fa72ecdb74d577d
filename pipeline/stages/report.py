"""Stage report: the comparison on one page, and the leaderboard."""

from pipeline import layout
from pipeline.checksums import require_whole
from pipeline.errors import exit_cleanly
from pipeline.params import Params
from pipeline.report import write_report
from pipeline.stages import begin, finish

SHOWN = ["rank", "model", "seed", "metric", "value", "ratio_to_floor"]


@exit_cleanly
def main() -> None:
    params = begin()
    _require_inputs(params)
    table = write_report(params, layout.REPORTS)
    print(table[SHOWN].to_string(index=False, float_format="{:.2f}".format))
    print(f"report: {layout.REPORTS / 'report.html'}")
    finish(params, "compare")


def _require_inputs(params: Params) -> None:
    require_whole(layout.PREPARED, "dataset.json", "train.npy")
    require_whole(layout.REFERENCE, "floor.json")
    for model in params.compare.models:
        for seed in params.compare.seeds:
            name = layout.experiment_name(model, seed)
            require_whole(layout.RUNS / name, "generator.json", "history.csv", "grids")
            require_whole(layout.SAMPLES / name, "grid.png", "progress.gif", "final")
            require_whole(layout.SCORES / name)


if __name__ == "__main__":
    main()
