"""Stage generate: the final samples of one trained generator, and pictures of them."""

from pipeline import layout
from pipeline.checkpoint import load_generator
from pipeline.data import load_description
from pipeline.devices import choose_device
from pipeline.errors import exit_cleanly
from pipeline.experiment import Experiment, generate_samples
from pipeline.stages import begin, experiment_options


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options, params = experiment_options(arguments), begin()
    description = load_description(layout.PREPARED)
    experiment = Experiment(params, options.model, options.seed, description)
    run, out = layout.RUNS / experiment.name, layout.SAMPLES / experiment.name
    generator, info = load_generator(run, params.generate.weights)
    generator.to(choose_device(params.runtime.device))
    generate_samples(generator, info, params, params.generate.samples or description["train"], run / "grids", out)
    with experiment.open_tracker() as tracker:
        tracker.artifact(out / "grid.png", "final")
        tracker.artifact(out / "progress.gif", "final")


if __name__ == "__main__":
    main()
