"""Stage report: the comparison on one page, and the leaderboard."""

import pandas as pd

from pipeline.core import paths
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import read_json
from pipeline.params import Params
from pipeline.report import write_report
from pipeline.stages import begin, finish, take
from pipeline.tracking.tracker import Tracker, measured_run

SHOWN = ["rank", "model", "seed", "metric", "value", "ratio_to_floor"]


@exit_cleanly
def main() -> None:
    params = begin(computes=False)
    _require_inputs(params)
    table = write_report(params, paths.REPORTS)
    print(table[SHOWN].to_string(index=False, float_format="{:.2f}".format))
    print(f"report: {paths.REPORTS / 'report.html'}")
    if params.runtime.tracking and params.runtime.log_model:
        _tell_best(table)
    finish(params, "compare")


def _tell_best(table: pd.DataFrame) -> None:
    """Give the model that is ranked first MLflow's alias `best`; none where all have collapsed."""
    standing = table[table["collapsed"] == ""]
    for model, seed in standing[["model", "seed"]].head(1).values.tolist():
        name = paths.experiment_name(model, seed)
        folder = measured_run(name, str(read_json(paths.RUNS / name / "generator.json")["fingerprint"]))
        if folder:
            with Tracker(folder, "", name) as tracker:
                tracker.best()


def _require_inputs(params: Params) -> None:
    take(paths.PREPARED, "dataset.json", "train.npy")
    take(paths.REFERENCE, "floor.json")
    for model in params.compare.models:
        for seed in params.compare.seeds:
            name = paths.experiment_name(model, seed)
            take(paths.RUNS / name, "generator.json", "history.csv", "grids")
            take(paths.SAMPLES / name, "grid.png", "progress.gif", "final")
            take(paths.SCORES / name)


if __name__ == "__main__":
    main()
