"""Is the error stated with a metric what the metric varies by between fresh samples of one trained generator?

    python -m benchmarks.stated_errors [--models dcgan resnet] [--steps 500] [--seeds 40]

Each recipe of presets/digits.yaml is trained once; then as many samples as there are training images are drawn with
each sampling seed and measured. It prints the table of docs/errors.md: of each metric the mean, the standard deviation
over the seeds, the mean stated error, and their ratio, with the error that the ratio has because seeds are few. Some
minutes a recipe on one CPU core; nothing is kept.
"""

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.core.devices import make_deterministic
from pipeline.core.errors import exit_cleanly
from pipeline.data.prepared import load_description, load_images, prepare
from pipeline.experiment import Experiment
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import create_state, train
from pipeline.metrics import FeatureSet, features_of, load_extractor, load_reference, measure, measure_reference
from pipeline.params import PRESETS, Params, load
from pipeline.sampling.images import labels, sample

BOOTSTRAPPED = 8  # seeds for which the distance's error is estimated: it takes longer than all else
FIRST_SEED = 1000
COLUMNS = ["recipe", "metric", "mean", "spread", "stated", "stated / spread", "+-"]


def samples(experiment: Experiment, folder: Path, seeds: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Train, and yield images uint8 (N, C, S, S) for each sampling seed, and their labels if the model is given any."""
    recipe, budget, device = experiment.recipe, experiment.params.train, torch.device("cpu")
    state = create_state(recipe, budget, experiment.image_shape, experiment.n_classes, experiment.seed, device)
    for _ in train(state, load_images(folder / "prepared", "train", device), LOSSES[recipe.loss], recipe, budget):
        pass
    generator = state.gan.generator if state.ema is None else state.ema
    wanted = labels("data", experiment.description["class_counts"], experiment.description["train"])
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        images = torch.cat(list(sample(generator, wanted, seed, 256, recipe.latent_dim))).numpy()
        yield images, wanted.numpy() if experiment.conditional else None


def table(experiment: Experiment, folder: Path, seeds: int) -> pd.DataFrame:
    """The rows of one recipe, with the columns `COLUMNS`."""
    params = experiment.params.metrics
    extractor = load_extractor(params, torch.device("cpu"))
    reference = load_reference(folder / "reference", extractor)
    found = []
    for number, (images, given) in enumerate(samples(experiment, folder, seeds)):
        title = f"{experiment.model}, seed {number + 1} of {seeds}"
        features = np.concatenate(list(features_of(extractor, images, params.batch_size, title)))
        comparison = reference.against(FeatureSet(features, given), extractor, params)
        found.append(measure(dataclasses.replace(comparison, bootstrap=params.bootstrap * (number < BOOTSTRAPPED))))
    rows = []
    for key in found[0].values:
        errors = [each.errors[key] for each in found if key in each.errors]
        values = [each.values[key] for each in found if key in each.values]
        spread = float(np.std(values, ddof=1))
        if errors and spread > 0:
            ratio = float(np.mean(errors)) / spread
            own = math.sqrt(1 / (2 * (seeds - 1)) + np.var(errors) / np.mean(errors) ** 2 / len(errors))
            rows.append([experiment.model, key, np.mean(values), spread, np.mean(errors), ratio, ratio * own])
    return pd.DataFrame(rows, columns=COLUMNS)


def prepared(params: Params, folder: Path) -> None:
    """Prepare the digits and measure their real side, in `folder`."""
    prepare(params.data, folder / "prepared")
    extractor, description = load_extractor(params.metrics, torch.device("cpu")), load_description(folder / "prepared")
    measure_reference(folder / "prepared", description, extractor, params.metrics, folder / "reference")


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stated_errors", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["dcgan", "resnet", "dcgan_conditional"])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=40)
    options = parser.parse_args(arguments)
    make_deterministic()
    torch.set_num_threads(1)
    params = load(PRESETS / "digits.yaml").override(
        {"train.steps": options.steps, "metrics.extractor": "efficientnet_lite0"}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(params, folder)
        for model in options.models:
            experiment = Experiment(params, model, 0, load_description(folder / "prepared"))
            rows = table(experiment, folder, options.seeds)
            print(rows.to_string(index=False, float_format=lambda value: f"{value:.4g}"), flush=True)


if __name__ == "__main__":
    main()
