"""Stage fid: the distance of one model's samples to the real images, with the protocol by which it was measured."""

import numpy as np

from pipeline import layout
from pipeline.data import load_array, load_description
from pipeline.devices import choose_device
from pipeline.errors import exit_cleanly
from pipeline.experiment import Experiment, score_samples
from pipeline.files import read_json
from pipeline.metrics import load_extractor, load_reference
from pipeline.stages import begin, experiment_options


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options, params = experiment_options(arguments), begin()
    experiment = Experiment(params, options.model, options.seed, load_description(layout.PREPARED))
    extractor = load_extractor(params.metrics, choose_device(params.runtime.device))
    reference = load_reference(layout.REFERENCE, extractor)
    info = read_json(layout.RUNS / experiment.name / "generator.json")
    count = params.generate.samples or experiment.description["train"]
    images = load_array(layout.SAMPLES / experiment.name / "images.npy", np.uint8, (count, *experiment.image_shape))
    metrics = score_samples(images, info, params, extractor, reference, layout.SCORES / experiment.name)
    value, floor = metrics[extractor.metric], metrics["floor"]
    print(f"{experiment.name}: {extractor.metric} {value:.2f}, {value / floor:.2f} times the floor of {floor:.2f}")
    with experiment.open_tracker() as tracker:
        tracker.metrics(info["steps"], {key: metrics[key] for key in (extractor.metric, "floor", "ratio_to_floor")})
        tracker.tags({f"protocol.{key}": str(text) for key, text in metrics["protocol"].items()})


if __name__ == "__main__":
    main()
