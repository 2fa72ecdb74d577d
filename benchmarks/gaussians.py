"""How many modes do GAN, PacGAN, WGAN-GP and R3GAN's loss and penalties find in two dimensions?

    python -m benchmarks.gaussians [--steps N] [--seeds 0 1 2 3 4]

The ring is 8 Gaussians on the unit circle with a standard deviation of 0.01, the grid 25 at -4, -2, 0, 2, 4 in both
directions with 0.05 (Lin et al. 2018, arXiv:1712.04086, section 4.1), 100,000 points each. All methods have the same
networks and settings, and train through the pipeline's own step; the grid is trained at a quarter of its size. Of 2,500
samples those within three standard deviations of a centre are good; a centre with a good sample is found.

It writes docs/gaussians.csv, a row a training, and docs/gaussians.png, and prints docs/gaussians.md's table. What is
done already is not done again: delete .work/gaussians to start anew.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.trainings import mean_text, one_thread
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import read_json, write_bytes, write_json
from pipeline.core.randomness import stable_hash
from pipeline.data.batches import ImageSet
from pipeline.gan.losses import LOSSES
from pipeline.gan.optimisers import make_optimiser
from pipeline.gan.state import create_state
from pipeline.gan.step import train
from pipeline.models import GAN
from pipeline.models.build import Packed
from pipeline.params import PRESETS, Recipe, load

WORK, DOCS = Path(".work/gaussians"), Path("docs")
STEPS, SEEDS, POINTS, SAMPLES = 3000, (0, 1, 2, 3, 4), 100_000, 2500
WIDTH = 128
RING = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)
GRID = np.stack(np.meshgrid(np.arange(-4, 5, 2), np.arange(-4, 5, 2)), axis=2).reshape(-1, 2) / 4
TARGETS = {"ring": (RING, 0.01), "grid": (GRID, 0.05 / 4)}  # centres (K, 2) and standard deviation
COMMON: dict[str, Any] = {
    "network": "mlp", "norm_d": "none", "latent_dim": 2, "batch_size": 128, "lr_g": 1e-3, "lr_d": 1e-3, "beta1": 0.0,
    "beta2": 0.99, "lr_decay": "linear", "ema_decay": None,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "GAN": {"loss": "bce"},
    "PacGAN, 2": {"loss": "bce", "pack": 2},
    "WGAN-GP": {"loss": "wasserstein", "penalty": "gradient", "penalty_weight": 0.1},
    "GAN + R1 + R2": {"loss": "bce", "penalty": "r1_r2", "penalty_weight": 0.1},
    "RpGAN + R1 + R2": {"loss": "rpgan", "penalty": "r1_r2", "penalty_weight": 0.1},
}


class Perceptron(nn.Module):
    """Three hidden layers: latents (N, Z) or images (N, C, 1, 1) to `shape`."""

    def __init__(self, inputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        sizes = [inputs, WIDTH, WIDTH, WIDTH]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.layers, self.shape = nn.Sequential(*layers, nn.Linear(WIDTH, max(shape, default=1))), shape

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs.flatten(1)).view(-1, *self.shape)
        return outputs


def points(target: str, seed: int) -> Tensor:
    """Points of a target as the step takes images: (N, 2, 1, 1), whose values v stand for v / 127.5 - 1."""
    centres, spread = TARGETS[target]
    draws = np.random.default_rng(seed)
    drawn = centres[draws.integers(len(centres), size=POINTS)] + spread * draws.standard_normal((POINTS, 2))
    return torch.from_numpy((drawn + 1) * 127.5).float()[:, :, None, None]


def quality(samples: np.ndarray, target: str) -> dict[str, float]:
    """Centres found, the share of good samples, and the KL divergence of good samples' centres from uniform."""
    centres, spread = TARGETS[target]
    distances = np.linalg.norm(samples[:, None] - centres, axis=2)
    good = distances.min(axis=1) <= 3 * spread
    counts = np.bincount(distances.argmin(axis=1)[good], minlength=len(centres))
    shares = counts[counts > 0] / max(counts.sum(), 1)
    divergence = float((shares * np.log(shares * len(centres))).sum()) if counts.any() else float("nan")
    return {"modes": int((counts > 0).sum()), "good": float(good.mean()), "kl": divergence}


def measure(target: str, method: str, seed: int, steps: int) -> tuple[dict[str, Any], np.ndarray]:
    """Train a method on a target; its row of docs/gaussians.csv, and its samples (N, 2)."""
    params = load(PRESETS / "digits.yaml")
    recipe = Recipe.model_validate(params.recipe.model_dump(mode="json") | COMMON | METHODS[method])
    budget = params.train.model_copy(update={"steps": steps})
    state = create_state(recipe, budget, (1, 4, 4), 0, seed, torch.device("cpu"))
    torch.manual_seed(stable_hash(seed, "networks"))
    critic = Perceptron(2 * recipe.pack, ())
    state.gan = GAN(Perceptron(2, (2, 1, 1)), Packed(critic, recipe.pack) if recipe.pack > 1 else critic)
    rates = (1e-3, 0.0, 0.99)
    state.optimiser_g = make_optimiser("adam", state.gan.generator, *rates)
    state.optimiser_d = make_optimiser("adam", state.gan.discriminator, *rates)
    images = ImageSet(points(target, seed), torch.zeros(POINTS, dtype=torch.int64), 0)
    started = time.process_time()
    for _ in train(state, images, LOSSES[recipe.loss], recipe, budget):
        pass
    seconds = time.process_time() - started
    latents = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(stable_hash(seed, "samples")))
    with torch.no_grad():
        samples = state.gan.generator(latents, torch.zeros(SAMPLES)).flatten(1).numpy()
    told = {name: round(value, 4) for name, value in quality(samples, target).items()}
    row = {"target": target, "method": method, "seed": seed, "steps": steps, **told}
    return row | {"cpu_seconds": round(seconds, 1)}, samples


def table(rows: pd.DataFrame) -> Iterator[str]:
    """The lines of docs/gaussians.md's table: means over seeds with 95% intervals."""
    yield "| target | method | modes | lowest | good samples | KL from uniform | CPU seconds a run |"
    yield "|---|---|---|---|---|---|---|"
    for target, method in ((target, method) for target in TARGETS for method in METHODS):
        chosen = rows[(rows["target"] == target) & (rows["method"] == method)]
        modes, good, divergence = (mean_text(chosen[name].tolist(), digits) for name, digits in _COLUMNS.items())
        seconds = chosen["cpu_seconds"].mean()
        yield f"| {target} | {method} | {modes} | {chosen['modes'].min()} | {good} | {divergence} | {seconds:.0f} |"


_COLUMNS = {"modes": 1, "good": 2, "kl": 2}  # with so many digits


def draw(samples: dict[tuple[str, str], np.ndarray], out: Path) -> None:
    """The samples of the first seed, a row a target."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    for row, target in zip(figure.subplots(len(TARGETS), len(METHODS)), TARGETS, strict=True):
        for axes, method in zip(row, METHODS, strict=True):
            axes.scatter(*samples[target, method].T, s=1)
            axes.scatter(*TARGETS[target][0].T, s=60, facecolors="none", edgecolors="k", linewidths=0.5)
            axes.set(title=f"{target}, {method}", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
            axes.title.set_fontsize(8)
    figure.savefig(out, dpi=50, metadata={"Software": ""})


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    one_thread()
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[str, str], np.ndarray] = {}
    for seed in options.seeds:
        for target, method in ((target, method) for target in TARGETS for method in METHODS):
            done = WORK / f"{target}-{method}-{seed}-{options.steps}.json".replace(" ", "")
            if not done.exists():
                row, drawn = measure(target, method, seed, options.steps)
                write_json(done, {"row": row, "samples": drawn.tolist()})
                print(row, flush=True)
            known = read_json(done)
            rows.append(known["row"])
            samples.setdefault((target, method), np.array(known["samples"]))
    frame = pd.DataFrame(rows)
    write_bytes(DOCS / "gaussians.csv", frame.to_csv(index=False).encode())
    draw(samples, DOCS / "gaussians.png")
    print("\n".join(table(frame)))


if __name__ == "__main__":
    main()
