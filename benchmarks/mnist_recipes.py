"""Do the classic recipes of presets/mnist.yaml learn MNIST in minutes on one CPU core, and which bound on D is steady?

    python -m benchmarks.mnist_recipes --root DIR [--jobs 2]

DIR holds MNIST as torchvision lays it out (DIR/MNIST/raw). Two experiments, on 10,000 training images of 16 x 16:
the recipes of `SMALL` once, made smaller; and the plain CNN under each of `BOUNDS`, at all `RATES` and `SEEDS`.
A distance is measured before training and at its end, of samples of the same latents, under one protocol.

It writes docs/mnist.csv and docs/mnist.png and prints docs/mnist.md's tables. A killed run continues when it is
started again: what is done stands in .work/, and what was not is taken up at its newest checkpoint.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw

from pipeline.core.devices import make_deterministic
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import exclusive, read_json, write_bytes, write_json
from pipeline.core.provenance import provenance
from pipeline.data.prepared import load_description, load_images, prepare
from pipeline.experiment import Experiment
from pipeline.metrics import load_extractor, load_reference, measure_reference
from pipeline.params import PRESETS, Params, load
from pipeline.report.uncertainty import mean_interval, welch_interval
from pipeline.sampling.pictures import save_picture
from pipeline.training.monitor import TrainingMonitor
from pipeline.training.trainer import train_experiment

WORK, DOCS = Path(".work/mnist-recipes"), Path("docs")
DRAWN = ["grid", "conditional"]  # what of a row is for the picture alone
COMMON = {
    "data.image_size": 16,
    "data.limit": 10_000,
    "metrics.extractor": "efficientnet_lite0",
    "metrics.bootstrap": 0,
    "train.score_samples": 2000,
    "train.score_every": 2**31,  # at step 0 and at the end
    "train.grid_every": 2**31,
    "train.report_every": 50,
    "runtime.device": "cpu",
    "runtime.checkpoint_every": 250,
    "runtime.tracking": False,
}

# What every recipe is given: small networks and batches; and for a short budget large steps, which end in small ones,
# and an average. `SMALL` has each one's steps, and what it changes beside.
NARROW: dict[str, Any] = {"width_g": 16, "width_d": 16, "batch_size": 32, "n_critic": 1}
SHORT = {"lr_g": 1e-3, "lr_d": 1e-3, "lr_decay": "linear", "ema_decay": 0.99, "ema_warmup": True}
SMALL: dict[str, dict[str, Any]] = {
    "gan": {
        "steps": 16_000,
        "width_g": 64,
        "width_d": 256,
        "batch_size": 128,
        "dequantise": True,
        "instance_noise": 0.3,
    },
    "dcgan": {"steps": 5000},
    "dcgan_conditional": {"steps": 5000},
    "sn_dcgan": {"steps": 5000},
    "wgan": {"steps": 2500, "n_critic": 2, "clip": 0.05},
    "wgan_gp": {"steps": 2500, "beta1": 0.0},
    "wgan_gp_resnet": {"steps": 1500},
    "sngan": {"steps": 1200},
    "resnet": {"steps": 1200},
    "sagan": {"steps": 1200, "beta1": 0.0, "beta2": 0.9},
    "projection": {"steps": 2800, "beta1": 0.0, "beta2": 0.9},
    "sagan_conditional": {"steps": 2800, "beta1": 0.0, "beta2": 0.9},
}

# The second experiment: the recipe sngan with another bound on D; no average, no decay: they would hide noise.
BOUNDS: dict[str, dict[str, Any]] = {
    "clip 0.01": {"loss": "wasserstein", "norm_d": "none", "clip": 0.01},
    "clip 0.05": {"loss": "wasserstein", "norm_d": "none", "clip": 0.05},
    "gradient penalty": {"loss": "wasserstein", "norm_d": "none", "penalty": "gradient"},
    "spectral norm": {"loss": "wasserstein"},
    "spectral norm, hinge": {},
}
RATES, SEEDS, BOUND_STEPS = (2e-4, 1e-3), (0, 1, 2), 800


@dataclass(frozen=True)
class Run:
    """One training: a recipe of the preset with changes, for so many steps."""

    part: str
    name: str
    recipe: str
    changes: dict[str, Any]
    steps: int
    seed: int = 0

    def params(self) -> Params:
        changes = {f"models.{self.recipe}.{key}": value for key, value in self.changes.items()}
        return load(PRESETS / "mnist.yaml").override(COMMON | changes | {"train.steps": self.steps})


def runs() -> Iterator[Run]:
    """All trainings of both experiments."""
    for recipe, changes in SMALL.items():
        changes = NARROW | SHORT | changes
        yield Run("recipes", recipe, recipe, changes, changes.pop("steps"))
    for name, bound in BOUNDS.items():
        for rate in RATES:
            for seed in SEEDS:
                changes = NARROW | bound | {"lr_g": rate, "lr_d": rate}
                yield Run("bounds", name, "sngan", changes, BOUND_STEPS, seed)


def prepare_data(root: str) -> float:
    """Prepare the images and the real side of every distance, once; the distance of as many test images as samples."""
    params = load(PRESETS / "mnist.yaml").override(COMMON | {"data.root": root})
    if not (WORK / "prepared").exists():
        prepare(params.data, WORK / "prepared")
    extractor = load_extractor(params.metrics, torch.device("cpu"))
    if not (WORK / "reference").exists():
        description = load_description(WORK / "prepared")
        measure_reference(WORK / "prepared", description, extractor, params.metrics, WORK / "reference")
    reference = load_reference(WORK / "reference", extractor)
    return reference.distance(np.array(reference.test.features[: params.train.score_samples]))


def measure(run: Run) -> dict[str, Any]:
    """Train `run` on one thread, unless that is done already, and return its row of docs/mnist.csv and its grid."""
    torch.set_num_threads(1)
    make_deterministic()
    experiment = Experiment(run.params(), run.recipe, run.seed, load_description(WORK / "prepared"))
    work, recipe = experiment.work_folder(), experiment.recipe
    with exclusive(work, experiment.name):
        if not (work / "result.json").exists():
            write_json(work / "result.json", _train(experiment))
    row = {"part": run.part, "name": run.name, "seed": run.seed, "lr_g": recipe.lr_g, "lr_d": recipe.lr_d}
    result = {key: round(value, 2) for key, value in read_json(work / "result.json").items()}
    drawn = {"grid": str(work / "grids" / f"{run.steps:08d}.png"), "conditional": experiment.conditional}
    return row | {"steps": run.steps} | result | drawn


def _train(experiment: Experiment) -> dict[str, float]:
    """Distances before and after training, and CPU minutes, those of both measurements and of killed runs included."""
    device, work = torch.device("cpu"), experiment.work_folder()
    extractor = load_extractor(experiment.params.metrics, device)
    images, reference = load_images(WORK / "prepared", "train", device), load_reference(WORK / "reference", extractor)
    monitor = TrainingMonitor(experiment, extractor, reference, experiment.open_tracker(), work / "grids")
    spent = work / "cpu_seconds"
    before = float(spent.read_text()) if spent.exists() else 0.0
    started = time.process_time()

    def account() -> bool:
        """Called after every step, so that a killed run's time counts too."""
        spent.write_text(str(before + time.process_time() - started))
        return False

    _, run = train_experiment(experiment, images, monitor, account)
    first, last = run.history[0]["distance"], run.history[-1]["distance"]
    return {"untrained": first, "trained": last, "cpu_minutes": float(spent.read_text()) / 60}


def tables(rows: pd.DataFrame) -> str:
    """The Markdown tables of docs/mnist.md."""
    return "\n\n".join("\n".join(lines) for lines in (_recipes(rows), _bounds(rows), _differences(rows)))


def _recipes(rows: pd.DataFrame) -> Iterator[str]:
    yield "| recipe | its own changes | steps | CPU minutes | untrained | trained | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows[rows["part"] == "recipes"].to_dict("records"):
        changes = ", ".join(f"{key} {value}" for key, value in SMALL[row["name"]].items() if key != "steps")
        before, after, minutes = row["untrained"], row["trained"], row["cpu_minutes"]
        yield (
            f"| {row['name']} | {changes} | {row['steps']} | {minutes:.1f} | {before:.0f} | {after:.0f} "
            f"| {before / after:.2f} |"
        )


def _bounds(rows: pd.DataFrame) -> Iterator[str]:
    yield "| bound on D | learning rate | mean | 95% interval | worst seed | CPU minutes a run |"
    yield "|---|---|---|---|---|---|"
    for (name, rate), values in _by_bound(rows).items():
        low, high = mean_interval(values["trained"].tolist()) or (np.nan, np.nan)
        mean, worst, minutes = values["trained"].mean(), values["trained"].max(), values["cpu_minutes"].mean()
        yield f"| {name} | {rate:g} | {mean:.0f} | {low:.0f} to {high:.0f} | {worst:.0f} | {minutes:.1f} |"


def _differences(rows: pd.DataFrame) -> Iterator[str]:
    yield "| bound on D | beside | learning rate | difference of the means, 95% | beyond noise |"
    yield "|---|---|---|---|---|"
    groups = {key: values["trained"].tolist() for key, values in _by_bound(rows).items()}
    clips = [name for name in BOUNDS if "clip" in BOUNDS[name]]
    for name, clip, rate in product([name for name in BOUNDS if name not in clips], clips, RATES):
        low, high = welch_interval(groups[clip, rate], groups[name, rate])
        verdict = "no" if low <= 0 <= high else "yes, lower" if high < 0 else "yes, higher"
        yield f"| {name} | {clip} | {rate:g} | {low:.0f} to {high:.0f} | {verdict} |"


def _by_bound(rows: pd.DataFrame) -> dict[tuple[str, float], pd.DataFrame]:
    bounds = rows[rows["part"] == "bounds"]
    return {
        (name, rate): bounds[(bounds["name"] == name) & (bounds["lr_d"] == rate)] for name in BOUNDS for rate in RATES
    }


def draw(rows: Iterable[dict[str, Any]], out: Path) -> None:
    """Ten final samples of each recipe beside its name: of a conditional one, of each class in turn."""
    cell, strips = 34, []
    for row in rows:
        conditional = row["conditional"]
        with Image.open(row["grid"]) as grid:  # has one class a row, if conditional
            cells = [(0, i) if conditional else (i, 0) for i in range(10)]
            strips.append(
                (row["name"], [grid.crop((cell * x, cell * y, cell * x + 36, cell * y + 36)) for x, y in cells])
            )
    page = Image.new("L", (120 + 10 * cell + 2, cell * len(strips) + 2), 255)
    for index, (name, strip) in enumerate(strips):
        ImageDraw.Draw(page).text((4, cell * index + 12), name, fill=0)
        for place, sample in enumerate(strip):
            page.paste(sample, (120 + cell * place, cell * index))
    save_picture(page, out)


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one thread each")
    options = parser.parse_args()
    floor = prepare_data(options.root)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes below, numpy's threads among them
    planned = list(runs())
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(measure, run) for run in planned]
        for future in as_completed(futures):
            print({key: value for key, value in future.result().items() if key not in DRAWN}, flush=True)
    rows = [future.result() for future in futures]
    draw([row for row in rows if row["part"] == "recipes"], DOCS / "mnist.png")
    frame = pd.DataFrame(rows).drop(columns=DRAWN)
    write_bytes(DOCS / "mnist.csv", frame.to_csv(index=False).encode())
    print(f"\n{tables(frame)}\n\nreal test images: {floor:.0f}")
    print("\n".join(f"{key}: {value}" for key, value in provenance().items()))


if __name__ == "__main__":
    main()
