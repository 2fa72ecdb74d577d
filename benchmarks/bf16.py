"""Does bfloat16 (`train.precision: bf16`) harm a training? Five recipes on digits and CIFAR-10, beside float32.

    python -m benchmarks.bf16 --root DIR [--data digits cifar10 ..] [--seeds 0 1 2] [--device cpu]

DIR holds CIFAR-10 and MNIST as torchvision lays them out (DIR/cifar-10-batches-py, DIR/MNIST/raw). The recipes are
those of the preset digits at the widths and batches of `SMALL`; both precisions of a seed start from the same weights
and see the same images, latents and labels. The distance is `fd_efficientnet_lite0` of 500 samples to the training
images; both are measured in float32.

The rule, set before the first run. For a seed let r be the distance with bf16 over that with fp32, less 1.
    harmless   no bf16 run diverged, and the 95% interval of the mean of r over seeds lies within -10% to +10%
    harmful    a bf16 run diverged where its fp32 run did not, or the interval lies above 0 altogether
    undecided  neither: the seeds scatter too much to tell
bf16 as a whole is harmless on a data set if no recipe is harmful and the interval of the mean of r over all recipes and
seeds lies within -10% to +10%. Presets may say `precision: auto` only if it is harmless on both.

It writes docs/bf16.csv, a row a pair, and prints docs/bf16.md's tables. What is done already is not done again: delete
.work/bf16 to start anew.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import trainings
from benchmarks.trainings import Data, mean_text, pixels_of
from pipeline.core.devices import choose_device
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import write_bytes
from pipeline.metrics import Extractor, Gaussian, frechet_distance, load_extractor
from pipeline.params import PRESETS, Params, Recipe, load
from pipeline.report.uncertainty import mean_interval

WORK, DOCS = Path(".work/bf16"), Path("docs")
RECIPES, PRECISIONS = ("dcgan", "sngan", "resnet", "sagan", "wgan_gp"), ("fp32", "bf16")
SEEDS, SAMPLES, HARMLESS = (0, 1, 2), 500, 0.1
SMALL: dict[str, dict[str, Any]] = {  # what a data set's trainings have in place of the preset's
    "digits": {"steps": 300, "width_g": 16, "width_d": 16, "batch_size": 32, "lr_g": 1e-3, "lr_d": 1e-3},
    "cifar10": {"steps": 150, "width_g": 16, "width_d": 16, "batch_size": 16, "lr_g": 1e-3, "lr_d": 1e-3},
    # Added when the two above were done, and fp32 was seen to have learnt next to nothing in them: see docs/bf16.md.
    "cifar10, longer": {"steps": 400, "width_g": 16, "width_d": 16, "batch_size": 16, "lr_g": 1e-3, "lr_d": 1e-3},
    "digits, longer": {"steps": 600, "width_g": 16, "width_d": 16, "batch_size": 32},
    # Added last.
    "mnist, small": {"steps": 300, "width_g": 16, "width_d": 16, "batch_size": 16, "lr_g": 1e-3, "lr_d": 1e-3},
    # Added when a GPU was at hand: trainings that learn.
    "mnist": {"steps": 1000, "width_g": 32, "width_d": 32, "batch_size": 64, "lr_g": 5e-4, "lr_d": 5e-4},
}
ONLY = {"digits, longer": ("wgan_gp",), "cifar10, longer": ("dcgan", "sngan"), "mnist": ("dcgan", "sngan")}
CIFAR10 = {"data.dataset": "cifar10", "data.image_size": 32, "data.channels": 3, "data.limit": 5000}
MNIST = {"data.dataset": "mnist", "data.image_size": 32, "data.channels": 1, "data.limit": 10_000}


def params_of(name: str, root: str) -> Params:
    changes = MNIST if "mnist" in name else CIFAR10
    return load(PRESETS / "digits.yaml").override({} if "digits" in name else {**changes, "data.root": root})


def recipe_of(recipe: str, name: str) -> Recipe:
    changes = {key: value for key, value in SMALL[name].items() if key != "steps"}
    return load(PRESETS / "digits.yaml").models[recipe].model_copy(update=changes)


def measure(
    name: str, recipe: str, seed: int, params: Params, data: Data, extractor: Extractor, real: Gaussian
) -> dict[str, Any]:
    """Train a recipe in both precisions; the pair's row of docs/bf16.csv."""
    values, row = recipe_of(recipe, name), {"data": name, "recipe": recipe, "seed": seed}
    for precision in PRECISIONS:
        budget = params.train.model_copy(update={"steps": SMALL[name]["steps"], "precision": precision})
        state, seconds, diverged = trainings.trained(values, budget, data.train, data.shape, seed)
        images = trainings.samples(state, data.description["class_counts"], SAMPLES, values.latent_dim)
        distance = frechet_distance(Gaussian.from_features(trainings.features(extractor, images)), real)
        row |= {precision: round(distance, 1), f"{precision}_seconds": round(seconds, 1)}
        row |= {f"{precision}_diverged": diverged}
    return row


def ratios(rows: pd.DataFrame) -> list[float]:
    """r of each pair, as the rule has it."""
    return [float(value) for value in rows["bf16"] / rows["fp32"] - 1]


def _interval(rows: pd.DataFrame) -> tuple[float, float]:
    """The 95% interval of the mean of r; one pair alone tells nothing."""
    return mean_interval(ratios(rows)) or (-np.inf, np.inf)


def verdict(rows: pd.DataFrame) -> str:
    """What the rule says of a recipe's pairs on one data set."""
    low, high = _interval(rows)
    if (rows["bf16_diverged"].notna() & rows["fp32_diverged"].isna()).any() or low > 0:
        return "harmful"
    steady = rows["bf16_diverged"].isna().all() and low >= -HARMLESS and high <= HARMLESS
    return "harmless" if steady else "undecided"


def whole(rows: pd.DataFrame) -> str:
    """What the rule says of all recipes on one data set."""
    low, high = _interval(rows)
    verdicts = {verdict(chosen) for _, chosen in rows.groupby("recipe")}
    return "harmful" if "harmful" in verdicts else "harmless" if max(-low, high) <= HARMLESS else "undecided"


def table(rows: pd.DataFrame) -> Iterator[str]:
    """The lines of docs/bf16.md's table: means over seeds with 95% intervals."""
    lines = []
    for name in SMALL:
        of_data = rows[rows["data"] == name]
        parts = [(recipe, of_data[of_data["recipe"] == recipe]) for recipe in RECIPES]
        for title, chosen in [*parts, ("all", of_data)]:
            if not len(chosen) or (title == "all" and name in ONLY):
                continue
            distances = [""] * 2 if title == "all" else [mean_text(chosen[one].tolist(), 0) for one in PRECISIONS]
            lost = chosen["bf16_diverged"].notna().sum()
            speed = chosen["fp32_seconds"].sum() / chosen["bf16_seconds"].sum()
            percent = mean_text([100 * value for value in ratios(chosen)], 1)
            said = whole(chosen) if title == "all" else verdict(chosen)
            lines.append([name, title, *distances, percent, f"{lost} of {len(chosen)}", f"{speed:.2f}", f"**{said}**"])
    head = ["data", "recipe", "fp32", "bf16", "difference, %", "bf16 runs that diverged", "times as fast", "verdict"]
    return trainings.markdown(head, lines)


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder that holds cifar-10-batches-py and MNIST")
    parser.add_argument("--data", nargs="+", choices=SMALL, default=list(SMALL))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    trainings.one_thread()
    rows, device = [], choose_device(options.device)
    for name in options.data:
        params = params_of(name, options.root)
        data = trainings.data_of(params, WORK / params.data.dataset, device)
        extractor = load_extractor(params.metrics, device)
        real = Gaussian.from_features(trainings.features(extractor, pixels_of(data.train)))
        for seed, recipe in itertools.product(options.seeds, ONLY.get(name, RECIPES)):
            path = WORK / f"{name}-{recipe}-{seed}-{SMALL[name]['steps']}.json".replace(" ", "")
            rows.append(trainings.kept(path, measure, name, recipe, seed, params, data, extractor, real))
    columns = [f"{precision}{what}" for what in ("", "_seconds", "_diverged") for precision in PRECISIONS]
    frame = pd.DataFrame(rows)[["data", "recipe", "seed", *columns]]
    write_bytes(DOCS / "bf16.csv", frame.to_csv(index=False).encode())
    print("\n".join(table(frame)))


if __name__ == "__main__":
    main()
