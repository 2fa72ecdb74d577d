"""Stage report: the comparison on one page, and the leaderboard."""

from pipeline.core import paths
from pipeline.core.errors import PipelineError, exit_cleanly
from pipeline.params import Params
from pipeline.report import write_report
from pipeline.report.conclusions import best_run
from pipeline.report.results import Results
from pipeline.stages import begin, finish, no_options, take
from pipeline.tracking.tracker import Tracker, measured_run

SHOWN = ["rank", "model", "seed", "metric", "value", "ratio_to_floor"]


@exit_cleanly
def main() -> None:
    params = begin(computes=False)
    _require_inputs(params)
    results, table = write_report(params, paths.REPORTS)
    print(table[SHOWN].to_string(index=False, float_format="{:.2f}".format))
    print(f"report: {paths.REPORTS / 'report.html'}")
    if params.runtime.tracking:
        _tell_mlflow(results, params.runtime.log_model)
    finish(params, "compare", "metrics", "generate")


def _tell_mlflow(results: Results, models: bool) -> None:
    """Give each ranking a view in MLflow and, with `models`, the model that is named the best the alias `best`."""
    best = best_run(results)
    for group in results.groups:
        runs = [run for ranked in group.ranking for run in ranked.runs]
        run = next((run for run in runs if run is best), runs[0])
        folder = measured_run(run.name, str(run.info["fingerprint"]))
        if folder:
            with Tracker(folder, "", run.name) as tracker:
                tracker.ranked_by(results.metric)
                if models and run is best:
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
    no_options(__doc__)
    main()
