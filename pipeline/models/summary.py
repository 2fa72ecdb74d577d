"""What a network consists of and what it costs: one row for each layer, found by running it without numbers.

The network runs on the meta device, where tensors have shapes and no values, so that even a large one costs nothing.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from pipeline.core.tables import table
from pipeline.models.build import ImageShape
from pipeline.params import Recipe

COUNTED = (
    "Multiply-adds are those of one image passing forwards through convolutions, linear layers and attention's matrix\n"
    "products; normalisation, activations, additions, pooling, upsampling and embeddings are not counted."
)


@dataclass(frozen=True)
class Row:
    """One layer: its dotted name, its class, its output for one image, and what is its own, not its sublayers'."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def inputs_of(recipe: Recipe, image_shape: ImageShape) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What G and D are called with for as few images as can be, which D may see together, on the meta device."""
    count = recipe.group
    labels = torch.zeros(count, dtype=torch.int64, device="meta")
    latents, images = (torch.empty(count, *shape, device="meta") for shape in ((recipe.latent_dim,), image_shape))
    return (latents, labels), (images, labels)


def summarise(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Row]:
    """The layers of a network in the order in which they finish, found on the meta device, to which it is moved.

    A layer is a module without others inside, or one with parameters or products of its own, such as attention. What a
    parametrisation adds (spectral normalisation) is no layer: a normalised weight is its layer's own. A layer that is
    called twice has one row, with the shape of the first call and the multiply-adds of both. Multiply-adds are those of
    one image, a mean where `inputs` has several.
    """
    network = network.to("meta").eval()  # batch norm cannot train on one image
    modules = {name: m for name, m in network.named_modules() if "parametrizations" not in name.split(".")}
    counter, shapes, spent, running = FlopCounterMode(display=False), dict[str, tuple[int, ...]](), Counter[str](), [""]

    def attribute() -> None:
        """What was spent since the last call is of the innermost module that runs."""
        spent[running[-1]] += counter.get_total_flops() // 2 - spent.total()  # two operations make a multiply-add

    def enter(name: str, *_: Any) -> None:
        attribute()
        running.append(name)

    def leave(name: str, module: nn.Module, _: Any, output: Tensor) -> None:
        attribute()
        running.pop()
        shapes.setdefault(name, tuple(output.shape[1:]))

    hooks = [module.register_forward_pre_hook(partial(enter, name)) for name, module in modules.items()]
    hooks += [module.register_forward_hook(partial(leave, name)) for name, module in modules.items()]
    with torch.no_grad(), counter:
        network(*inputs)
    for hook in hooks:
        hook.remove()
    rows = [
        Row(n, _kind(modules[n]), shapes[n], _own_parameters(modules[n]), spent[n] // len(inputs[0])) for n in shapes
    ]
    return [row for row in rows if row.parameters or row.multiply_adds or not _parts(modules[row.name])]


def _kind(module: nn.Module) -> str:
    """The class's name, and (SN) where the weight is spectrally normalised, the only parametrisation that there is."""
    name = parametrize.type_before_parametrizations(module).__name__
    return f"{name} (SN)" if parametrize.is_parametrized(module) else name


def _parts(module: nn.Module) -> list[nn.Module]:
    return [child for name, child in module.named_children() if name != "parametrizations"]


def _own_parameters(module: nn.Module) -> int:
    """The number of trained values of a module without those of its parts."""
    inner = sum(count_parameters(part) for part in _parts(module))
    return count_parameters(module) - inner


def count_parameters(network: nn.Module) -> int:
    """The number of trained values of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def describe(network: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """The table of a network's layers, with their totals in its last line."""
    rows = summarise(network, inputs)
    heading = ("layer", "kind", "output", "parameters", "multiply-adds")
    cells = [
        (row.name or "itself", row.kind, "x".join(map(str, row.shape)), row.parameters, row.multiply_adds)
        for row in rows
    ]
    total = ("total", "", "", sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows))
    return table([heading, *cells, total])
