"""Stage train: one recipe with one seed, from its newest checkpoint if there is one."""

import contextlib
import sys

from pipeline.core import paths
from pipeline.core.devices import keep_freed_memory, memory_errors
from pipeline.core.errors import exit_cleanly, log_line
from pipeline.core.files import exclusive, read_json
from pipeline.core.ranks import Place, find_place, open_world, rank_command
from pipeline.core.world import FEATURES, World
from pipeline.data.batches import ImageSet
from pipeline.data.prepared import load_description, load_images
from pipeline.experiment import Experiment
from pipeline.metrics import load_extractor, load_reference
from pipeline.metrics.shared import follow_features, share_among
from pipeline.stages import agreed, begin, experiment_options, finish, stop_signals, take
from pipeline.training.finished import complete_checkpoint, copy_finished, hand_over, keep_finished
from pipeline.training.monitor import TrainingMonitor


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options, params = experiment_options(arguments), begin()
    keep_freed_memory()
    take(paths.PREPARED)
    take(paths.REFERENCE)
    experiment = Experiment(params, options.model, options.seed, load_description(paths.PREPARED))
    recipe, runtime = experiment.recipe, params.runtime
    place = find_place(runtime.device, runtime.devices, recipe.batch_size, recipe.group * params.train.accumulate)
    with contextlib.ExitStack() as stack:
        if place.rank == 0:
            # Another leg, or another experiment of DVC, can be the same training: the second then finds it finished.
            stack.enter_context(exclusive(experiment.work_folder(), experiment.name, waits=True))
        received = stop_signals()  # from here on there is work to save; until here one raises, which ends the wait
        alone = place.rank == 0 and not place.given  # other ranks that torchrun has started wait for this one
        floor = read_json(paths.REFERENCE / "floor.json")
        if not alone or not hand_over(experiment, floor, paths.RUNS / experiment.name):
            _train(experiment, place, rank_command(__spec__, arguments), received)
    if place.rank == 0:
        own = f"models.{options.model}"
        finish(params, "train", "recipe", own, "metrics.extractor", "metrics.weights", "metrics.unknown_weights")


def _train(experiment: Experiment, place: Place, command: list[str], received: list[int]) -> None:
    # Imported here, because what it needs takes half a second, and a finished training does not need it.
    from pipeline.training.trainer import Interrupted, follow_training

    params = experiment.params
    own = f"models.{experiment.model}"
    remedy = f"raise train.accumulate, or lower {own}.batch_size, width_g or width_d, or metrics.batch_size"
    same = {**agreed(params, experiment.description["sha256"]), "precision": experiment.params.train.precision}
    with memory_errors(remedy), open_world(place, command, received, same) as world:
        images = load_images(paths.PREPARED, "train", place.device, params.runtime.resident)
        if world.rank:
            features = follow_features(world, params.metrics, place.device)
            follow_training(experiment, images, world, {FEATURES: features})
            return
        try:
            _lead(experiment, images, world)
        except Interrupted:
            log_line("stopped with its checkpoint written: run the same command again to continue")
            sys.exit(128 + [*received, *world.told][0])


def _lead(experiment: Experiment, images: ImageSet, world: World) -> None:
    from pipeline.training.trainer import train_experiment, write_run

    params = experiment.params
    extractor = share_among(world, load_extractor(params.metrics, images.images.device))
    reference = load_reference(paths.REFERENCE, extractor, experiment.description["sha256"])
    with experiment.open_tracker() as tracker:
        grids = experiment.work_folder() / "grids"
        monitor = TrainingMonitor(experiment, extractor, reference, tracker, grids, stopping=world.is_to_stop)
        state, progress = train_experiment(experiment, images, monitor, world=world)
        out, floor = paths.RUNS / experiment.name, reference.floor
        complete_checkpoint(experiment.work_folder(), state, progress)
        keep_finished(experiment, floor, lambda folder: write_run(experiment, state, progress, monitor, folder))
        copy_finished(experiment, out)
        if params.runtime.log_model:
            tracker.model(out)


if __name__ == "__main__":
    main()
