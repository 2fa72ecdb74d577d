"""Stage report: the comparison on one page, and the leaderboard."""

from pipeline.core import paths
from pipeline.core.errors import PipelineError, exit_cleanly
from pipeline.params import Params
from pipeline.report import write_report
from pipeline.report.conclusions import best_run
from pipeline.report.results import Results
from pipeline.stages import begin, finish, take
from pipeline.tracking.tracker import Tracker, measured_run

SHOWN = ["rank", "model", "seed", "metric", "value", "ratio_to_floor"]


@exit_cleanly
def main() -> None:
    params = begin(computes=False)
    _require_inputs(params)
    results, table = write_report(params, paths.REPORTS)
    print(table[SHOWN].to_string(index=False, float_format="{:.2f}".format))
    print(f"report: {paths.REPORTS / 'report.html'}")
    if params.runtime.tracking and params.runtime.log_model:
        _tell_best(results)
    finish(params, "compare")


def _tell_best(results: Results) -> None:
    """Give the model that the report names the best MLflow's alias `best`; none where no model is."""
    best = best_run(results)
    folder = measured_run(best.name, str(best.info["fingerprint"])) if best else None
    if best and folder:
        with Tracker(folder, "", best.name) as tracker:
            tracker.best()


def _require_inputs(params: Params) -> None:
    take(paths.PREPARED, "dataset.json", "train.npy")
    take(paths.REFERENCE, "floor.json")
    for model in params.compare.models:
        for seed in params.compare.seeds:
            name = paths.experiment_name(model, seed)
            run, samples = paths.RUNS / name, paths.SAMPLES / name
            for path in (run, samples, paths.CLOSEST / f"{name}.png"):
                if not path.exists():  # no dependency in dvc.yaml, so DVC may not have fetched it
                    raise PipelineError(f"{path} is not here: `dvc pull` fetches it, or `dvc repro` makes it")
            take(paths.SCORES / name)
            take(run, "generator.json", "history.csv", "grids")
            take(samples, "grid.png", "progress.gif", "final")


if __name__ == "__main__":
    main()
