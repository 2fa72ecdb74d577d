"""What a params file would cost on a GPU: estimates from multiply-adds, as a markdown table.

Nothing here is measured, but for the share of the activations that is there at once (`KEPT`, on an H100).

    python -m benchmarks.gpu_estimates                          of presets/cifar10.yaml, as in docs/gpu.md
    python -m benchmarks.gpu_estimates presets/mnist.yaml

Multiply-adds of one step, with g and d those of one image passing forwards through G and D; a backward pass costs twice
as much, half of it for the weights and half for what came in:

    n_critic * batch * (g + 2 d + 2 * 2 d)    D's updates: fakes are made, real and fake images pass D, and back
  + n_critic * batch * (d + d + 4 d)          a penalty of D, each penalty_every updates: forwards, gradient by the
                                              images, back through both
  + batch * (g + 2 g + d + d)                 G's update: no gradient of D's weights

A flow has the last row alone, without d, and g is one evaluation of its velocity.

A test compares the formula with the products that PyTorch performs in a step. The time is that of these operations at
an assumed share of a published peak, or the time assumed for launching so many layers, whichever is longer.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.gan.cost import in_training, step_total
from pipeline.gan.penalties import PENALTIES
from pipeline.gan.step import create_state
from pipeline.models import build_gan
from pipeline.models.summary import Row, inputs_of, summarise
from pipeline.params import Params, Recipe, load

PRESET = Path(__file__).resolve().parent.parent / "presets" / "cifar10.yaml"
CLASSES = 10  # of conditional networks
PEAKS = {"A100": (19.5e12, 156e12), "H100 SXM": (67e12, 494.5e12)}  # published, operations/s: fp32, dense TF32
SHARE = 0.20  # assumed: of the fp32 peak at the slow end of training, of the TF32 peak at its fast end
SCORING_SHARES = (0.35, 0.20)  # assumed: of the fp32 peak, since TF32 is off while features are computed
LAUNCH = (20e-6, 50e-6)  # assumed: seconds for each layer passed, in either direction
INCEPTION = 5_711_168_096  # multiply-adds of one image of 299x299 pixels passing pytorch-fid's network
KEPT = (0.7, 1.5)  # times the layers' outputs at the peak of a step: 0.69 to 1.42, measured on an H100


@dataclass(frozen=True)
class Cost:
    """Of one recipe: multiply-adds of an image in G and D, and of one step; layers passed in a step; bytes."""

    g: int
    d: int
    step: int
    passes: int
    state: int
    activations: int

    def hours(self, steps: int, peaks: tuple[float, float]) -> tuple[float, float]:
        """Of training, the fast and the slow end."""
        fp32, tf32 = peaks
        rates = (SHARE * tf32, SHARE * fp32)
        return (
            steps * max(2 * self.step / rates[0], self.passes * LAUNCH[0]) / 3600,
            steps * max(2 * self.step / rates[1], self.passes * LAUNCH[1]) / 3600,
        )


def cost_of(recipe: Recipe, params: Params) -> Cost:
    """What a step of `recipe` costs; networks are built on the meta device, where they take neither time nor memory."""
    shape = (params.data.channels, params.data.image_size, params.data.image_size)
    recipe, n_critic = in_training(recipe)
    with torch.device("meta"):
        gan, (to_g, to_d) = build_gan(recipe, shape, CLASSES, seed=0), inputs_of(recipe, shape)
        g_rows, d_rows = summarise(gan.generator, to_g), summarise(gan.discriminator, to_d)
    state = create_state(recipe, params.train, shape, CLASSES, 0, torch.device("meta"))
    networks = (state.gan.generator, state.gan.discriminator)
    gradients = sum(parameter.nbytes for network in networks for parameter in network.parameters())
    g, d = (sum(row.multiply_adds for row in rows) for rows in (g_rows, d_rows))
    penalty, every = PENALTIES[recipe.penalty], recipe.penalty_every
    penalised = penalty.value is not None and penalty.of == "discriminator"
    return Cost(
        g,
        d,
        step_total(g, d, n_critic, recipe.batch_size, penalised, every),
        step_total(len(g_rows), len(d_rows), n_critic, 1, penalised, every),
        gradients + sum(tensor.nbytes for tensor in state.tensors().values()),
        recipe.batch_size * max(outputs(d_rows) * (4 if penalised else 2), outputs(g_rows) + outputs(d_rows)),
    )


def outputs(rows: Sequence[Row]) -> int:
    """Bytes of all layers' outputs for one image, in float32."""
    return 4 * sum(math.prod(row.shape) for row in rows)


def span(low: float, high: float) -> str:
    """A range with two significant digits at either end."""
    return " to ".join(f"{float(f'{value:.2g}'):g}" for value in (low, high))


def training(params: Params) -> str:
    """The table of the recipes of `params`, one row each."""
    heads = [f"{gpu}, hours" for gpu in PEAKS]
    lines = [
        f"| recipe | G, million | D, million | a step, billion | {' | '.join(heads)} | state, MiB | activations, MiB |",
        "|---" * (6 + len(PEAKS)) + "|",
    ]
    for name, recipe in params.models.items():
        cost = cost_of(recipe, params)
        cells = [name, f"{cost.g / 1e6:,.1f}", f"{cost.d / 1e6:,.1f}", f"{cost.step / 1e9:,.1f}"]
        cells += [span(*cost.hours(params.train.steps, peaks)) for peaks in PEAKS.values()]
        cells += [f"{cost.state / 2**20:,.0f}", span(*(times * cost.activations / 2**20 for times in KEPT))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def scoring(params: Params, samples: int) -> str:
    """What Inception costs for one experiment: the final samples, the best ones, and the learning curve."""
    points = 1 + -(-params.train.steps // params.train.score_every)
    images = 2 * samples + points * params.train.score_samples
    minutes = (
        f"{gpu} {span(*(2 * INCEPTION * images / (share * fp32) / 60 for share in SCORING_SHARES))} minutes"
        for gpu, (fp32, _) in PEAKS.items()
    )
    return f"Inception on {images:,} images for each experiment: {', '.join(minutes)}."


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_estimates", description=__doc__.split("\n")[0])
    parser.add_argument("params", nargs="?", type=Path, default=PRESET, help="a params file")
    params = load(parser.parse_args(arguments).params)
    print(training(params))
    if params.generate.samples is not None:
        print(f"\n{scoring(params, params.generate.samples)}")


if __name__ == "__main__":
    main()
