"""Stage train: one recipe with one seed, from its newest checkpoint if there is one."""

import sys

from pipeline import layout
from pipeline.checksums import require_whole
from pipeline.data import load_description, load_images
from pipeline.devices import choose_device, memory_errors
from pipeline.errors import exit_cleanly, say
from pipeline.experiment import Experiment
from pipeline.files import exclusive
from pipeline.metrics import load_extractor, load_reference
from pipeline.observer import Observer
from pipeline.params import Params
from pipeline.stages import begin, experiment_options, finish, stop_signals
from pipeline.trainer import Interrupted, train_experiment, write_run


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options, params = experiment_options(arguments), begin()
    require_whole(layout.PREPARED)
    require_whole(layout.REFERENCE)
    received = stop_signals()
    experiment = Experiment(params, options.model, options.seed, load_description(layout.PREPARED))
    remedy = f"lower models.{options.model}.batch_size, width_g or width_d, or metrics.batch_size"
    with exclusive(experiment.work_folder(), experiment.name), memory_errors(remedy):
        try:
            _train(experiment, params, received)
        except Interrupted:
            say("stopped with its checkpoint written: run the same command again to continue")
            sys.exit(128 + received[0])
    recipe = f"models.{options.model}"
    finish(params, "train", recipe, "metrics.extractor", "metrics.weights", "metrics.unknown_weights")


def _train(experiment: Experiment, params: Params, received: list[int]) -> None:
    device = choose_device(params.runtime.device)
    images = load_images(layout.PREPARED, "train", device)
    extractor = load_extractor(params.metrics, device)
    reference = load_reference(layout.REFERENCE, extractor)
    with experiment.open_tracker() as tracker:
        grids = experiment.work_folder() / "grids"
        observer = Observer(experiment, extractor, reference, tracker, grids, stopping=lambda: bool(received))
        state, progress = train_experiment(experiment, images, observer)
        out = layout.RUNS / experiment.name
        write_run(experiment, state, progress, observer, out)
        if params.runtime.log_model:
            tracker.model(out)


if __name__ == "__main__":
    main()
