"""How many of stacked MNIST's 1,000 modes do GAN, PacGAN, WGAN-GP, SNGAN and R3GAN's loss and penalties make?

    python -m benchmarks.stacked_mnist --root DIR [--seeds 0 1 2] [--steps N]

DIR holds MNIST as torchvision lays it out (DIR/MNIST/raw). Three digits are the channels of an image of 16 x 16; 20,000
training images. All methods have the networks, optimiser and steps of `BASE`, and differ in what `METHODS` says. Of
26,000 samples a classifier reads the digits (pipeline.metrics.modes): the triples that come, and the KL divergence of
their shares from equal ones. As many triples of real digits are the floor.

It writes docs/stacked_mnist.csv, a row a measurement, and docs/stacked_mnist.png, and prints docs/stacked_mnist.md's
tables. What is done already is not done again: delete .work/stacked-mnist to start anew.
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
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import write_bytes
from pipeline.data.stacked import NAME
from pipeline.gan.state import TrainState
from pipeline.metrics import Comparison, FeatureSet
from pipeline.metrics.modes import SAMPLES, StackedDigits, modes
from pipeline.params import PRESETS, Params, Recipe, load
from pipeline.report.uncertainty import welch_interval

WORK, DOCS = Path(".work/stacked-mnist"), Path("docs")
STEPS, SEEDS, IMAGES, SIZE, POINTS, SHOWN = 600, (0, 1, 2), 20_000, 16, 2, 8
BASE: dict[str, Any] = {
    "network": "dcgan", "norm_d": "none", "loss": "bce", "width_g": 32, "width_d": 16, "latent_dim": 128,
    "batch_size": 64, "lr_g": 5e-4, "lr_d": 5e-4, "beta1": 0.0, "beta2": 0.9, "lr_decay": "none", "ema_decay": None,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "GAN": {},
    "PacGAN, 2": {"pack": 2},
    "WGAN-GP": {"loss": "wasserstein", "penalty": "gradient", "penalty_weight": 10.0},
    "SNGAN": {"loss": "hinge", "norm_d": "spectral"},
    "GAN + R1 + R2": {"penalty": "r1_r2", "penalty_weight": 1.0},
    "RpGAN + R1 + R2": {"loss": "rpgan", "penalty": "r1_r2", "penalty_weight": 1.0},
}
# What is published of an order: the better one, the other one, and by whom.
ORDERS = [
    ("PacGAN, 2", "GAN", "PacGAN"),
    ("GAN + R1 + R2", "GAN", ""),
    ("RpGAN + R1 + R2", "GAN + R1 + R2", "R3GAN"),
    ("WGAN-GP", "GAN", ""),
    ("SNGAN", "GAN", ""),
]


def params(root: str) -> Params:
    data = {"dataset": NAME, "root": root, "image_size": SIZE, "channels": 3, "limit": IMAGES}
    return load(PRESETS / "mnist.yaml").override({f"data.{name}": value for name, value in data.items()})


def recipe_of(method: str) -> Recipe:
    known = load(PRESETS / "digits.yaml").recipe.model_dump(mode="json")
    return Recipe.model_validate(known | BASE | METHODS[method])


def counted(real: StackedDigits, labels: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Modes, KL, those of real triples, and the classifier's accuracy, of images uint8 (N, 3, S, S)."""
    generated = StackedDigits(images)
    sides = Comparison(FeatureSet(real.features, labels), generated, None, "", None, 0, False, (real, generated))
    return {name: round(estimate.value, 4) for name, estimate in modes(sides).items()}


def measure(method: str, seed: int, steps: int, data: Data, real: StackedDigits) -> dict[str, Any]:
    """Train a method; its rows of docs/stacked_mnist.csv, and some of its last samples."""
    recipe = recipe_of(method)
    budget = load(PRESETS / "digits.yaml").train.model_copy(update={"steps": steps})
    counts, labels = data.description["class_counts"], data.train.labels.numpy()
    rows: list[dict[str, Any]] = []
    last: list[np.ndarray] = []

    def look(state: TrainState, seconds: float) -> bool:
        if state.step % (steps // POINTS) == 0:
            images = trainings.samples(state, counts, SAMPLES, recipe.latent_dim)
            rows.append({"step": state.step, "cpu_seconds": round(seconds, 1)} | counted(real, labels, images))
            last[:] = [images[:12]]
        return False

    diverged = trainings.trained(recipe, budget, data.train, data.shape, seed, look)[2]
    about = {"method": method, "seed": seed, "diverged": diverged}
    return {"rows": [about | row for row in rows], "images": last[0].tolist() if last else []}


def finals(rows: pd.DataFrame, method: str, name: str) -> list[float]:
    """A column of a method's last measurements, one a seed."""
    chosen = rows[(rows["method"] == method) & (rows["step"] == rows["step"].max())]
    return [float(value) for value in chosen.sort_values("seed")[name]]


def table(rows: pd.DataFrame) -> Iterator[str]:
    """The lines of the first table: means over seeds with 95% intervals."""
    lines = []
    for method in METHODS:
        on_the_way = [
            f"{rows[(rows['method'] == method) & (rows['step'] == step)]['modes'].mean():.0f}"
            for step in sorted(rows["step"].unique())[:-1]
        ]
        found, divergence = (finals(rows, method, name) for name in ("modes", "modes_kl"))
        seconds = np.mean(finals(rows, method, "cpu_seconds"))
        lines.append(
            [method, *on_the_way, mean_text(found, 0), f"{min(found):.0f}", mean_text(divergence, 2), f"{seconds:.0f}"]
        )
    floor = rows.iloc[0]
    lines.append(["real triples", "", "", f"{floor['modes_real']:.0f}", "", f"{floor['modes_kl_real']:.3f}", ""])
    early = [f"after {step:,}" for step in sorted(rows["step"].unique())[:-1]]
    head = [
        "method",
        *early,
        f"modes after {rows['step'].max():,} steps",
        "lowest",
        "KL from uniform",
        "CPU seconds a run",
    ]
    return trainings.markdown(head, lines)


def orders(rows: pd.DataFrame) -> Iterator[str]:
    """The lines of the second table: is the first of two methods better, as one would expect?"""
    lines = []
    for better, other, source in ORDERS:
        line = [f"{better} better than {other}", source or "none known to us"]
        signs = []
        for name, digits, good in (("modes", 0, 1), ("modes_kl", 2, -1)):
            low, high = welch_interval(finals(rows, other, name), finals(rows, better, name))
            signs.append(good * (1 if low > 0 else -1 if high < 0 else 0))
            line.append(f"{low:.{digits}f} to {high:.{digits}f}")
        words = {1: "yes", 0: "not beyond noise", -1: "no, the reverse"}
        modes, divergence = (words[sign] for sign in signs)
        lines.append([*line, modes if modes == divergence else f"by modes: {modes}; by KL: {divergence}"])
    return trainings.markdown(["order", "published by", "difference in modes, 95%", "in KL, 95%", "seen here"], lines)


def draw(strips: dict[str, np.ndarray], rows: pd.DataFrame, out: Path) -> None:
    """Modes over training, and samples of each method's first seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, method in enumerate(METHODS):
        chosen = rows[rows["method"] == method]
        means = chosen.groupby("step")["modes"].mean()
        left.plot(means.index, means.to_numpy(), color=f"C{index}", label=method)
        left.plot(chosen["step"], chosen["modes"], ".", color=f"C{index}")
    left.set(xlabel="updates of G", ylabel="modes: each seed, and the mean", ylim=(0, 1000))
    left.legend(fontsize=7)
    rgb = [np.concatenate(list(one[:SHOWN].transpose(0, 2, 3, 1)), axis=1) for one in strips.values()]
    right.imshow(np.concatenate(rgb), interpolation="nearest")
    right.set_yticks([SIZE * (index + 0.5) for index in range(len(strips))], list(strips), fontsize=7)
    right.set_xticks([])
    figure.savefig(out, dpi=60, metadata={"Software": ""})


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    trainings.one_thread()
    data = trainings.data_of(params(options.root), WORK / "prepared")
    real = StackedDigits(pixels_of(data.train))
    rows: list[dict[str, Any]] = []
    strips: dict[str, np.ndarray] = {}
    for seed, method in itertools.product(options.seeds, METHODS):
        path = WORK / f"{method}-{seed}-{options.steps}.json".replace(" ", "")
        known = trainings.kept(path, measure, method, seed, options.steps, data, real)
        rows += known["rows"]
        strips.setdefault(method, np.array(known["images"], np.uint8))
    about, numbers = ["method", "seed", "step", "diverged", "cpu_seconds"], ["modes", "modes_kl"]
    frame = pd.DataFrame(rows)[[*about, *numbers, "modes_real", "modes_kl_real", "digit_accuracy"]]
    write_bytes(DOCS / "stacked_mnist.csv", frame.to_csv(index=False).encode())
    draw(strips, frame, DOCS / "stacked_mnist.png")
    print("\n".join([*table(frame), "", *orders(frame)]))


if __name__ == "__main__":
    main()
