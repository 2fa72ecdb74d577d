"""Do the later recipes of presets/digits.yaml learn digits in five minutes on one CPU core?

    python -m benchmarks.digits_recipes [RECIPE ...]

Each is trained once, as the preset has it, for `train.steps` or five CPU minutes, whichever ends first. Before and
after, 1,438 samples of the same latents are held against the training images: by `fd_efficientnet_lite0`, and by the
Fréchet distance of their pixels averaged over 2 x 2.

It replaces the rows of these recipes in docs/digits.csv and prints the table of docs/recipes.md.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.trainings import one_thread
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import write_bytes
from pipeline.data.prepared import load_description, load_images, prepare
from pipeline.gan.flow import loss_of
from pipeline.gan.state import TrainState
from pipeline.gan.step import create_state, train
from pipeline.metrics import Gaussian, extract, load_extractor, load_reference, measure_reference
from pipeline.metrics.frechet import frechet_distance
from pipeline.params import PRESETS, load
from pipeline.sampling.images import labels, sample

WORK, RECORD = Path(".work/digits-recipes"), Path("docs/digits.csv")
RECIPES = ("r3gan", "biggan", "lecam_biggan", "pac_dcgan", "stylegan2", "stylegan2_ada", "flow")
MINUTES, SEED, LATENTS = 5.0, 0, 1000
PARAMS = load(PRESETS / "digits.yaml").override({"metrics.bootstrap": 0})
CPU = torch.device("cpu")


def pixels(images: Tensor) -> np.ndarray:
    """Images uint8 (N, 1, 16, 16) as 64 numbers from 0 to 1 each, float64 (N, 64)."""
    means: np.ndarray = avg_pool2d(images.double() / 255, 2).flatten(1).numpy()
    return means


def measure(recipe: str) -> dict[str, Any]:
    """Train a recipe, and return its row of docs/digits.csv."""
    values, description = PARAMS.models[recipe], load_description(WORK / "prepared")
    extractor = load_extractor(PARAMS.metrics, CPU)
    reference, real = load_reference(WORK / "reference", extractor), load_images(WORK / "prepared", "train", CPU)
    assert isinstance(real.images, Tensor)
    of_pixels = Gaussian.from_features(pixels(real.images))
    shape, classes = tuple(description["image_shape"]), len(description["classes"])
    state = create_state(values, PARAMS.train, shape, classes, SEED, CPU)

    def distances() -> tuple[float, float]:
        assert state.ema is not None
        asked = labels("data", description["class_counts"], description["train"])
        images = list(sample(state.ema, asked, LATENTS, PARAMS.generate.batch_size, values.latent_dim))
        features = np.concatenate(list(extract(extractor, iter(images))))
        return reference.distance(features), frechet_distance(
            Gaussian.from_features(pixels(torch.cat(images))), of_pixels
        )

    before, minutes = distances(), _train(state, real, recipe)
    after = distances()
    return {
        "recipe": recipe,
        "steps": state.step,
        "cpu_minutes": round(minutes, 2),
        "untrained": round(before[0], 1),
        "trained": round(after[0], 1),
        "untrained_pixels": round(before[1], 3),
        "trained_pixels": round(after[1], 3),
    }


def _train(state: TrainState, images: Any, recipe: str) -> float:
    """Train to the end or for `MINUTES`; the CPU minutes it took."""
    values, started = PARAMS.models[recipe], time.process_time()
    for _ in train(state, images, loss_of(values), values, PARAMS.train):
        if time.process_time() - started > 60 * MINUTES:
            break
    return (time.process_time() - started) / 60


def table(rows: pd.DataFrame) -> Iterator[str]:
    """The lines of docs/recipes.md's table."""
    yield "| recipe | steps | CPU minutes | untrained | trained | ratio | ratio in pixels |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows.to_dict("records"):
        ratio, of_pixels = row["untrained"] / row["trained"], row["untrained_pixels"] / row["trained_pixels"]
        yield (
            f"| {row['recipe']} | {row['steps']} | {row['cpu_minutes']:.1f} | {row['untrained']:.0f} "
            f"| {row['trained']:.0f} | {ratio:.1f} | {of_pixels:.1f} |"
        )


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE", help=", ".join(RECIPES))
    chosen = parser.parse_args().recipes
    one_thread()
    if not (WORK / "prepared").exists():
        prepare(PARAMS.data, WORK / "prepared")
    if not (WORK / "reference").exists():
        description, extractor = load_description(WORK / "prepared"), load_extractor(PARAMS.metrics, CPU)
        measure_reference(WORK / "prepared", description, extractor, PARAMS.metrics, WORK / "reference")
    known: list[Any] = pd.read_csv(RECORD).to_dict("records") if RECORD.exists() else []
    rows = {row["recipe"]: row for row in known}
    for recipe in chosen:
        rows[recipe] = measure(recipe)
        print(rows[recipe], flush=True)
        frame = pd.DataFrame([rows[name] for name in RECIPES if name in rows])
        write_bytes(RECORD, frame.to_csv(index=False).encode())
    print("\n".join(table(frame)))


if __name__ == "__main__":
    main()
