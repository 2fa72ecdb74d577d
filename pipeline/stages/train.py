"""Stage train: one recipe with one seed, from its newest checkpoint if there is one."""

import signal
import sys
import threading

from pipeline import layout
from pipeline.data import load_description, load_images
from pipeline.devices import choose_device
from pipeline.errors import exit_cleanly
from pipeline.experiment import Experiment, Interrupted, Observer, train_experiment, write_run
from pipeline.files import exclusive
from pipeline.metrics import load_extractor, load_reference
from pipeline.stages import begin, experiment_options


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options, params = experiment_options(arguments), begin()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    device = choose_device(params.runtime.device)
    experiment = Experiment(params, options.model, options.seed, load_description(layout.PREPARED))
    images = load_images(layout.PREPARED, "train", device)
    extractor = load_extractor(params.metrics, device)
    reference = load_reference(layout.REFERENCE, extractor)
    work = experiment.work_folder()
    with exclusive(work, experiment.name), experiment.open_tracker() as tracker:
        tracker.params({**experiment.recipe.model_dump(), **params.train.model_dump(), "seed": experiment.seed})
        tracker.tags(experiment.tags())
        observer = Observer(experiment, extractor, reference, tracker, work / "grids")
        try:
            state, progress = train_experiment(experiment, images, observer, stop.is_set)
        except Interrupted:
            tracker.close("KILLED")
            sys.exit("stopped, and its checkpoint is written; run the same command again to continue")
        out = layout.RUNS / experiment.name
        write_run(experiment, state, progress, observer, out)
        if params.runtime.log_model:
            tracker.model(out)


if __name__ == "__main__":
    main()
