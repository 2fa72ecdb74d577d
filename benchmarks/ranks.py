"""Is a training on several devices the same training? Each recipe of params.yaml by one process and by several.

    python -m benchmarks.ranks [--device cpu] [--ranks 2] [--steps 50] [--width 16] [--batch 32] [MODEL ...]

The images are random ones of 16 pixels. For each recipe it prints the largest difference, after so many steps, between
what the networks of one process and those of several make of the same inputs, any pixel of G or logit of D: in float64,
where only a mistake can make it large, and in float32, where any other order of additions does; beside it that of one
process with 1 and with 2 threads. Then the largest difference of any weight in float64: biases before batch norm, which
change no output and have no gradient but rounding, can differ more. `same again` says whether several ranks trained the
same bits twice. Last come the milliseconds of a step.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.core.devices import make_deterministic
from pipeline.core.errors import exit_cleanly
from pipeline.core.ranks import find_place, open_world, rank_command
from pipeline.core.world import ALONE, STEP, World
from pipeline.data.batches import ImageSet
from pipeline.gan.flow import loss_of
from pipeline.gan.step import TrainState, advance, create_state, train
from pipeline.models.batch_norm import synchronise
from pipeline.params import Recipe, TrainParams, load

SHAPE, CLASSES, COUNT = (1, 16, 16), 10, 256


@exit_cleanly
def main() -> None:
    options = _options()
    make_deterministic()
    place, command = find_place(options.device, options.ranks), rank_command(__spec__, None)
    rank = place.rank
    with open_world(place, command, [], {}) as world:
        say: Callable[[str], None] = print if rank == 0 else lambda line: None
        say("recipe | float64 | float32 | float32, threads | weights | same again | ms alone | ms")
        say("---|---|---|---|---|---|---|---")
        for name in options.models or list(load().models):
            _compare(name, options, place.device, world, say)


def _compare(
    name: str, options: argparse.Namespace, device: torch.device, world: World, say: Callable[[str], None]
) -> None:
    params = load().override({"train.steps": options.steps, "train.channels_last": False})
    sizes = {"width_g": options.width, "width_d": options.width, "batch_size": options.batch}
    recipe = params.models[name].model_copy(update=sizes)
    found: dict[str, float] = {}
    plain, budget = Tensor.float, params.train
    for precision in ("float64", "float32"):
        if precision == "float64":
            Tensor.float = Tensor.double  # type: ignore[method-assign]
            torch.set_default_dtype(torch.float64)
        several, slow = _train(recipe, budget, device, world)
        if world.rank == 0:
            alone, quick = _train(recipe, budget, device, ALONE)
            found[precision] = _difference(*(_outputs(state, recipe, budget) for state in (several, alone)))
            if precision == "float64":
                found["weights"] = _difference(_weights(several), _weights(alone))
        Tensor.float = plain  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)
    again, _ = _train(recipe, budget, device, world)
    if world.rank == 0:
        threads = torch.get_num_threads()
        torch.set_num_threads(3 - min(threads, 2))
        other, _ = _train(recipe, budget, device, ALONE)
        torch.set_num_threads(threads)
        found["threads"] = _difference(*(_outputs(state, recipe, budget) for state in (alone, other)))
        same = all(map(torch.equal, _weights(several), _weights(again)))
        numbers = " | ".join(f"{found[name]:.1e}" for name in ("float64", "float32", "threads", "weights"))
        say(f"{name} | {numbers} | {'yes' if same else 'NO'} | {quick:.0f} | {slow:.0f}")


def _train(recipe: Recipe, budget: TrainParams, device: torch.device, world: World) -> tuple[TrainState, float]:
    """The state after so many steps, and the median milliseconds of one."""
    loss = loss_of(recipe)
    state = create_state(recipe, budget, SHAPE, CLASSES, 0, device)
    for network in (state.gan.generator, state.gan.discriminator):
        synchronise(network, world)
    source = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (COUNT, *SHAPE), generator=source, dtype=torch.uint8)
    images = ImageSet(pixels.to(device), (torch.arange(COUNT) % CLASSES).to(device), CLASSES)
    if world.rank:
        world.follow({STEP: lambda _: advance(state, images, loss, recipe, budget, world)}, until=budget.steps)
        return state, 0.0
    times = [time.perf_counter()]
    for _ in train(state, images, loss, recipe, budget, world):
        times.append(time.perf_counter())
    return state, 1000 * statistics.median(b - a for a, b in itertools.pairwise(times))


def _difference(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest of any two numbers."""
    return max((mine - theirs).abs().max().item() for mine, theirs in zip(one, other, strict=True))


def _weights(state: TrainState) -> list[Tensor]:
    named = state.tensors().items()
    return [tensor for name, tensor in named if name[:2] in ("g.", "d.", "em") and tensor.is_floating_point()]


@torch.no_grad()
def _outputs(state: TrainState, recipe: Recipe, budget: TrainParams) -> list[Tensor]:
    """Images and logits of the networks as they train, whose batch norm has the statistics of these inputs."""
    fresh, source = (
        create_state(recipe, budget, SHAPE, CLASSES, 0, state.losses.device).gan,
        torch.Generator().manual_seed(1),
    )
    for network, trained in ((fresh.generator, state.gan.generator), (fresh.discriminator, state.gan.discriminator)):
        network.load_state_dict(trained.state_dict())
    device = state.losses.device
    labels = (torch.arange(recipe.batch_size) % CLASSES).to(device)
    images = fresh.generator(torch.randn(recipe.batch_size, recipe.latent_dim, generator=source).to(device), labels)
    return [images, fresh.discriminator(images, labels)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", help="entries under models: in params.yaml (all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    for name, value in (("ranks", 2), ("steps", 50), ("width", 16), ("batch", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


if __name__ == "__main__":
    main()
