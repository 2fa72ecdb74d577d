"""Training speed of each recipe that params.yaml compares, beside a plain DataLoader loop over the same networks.

    python -m benchmarks.training_speed [--steps 30] [--rounds 5] [--device auto]

The plain loop is what most public code does: fetch a batch from a DataLoader, step D, step G, `.item()` both losses;
its networks have torch's own layers. Each further row changes one thing and keeps those above it; the last is
`pipeline.gan.step.train` itself. All rows of a recipe are timed in turn, round after round, in one run; a figure is
the median of the rounds.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader, TensorDataset

from pipeline.core.devices import choose_device, keep_freed_memory
from pipeline.data.batches import ImageSet, batch
from pipeline.gan.flow import loss_of
from pipeline.gan.graphs import Graphs
from pipeline.gan.losses import LOSSES
from pipeline.gan.schedules import value_at
from pipeline.gan.step import create_state, train
from pipeline.models import GAN, build_gan
from pipeline.models.layers import PooledConv, UpsampledConv
from pipeline.params import Params, Recipe, load

IMAGES, CLASSES = 2048, 10  # random pixels and labels do for timing

Loop = Callable[[int], None]  # trains for so many steps


@dataclass(frozen=True)
class Variant:
    """What a loop does otherwise than the plain one."""

    name: str = "plain DataLoader loop"
    resident: bool = False
    no_sync: bool = False
    fused: bool = False
    frozen: bool = False
    channels_last: bool = False
    merged: bool = False
    own_norm: bool = False
    joined: bool = False
    bf16: bool = False


def variants() -> list[Variant]:
    rows = [Variant()]
    for name, change in [
        ("+ resident data", {"resident": True}),
        ("+ no host sync", {"no_sync": True}),
        ("+ fused Adam", {"fused": True}),
        ("+ D frozen in G's step, weights normalised once a step", {"frozen": True}),
        ("+ channels_last", {"channels_last": True}),
        ("+ convolutions merged with up- and downsampling", {"merged": True}),
        ("+ spectral norm with our gradient", {"own_norm": True}),
        ("+ real and fake in one batch of D", {"joined": True}),
        ("+ bf16 autocast", {"bf16": True}),
    ]:
        rows.append(replace(rows[-1], name=name, **change))
    return rows


def shape_of(images: ImageSet) -> tuple[int, int, int]:
    _, channels, height, width = images.images.shape
    return channels, height, width


def random_images(shape: tuple[int, int, int], device: torch.device) -> ImageSet:
    pixels = torch.randint(256, (IMAGES, *shape), dtype=torch.uint8, device=device)
    return ImageSet(pixels, torch.arange(IMAGES, device=device) % CLASSES, CLASSES)


def plain_loop(recipe: Recipe, images: ImageSet, variant: Variant, gan: GAN | None = None) -> Loop:
    """A function that trains for so many steps by the loop of `variant`, by default the recipe's networks."""
    device, loss = images.images.device, LOSSES[recipe.loss]
    gan = gan or build_gan(recipe, shape_of(images), images.n_classes, seed=0)
    for network in (gan.generator, gan.discriminator):
        if not variant.merged:
            _unmerge(network)
        if not variant.own_norm:
            _normalise_by_torch(network)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    networks = [network.to(device).to(memory_format=layout) for network in (gan.generator, gan.discriminator)]
    lr_g, lr_d, *betas = (value_at(one, 0, 1) for one in (recipe.lr_g, recipe.lr_d, recipe.beta1, recipe.beta2))
    optimisers = [
        torch.optim.Adam(network.parameters(), lr, betas=(betas[0], betas[1]), fused=variant.fused or None)
        for network, lr in zip(networks, (lr_g, lr_d), strict=True)
    ]
    batches = _resident(recipe, images) if variant.resident else _loaded(recipe, images)
    zeros = torch.zeros(recipe.batch_size, dtype=torch.int64, device=device)

    def latents() -> Tensor:
        return torch.randn(recipe.batch_size, recipe.latent_dim, device=device)

    def run(steps: int) -> None:
        generator, discriminator = networks
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=variant.bf16):
                for _ in range(recipe.n_critic):
                    real, labels = next(batches)
                    with torch.no_grad():
                        fake = generator(latents(), zeros)
                    with parametrize.cached() if variant.frozen else torch.enable_grad():
                        shown = [(real.to(device), labels.to(device)), (fake, zeros)]
                        if variant.joined:
                            both = discriminator(*(torch.cat(part) for part in zip(*shown, strict=True)))
                            real_logits, fake_logits = both.chunk(2)
                        else:
                            real_logits, fake_logits = (discriminator(*part) for part in shown)
                    loss_d = loss.discriminator(real_logits, fake_logits)
                    optimisers[1].zero_grad()
                    loss_d.backward()
                    optimisers[1].step()
                discriminator.requires_grad_(not variant.frozen)
                loss_g = loss.generator(discriminator(generator(latents(), zeros), zeros))
                optimisers[0].zero_grad()
                loss_g.backward()
                optimisers[0].step()
                discriminator.requires_grad_(True)
            if not variant.no_sync:
                loss_d.item(), loss_g.item()

    return run


def _unmerge(network: nn.Module) -> None:
    """Make a network upsample and pool by operations of their own, as torch's layers do."""
    for module in network.modules():
        if isinstance(module, UpsampledConv | PooledConv):
            module.forward = module.apart  # type: ignore[method-assign]


def _normalise_by_torch(network: nn.Module) -> None:
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            parametrizations.spectral_norm(module)


def _loaded(recipe: Recipe, images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    assert isinstance(images.images, Tensor)
    pixels = TensorDataset(images.images.cpu().float() / 127.5 - 1, images.labels.cpu())
    while True:
        yield from DataLoader(pixels, recipe.batch_size, shuffle=True, drop_last=True)


def _resident(recipe: Recipe, images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    index = 0
    while True:
        yield batch(images, index, recipe.batch_size, 0, recipe.flip, recipe.dequantise)
        index += 1


def ours(recipe: Recipe, images: ImageSet, params: Params, graphs: bool = False, **budget_changes: object) -> Loop:
    """A function that trains for so many steps by `pipeline.gan.step.train`, replayed as CUDA graphs or not."""
    if images.images.device.type == "cpu":
        keep_freed_memory()  # as the stage does
    budget = params.train.model_copy(update={"steps": 2**31 - 1, **budget_changes})
    state = create_state(recipe, budget, shape_of(images), images.n_classes, 0, images.images.device)
    state.graphs = Graphs() if graphs else None
    steps = train(state, images, loss_of(recipe), recipe, budget)

    def run(count: int) -> None:
        for _ in range(count):
            next(steps)

    return run


@contextlib.contextmanager
def apart(builders: dict[str, Callable[[], Loop]], device: torch.device) -> Iterator[dict[str, Loop]]:
    """The loops that picklable functions build: on a CPU each in a process of its own, so that no loop trains with the
    settings of another; on a GPU all in this process."""
    if device.type != "cpu":
        yield {name: build() for name, build in builders.items()}
        return
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        loops = {}
        for name, build in builders.items():
            process = stack.enter_context(ProcessPoolExecutor(1, spawn, _build, (build,)))
            loops[name] = partial(_run_in, process)
        yield loops


_BUILT: list[Loop] = []  # of a process of `apart`


def _build(build: Callable[[], Loop]) -> None:
    _BUILT.append(build())


def _run(steps: int) -> None:
    _BUILT[0](steps)


def _run_in(process: ProcessPoolExecutor, steps: int) -> None:
    process.submit(_run, steps).result()


def measure(loops: dict[str, Loop], steps: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds a step of each loop in each of the rounds, in which all take their turn."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds + 1):  # the first round warms up
        for name, run in loops.items():
            started = time.perf_counter()
            run(steps)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append((time.perf_counter() - started) / steps)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    params, device = load(), choose_device(options.device)
    size, channels = params.data.image_size, params.data.channels
    images = random_images((channels, size, size), device)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {size}x{size}x{channels}")
    for name in params.compare.models:
        recipe = params.models[name]
        builders = {variant.name: partial(plain_loop, recipe, images, variant) for variant in variants()}
        with apart(builders | {"ours": partial(ours, recipe, images, params)}, device) as loops:
            measured = measure(loops, options.steps, options.rounds, device)
        seconds = {row: statistics.median(values) for row, values in measured.items()}
        plain = seconds[Variant().name]
        print(f"\n{name}: batch {recipe.batch_size}, n_critic {recipe.n_critic}")
        for row, value in seconds.items():
            speed = recipe.batch_size * recipe.n_critic / value
            print(f"  {row:56s} {speed:9.0f} images/s   {plain / value:5.2f}x")


if __name__ == "__main__":
    main()
