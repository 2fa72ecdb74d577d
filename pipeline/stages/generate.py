"""Stage generate: samples of one trained generator and of its best checkpoint, and pictures of them."""

import math

from pipeline.core import paths
from pipeline.core.devices import memory_errors
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import require_space
from pipeline.core.ranks import find_place, open_world, rank_command
from pipeline.core.world import SAMPLES
from pipeline.data.prepared import load_description
from pipeline.experiment import Experiment
from pipeline.gan.checkpoint import load_generator
from pipeline.sampling.generation import generate_samples, sample_settings, wanted_labels
from pipeline.sampling.shared import follow_samples
from pipeline.stages import agreed, begin, experiment_options, finish, take


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options, params = experiment_options(arguments), begin()
    take(paths.PREPARED, "dataset.json")
    description = load_description(paths.PREPARED)
    experiment = Experiment(params, options.model, options.seed, description)
    run, out = paths.RUNS / experiment.name, paths.SAMPLES / experiment.name
    take(run, "generator.safetensors", "best.safetensors", "generator.json", "grids")
    place, weights = find_place(params.runtime.device, params.runtime.devices), params.generate.weights
    generator, info = load_generator(run, weights)
    generators = {"images": generator.to(place.device)}
    if info["best"]["step"] != info["steps"]:
        generators["best"] = load_generator(run, weights, "best")[0].to(place.device)
    wanted = wanted_labels(params.generate, description)
    require_space(out, (len(generators) + params.generate.png_folder) * len(wanted) * math.prod(info["image_shape"]))
    command, same = rank_command(__spec__, arguments), agreed(params, description["sha256"])
    with memory_errors("lower generate.batch_size"), open_world(place, command, [], same) as world:
        if world.rank:
            settings = sample_settings(info, params)
            world.follow({SAMPLES: follow_samples(world, list(generators.values()), wanted, settings)})
            return
        generate_samples(generators, wanted, info, params, run / "grids", out, description["classes"], world)
    with experiment.open_tracker() as tracker:
        tracker.artifact(out / "grid.png", "final")
        tracker.artifact(out / "progress.gif", "final")
        if params.runtime.log_model:  # of another protocol than that of the training, this is another run
            tracker.model(run)
    finish(params, "generate")


if __name__ == "__main__":
    main()
