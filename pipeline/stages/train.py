"""Stage train: one recipe with one seed, from its newest checkpoint if there is one."""

import sys

from pipeline.core import paths
from pipeline.core.devices import choose_device, memory_errors
from pipeline.core.errors import exit_cleanly, log_line
from pipeline.core.files import exclusive
from pipeline.data.prepared import load_description, load_images
from pipeline.experiment import Experiment
from pipeline.metrics import load_extractor, load_reference
from pipeline.params import Params
from pipeline.stages import begin, experiment_options, finish, stop_signals, take
from pipeline.training.monitor import TrainingMonitor
from pipeline.training.trainer import Interrupted, train_experiment, write_run


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options, params = experiment_options(arguments), begin()
    take(paths.PREPARED)
    take(paths.REFERENCE)
    received = stop_signals()
    experiment = Experiment(params, options.model, options.seed, load_description(paths.PREPARED))
    remedy = f"lower models.{options.model}.batch_size, width_g or width_d, or metrics.batch_size"
    # Another leg, or another experiment of DVC, can be the same training: the second then finds it finished.
    with exclusive(experiment.work_folder(), experiment.name, waits=lambda: not received), memory_errors(remedy):
        try:
            _train(experiment, params, received)
        except Interrupted:
            log_line("stopped with its checkpoint written: run the same command again to continue")
            sys.exit(128 + received[0])
    own = f"models.{options.model}"
    finish(params, "train", "recipe", own, "metrics.extractor", "metrics.weights", "metrics.unknown_weights")


def _train(experiment: Experiment, params: Params, received: list[int]) -> None:
    device = choose_device(params.runtime.device)
    images = load_images(paths.PREPARED, "train", device, params.runtime.resident)
    extractor = load_extractor(params.metrics, device)
    reference = load_reference(paths.REFERENCE, extractor)
    with experiment.open_tracker() as tracker:
        grids = experiment.work_folder() / "grids"
        monitor = TrainingMonitor(experiment, extractor, reference, tracker, grids, stopping=lambda: bool(received))
        state, progress = train_experiment(experiment, images, monitor)
        out = paths.RUNS / experiment.name
        write_run(experiment, state, progress, monitor, out)
        if params.runtime.log_model:
            tracker.model(out)


if __name__ == "__main__":
    main()
