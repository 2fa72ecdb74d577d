"""The whole family on digits and on MNIST under an equal budget: of CPU seconds, and of images.

    python -m benchmarks.equal_budget [--data digits | mnist --root DIR] [--seeds 0 1 2] [RECIPE ...]

DIR holds MNIST as torchvision lays it out (DIR/MNIST/raw): 10,000 of its images, of 16 pixels as the digits are. Every
recipe of presets/digits.yaml, with its networks and settings, but a constant learning rate: so one training serves both
budgets. It goes on until D has seen `IMAGES` real images and `SECONDS` CPU seconds are spent, on one
thread, and 500 samples of the average of G are held against the training images when each budget is reached, by
`fd_efficientnet_lite0`. The untrained G's distance, on the same latents, stands beside.

It writes docs/equal_budget.csv (of MNIST equal_budget_mnist.csv), a row a training, and prints a table of
docs/equal_budget.md. What is done already is not done again, also by processes side by side, each with recipes or seeds
of its own: delete .work/equal-budget to start anew.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import trainings
from benchmarks.trainings import CPU, Data, pixels_of
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import write_bytes
from pipeline.gan.state import TrainState, create_state
from pipeline.metrics import Extractor, Gaussian, frechet_distance, load_extractor
from pipeline.params import PRESETS, load

WORK, DOCS = Path(".work/equal-budget"), Path("docs")
SECONDS, IMAGES, SAMPLES, SEEDS = 20.0, 6400, 500, (0, 1, 2)
LONGEST = 60.0  # CPU seconds after which a recipe that has not seen `IMAGES` is given up
PARAMS = load(PRESETS / "digits.yaml")
RECIPES = tuple(PARAMS.models)
MNIST = {"data.dataset": "mnist", "data.limit": 10_000}


def measure(recipe: str, seed: int, data: Data, extractor: Extractor, real: Gaussian) -> dict[str, Any]:
    """Train a recipe; its row of docs/equal_budget.csv."""
    values = PARAMS.models[recipe].model_copy(update={"lr_decay": "none"})
    budget = PARAMS.train.model_copy(update={"steps": 10**6})
    found: dict[str, Any] = {}

    def distance(state: TrainState) -> float:
        images = trainings.samples(state, data.description["class_counts"], SAMPLES, values.latent_dim)
        return round(frechet_distance(Gaussian.from_features(trainings.features(extractor, images)), real), 1)

    def look(state: TrainState, seconds: float) -> bool:
        images = state.step * values.n_critic * values.batch_size
        if "by_images" not in found and images >= IMAGES:
            found.update(by_images=distance(state), seconds_of_images=round(seconds, 1))
        if "by_seconds" not in found and seconds >= SECONDS:
            found.update(by_seconds=distance(state), images_of_seconds=images)
        return ("by_images" in found and "by_seconds" in found) or seconds > LONGEST

    untrained = create_state(values, budget, data.shape, data.train.n_classes, seed, CPU)
    row = {"recipe": recipe, "seed": seed, "untrained": distance(untrained)}
    diverged = trainings.trained(values, budget, data.train, data.shape, seed, look)[2]
    return row | found | {"diverged": diverged}


def table(rows: pd.DataFrame) -> Iterator[str]:
    """The lines of docs/equal_budget.md's table, the best by seconds first."""
    order = rows.groupby("recipe")["by_seconds"].mean().sort_values().index
    lines = []
    for recipe in order:
        chosen = rows[rows["recipe"] == recipe]
        told = [spread(chosen[name].tolist()) for name in ("untrained", "by_seconds", "by_images")]
        images, seconds = chosen["images_of_seconds"].mean(), chosen["seconds_of_images"].mean()
        lines.append([recipe, told[0], told[1], f"{images:,.0f}", told[2], f"{seconds:.0f}"])
    head = ["recipe", "untrained", f"after {SECONDS:.0f} CPU seconds", "images seen by then"]
    return trainings.markdown([*head, f"after {IMAGES:,} images", "CPU seconds by then"], lines)


def spread(values: Sequence[float]) -> str:
    """The mean over seeds and, of several, the lowest and the highest: two or three seeds give no useful interval."""
    mean = f"{np.mean(values):.0f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.0f} to {max(values):.0f})"


def draw(rows: pd.DataFrame, out: Path) -> None:
    """Both distances of each recipe."""
    from matplotlib.figure import Figure

    means = rows.groupby("recipe")[["by_seconds", "by_images"]].mean().sort_values("by_seconds", ascending=False)
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes, places = figure.subplots(), np.arange(len(means))
    axes.barh(places + 0.2, means["by_seconds"], 0.4, label=f"after {SECONDS:.0f} CPU seconds")
    axes.barh(places - 0.2, means["by_images"], 0.4, label=f"after {IMAGES:,} images")
    axes.set_yticks(places, list(means.index), fontsize=8)
    axes.set(xlabel="fd_efficientnet_lite0, lower is better")
    axes.legend()
    figure.savefig(out, dpi=70, metadata={"Software": ""})


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--root", help="the folder that holds MNIST")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    trainings.one_thread()
    mnist = options.data == "mnist"
    params = PARAMS.override({**MNIST, "data.root": options.root}) if mnist else PARAMS
    work, name = WORK / options.data, "equal_budget_mnist" if mnist else "equal_budget"
    data, extractor = trainings.data_of(params, work / "prepared"), load_extractor(params.metrics, CPU)
    real = Gaussian.from_features(trainings.features(extractor, pixels_of(data.train)))
    rows = []
    for seed, recipe in itertools.product(options.seeds, options.recipes):
        path = work / f"{recipe}-{seed}.json"
        rows.append(trainings.kept(path, measure, recipe, seed, data, extractor, real))
    columns = ["recipe", "seed", "untrained", "by_seconds", "images_of_seconds", "by_images", "seconds_of_images"]
    frame = pd.DataFrame(rows)[[*columns, "diverged"]]
    write_bytes(DOCS / f"{name}.csv", frame.to_csv(index=False).encode())
    draw(frame, DOCS / f"{name}.png")
    floor = frechet_distance(Gaussian.from_features(trainings.features(extractor, pixels_of(data.test))), real)
    print("\n".join([*table(frame), "", f"held-out images: {floor:.0f}"]))


if __name__ == "__main__":
    main()
