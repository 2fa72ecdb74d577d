"""Which losses and penalties converge on the Dirac-GAN, through the pipeline's own training step?

    python -m benchmarks.dirac [--quick]

The Dirac-GAN (Mescheder, Geiger, Nowozin 2018, arXiv:1801.04406, section 2): all real images are one point, 0; G is a
point theta, and D(x) = psi x. The only equilibrium is (0, 0). There the flow of gradients is linear, and its matrix has
known eigenvalues: with slope f of the loss at 0 and penalty gamma psi^2 / 2 they are those of [[0, f], [-f, -gamma]],
-gamma / 2 +- sqrt(gamma^2 / 4 - f^2). A negative real part: it converges; 0: it circles.

Measured: the step's own matrix, by one step of `train_step` from a point near the equilibrium along each axis. With a
learning rate h and D updated before G, it must be that of the alternating scheme; its eigenvalues less 1, by h, go
to the known ones as h goes to 0. And where the step gets to from (1, 1).

It writes docs/dirac.csv and docs/dirac.png and prints docs/dirac.md's table; `--quick` takes 100 steps and writes
nothing.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.core.errors import exit_cleanly
from pipeline.core.files import write_bytes
from pipeline.data.batches import ImageSet
from pipeline.gan.losses import LOSSES
from pipeline.gan.state import TrainState, create_state
from pipeline.gan.step import train_step
from pipeline.models import GAN
from pipeline.params import PRESETS, Recipe, load

DOCS = Path("docs")
RATE, STEPS, NEAR, SMALL_RATE = 0.1, 5000, 1e-3, 1e-3
BATCH = 2
ZERO = 128 / 127.5 - 1  # what the value 128 of a uint8 image becomes; the origin is put there


class Point(nn.Module):
    """G: every image is theta."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return (self.theta + ZERO).expand(len(latents), 1, 1, 1)


class Slope(nn.Module):
    """D: psi times the image."""

    def __init__(self, psi: float) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(psi))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.psi * (images - ZERO).flatten()


@dataclass(frozen=True)
class Case:
    """A loss and a penalty, and what is known of them at the equilibrium.

    slope: f, of the loss at 0, that of D and that of G; damping: by how much of gamma the penalty damps psi.
    """

    loss: str
    slopes: tuple[float, float]
    penalty: str = "none"
    gamma: float = 1.0
    damping: float = 0.0
    regular: bool = True  # whether the penalty is smooth at psi = 0; if not, no eigenvalues are known

    @property
    def name(self) -> str:
        """As the table has it."""
        return self.loss if self.penalty == "none" else f"{self.loss} + {self.penalty} {self.gamma:g}"

    def flow(self) -> np.ndarray:
        """The matrix of the flow of (theta, psi) at the equilibrium."""
        of_d, of_g = self.slopes
        return np.array([[0.0, of_g], [-of_d, -self.gamma * self.damping]])

    def scheme(self, rate: float) -> np.ndarray:
        """The matrix of one alternating step, D first."""
        flow = self.flow()
        first = np.eye(2) + rate * np.array([[0.0, 0.0], flow[1]])
        second = np.eye(2) + rate * np.array([flow[0], [0.0, 0.0]])
        product: np.ndarray = second @ first
        return product


HALF = (0.5, 0.5)  # the slope of softplus at 0
CASES = (
    Case("bce_saturating", HALF),
    Case("bce", HALF),
    Case("hinge", (1.0, 1.0)),
    Case("wasserstein", (1.0, 1.0)),
    Case("least_squares", (0.0, 1.0)),  # without a bias D cannot say 1 of the real point
    Case("rpgan", HALF),
    Case("ragan", HALF),
    Case("bce_saturating", HALF, "r1", 0.3, 1.0),
    Case("bce_saturating", HALF, "r1", 1.0, 1.0),
    Case("bce", HALF, "r1", 1.0, 1.0),
    Case("bce", HALF, "r2", 1.0, 1.0),
    Case("bce", HALF, "r1_r2", 1.0, 2.0),
    Case("rpgan", HALF, "r1", 1.0, 1.0),
    Case("rpgan", HALF, "r1_r2", 0.3, 2.0),
    Case("rpgan", HALF, "r1_r2", 1.0, 2.0),
    Case("hinge", (1.0, 1.0), "r1", 1.0, 1.0),
    Case("wasserstein", (1.0, 1.0), "r1", 1.0, 1.0),
    Case("wasserstein", (1.0, 1.0), "gradient", 1.0, regular=False),
    Case("bce", HALF, "dragan", 1.0, regular=False),
    Case("bce", HALF, "lecam", 0.3),
)


def start(case: Case, theta: float, psi: float, rate: float) -> tuple[TrainState, Recipe, Any]:
    """A state of the pipeline with the two networks in it, and plain gradient descent."""
    params = load(PRESETS / "digits.yaml")
    changes = {"network": "mlp", "loss": case.loss, "penalty": case.penalty, "penalty_weight": case.gamma,
               "norm_d": "none", "batch_size": BATCH, "ema_decay": None, "lr_decay": "none", "latent_dim": 1,
               "lr_g": rate, "lr_d": rate}  # fmt: skip
    recipe = Recipe.model_validate(params.recipe.model_dump(mode="json") | changes)
    budget = params.train.model_copy(update={"steps": 10**6})
    state = create_state(recipe, budget, (1, 4, 4), 0, 0, torch.device("cpu"))
    state.gan = GAN(Point(theta), Slope(psi))
    state.optimiser_g = torch.optim.SGD(state.gan.generator.parameters())
    state.optimiser_d = torch.optim.SGD(state.gan.discriminator.parameters())
    return state, recipe, budget


def walk(case: Case, theta: float, psi: float, rate: float, steps: int) -> np.ndarray:
    """(theta, psi) before and after each step, float64 (steps + 1, 2)."""
    state, recipe, budget = start(case, theta, psi, rate)
    images = ImageSet(torch.full((BATCH, 1, 1, 1), 128, dtype=torch.uint8), torch.zeros(BATCH, dtype=torch.int64), 0)
    point, slope = next(state.gan.generator.parameters()), next(state.gan.discriminator.parameters())
    places = [(theta, psi)]
    for state.step in range(steps):
        train_step(state, images, LOSSES[case.loss], recipe, budget)
        places.append((point.item(), slope.item()))
    return np.array(places)


def measured(case: Case, rate: float) -> np.ndarray:
    """The matrix of the pipeline's step near the equilibrium: a column for a step along each axis."""
    ends = [walk(case, *place, rate, 1)[1] / NEAR for place in ((NEAR, 0.0), (0.0, NEAR))]
    return np.stack(ends, axis=1)


def rightmost(matrix: np.ndarray) -> complex:
    """Of the eigenvalues that with the largest real part, and of a pair that with the positive imaginary one."""
    return complex(max(np.linalg.eigvals(matrix), key=lambda value: (round(value.real, 9), value.imag)))


def row_of(case: Case, steps: int) -> tuple[dict[str, Any], np.ndarray]:
    """The row of docs/dirac.csv, and the path from (1, 1)."""
    path = walk(case, 1.0, 1.0, RATE, steps)
    known = rightmost(case.flow()) if case.regular else complex(np.nan, np.nan)
    found = rightmost((measured(case, SMALL_RATE) - np.eye(2)) / SMALL_RATE)
    error = np.abs(measured(case, RATE) - case.scheme(RATE)).max() if case.regular else np.nan
    last, moved = float(np.hypot(*path[-100:].T).mean()), float(np.hypot(*np.diff(path[-101:], axis=0).T).sum())
    return {
        "case": case.name,
        "known_real": round(known.real, 4),
        "known_imaginary": round(known.imag, 4),
        "step_real": round(found.real, 4),
        "step_imaginary": round(found.imag, 4),
        "error": float(f"{error:.1e}"),
        "steps": steps,
        "distance": float(f"{last:.3g}"),
        "moved": float(f"{moved:.3g}"),
    }, path


def verdict(distance: float, moved: float) -> str:
    """What the last 100 steps say: their distance from the equilibrium, sqrt(2) at the start, and how far they went."""
    if distance < 0.01:
        return "converges"
    if moved < 0.1:
        return "stops elsewhere"
    return "comes closer" if distance < 0.7 else "circles" if distance < 3 else "leaves"


def table(rows: pd.DataFrame) -> Iterator[str]:
    """The lines of docs/dirac.md's table."""
    yield "| loss and penalty | known eigenvalue | measured | error of the matrix | distance at the end | outcome |"
    yield "|---|---|---|---|---|---|"
    for row in rows.to_dict("records"):
        known, found = (_complex(row[f"{of}_real"], row[f"{of}_imaginary"]) for of in ("known", "step"))
        smooth = np.isfinite(row["known_real"])
        values = f"| {known} | {found} | {row['error']:.0e} |" if smooth else "| not smooth at 0 | | |"
        yield f"| {row['case']} {values} {row['distance']:.2g} | {verdict(row['distance'], row['moved'])} |"


def _complex(real: float, imaginary: float) -> str:
    """A complex number with three digits, without a minus before 0.

    >>> _complex(-0.0001, 0.5), _complex(-0.5, 0.0)
    ('0.000 + 0.500 i', '-0.500')
    """
    first = f"{round(real, 3) + 0.0:.3f}"
    return first if round(imaginary, 3) == 0 else f"{first} + {imaginary:.3f} i"


def draw(paths: dict[str, np.ndarray], out: Path) -> None:
    """The first 300 steps of each path."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "dirac"
    figure = Figure(figsize=(12, 10), layout="constrained")
    for axes, (name, path) in zip(figure.subplots(4, 5, sharex=True, sharey=True).flat, paths.items(), strict=True):
        axes.plot(*path[:300].T, linewidth=0.8)
        axes.plot(*path[0], "o", markersize=3)
        axes.plot(0, 0, "k+")
        axes.set(title=name, xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
        axes.title.set_fontsize(8)
    figure.supxlabel("theta (G)")
    figure.supylabel("psi (D)")
    figure.savefig(out, dpi=80, metadata={"Software": ""})


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 steps, and nothing is written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows, paths = [], {}
    for case in CASES:
        row, paths[case.name] = row_of(case, 100 if quick else STEPS)
        rows.append(row)
        print(row, flush=True)
    frame = pd.DataFrame(rows)
    if not quick:
        write_bytes(DOCS / "dirac.csv", frame.to_csv(index=False).encode())
        draw(paths, DOCS / "dirac.png")
    print("\n".join(table(frame)))


if __name__ == "__main__":
    main()
