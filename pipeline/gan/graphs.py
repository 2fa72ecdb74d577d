"""CUDA graphs: the gradients of an update are captured once, and replayed without Python and without launches.

A step of a GAN is hundreds to thousands of small kernels, and launching each from Python takes longer than a large GPU
needs to compute it. A graph launches all of an update at once. It runs the same kernels on the same numbers, so a
result does not change, and nothing of the graphs is in a checkpoint.

What changes from step to step stays outside: batches, latents and random numbers are written into the memory that the
graph reads (`pipeline.core.randomness.Tape`); optimisers, clipping and the average of G follow it as ever.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.core.randomness import Tape
from pipeline.params import Recipe, Schedule

Inputs = tuple[Tensor, ...]
Gradients = Callable[..., dict[str, Tensor]]  # (index, *inputs) -> values; sets the gradients of a network
Found = dict[str, Tensor]
Capture = Callable[[Callable[[], None]], Callable[[], None]]


class CudaCapture:
    """Captures work on CUDA; what it captures shares memory for what is in between, so no two may run at once.

    Where a captured graph keeps a result, one that was captured before it may write: what is needed after another graph
    has run has to be copied elsewhere.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture `work` without running it; returns what runs it."""
        graph = torch.cuda.CUDAGraph()
        # Other threads upload, read images and watch the GPU: their calls are not of this capture.
        with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
            work()
        replay: Callable[[], None] = graph.replay
        return replay


@dataclass
class _Update:
    """One kind of update: its random numbers, inputs and values, in place; once captured its replay and gradients."""

    inputs: Inputs
    tape: Tape = field(default_factory=Tape)
    replay: Callable[[], None] | None = None
    found: Found = field(default_factory=dict)
    gradients: list[Tensor | None] = field(default_factory=list)


class Graphs:
    """The captured updates of one training, by what tells them apart.

    The first update of a kind runs as ever: it loads kernels, and tells which random numbers are drawn. The second is
    captured, and it and all that follow are replays.
    """

    def __init__(self, capture: Capture | None = None) -> None:
        self._capture = capture or CudaCapture()
        self._updates: dict[Hashable, _Update] = {}

    def run(
        self, kind: Hashable, parameters: Sequence[nn.Parameter], index: int, work: Gradients, inputs: Inputs
    ) -> Found:
        """What `work(index, *inputs)` returns, with the gradients of `parameters` that it sets.

        Args:
            kind: for each another graph. Of one kind all updates must do the same with tensors of the same shapes, and
                depend on `index` by named random numbers alone. Gradients must be None before.
        """
        update = self._updates.get(kind)
        if update is None:
            update = self._updates[kind] = _Update(inputs)
            with update.tape.record():
                found = work(index, *inputs)
            update.found = {name: torch.empty_like(value) for name, value in found.items()}
            return found
        for place, value in zip(update.inputs, inputs, strict=True):
            place.copy_(value)
        update.tape.draw_again(index)
        if update.replay is None:
            with update.tape.play():
                update.replay = self._capture(lambda: _write(work(index, *update.inputs), update.found))
            update.gradients = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, update.gradients, strict=True):
            parameter.grad = gradient
        update.replay()
        return update.found


def _write(values: Found, places: Found) -> None:
    """Copy values to where no other graph writes: the curves read those of D when that of G has run."""
    for name, value in values.items():
        places[name].copy_(value)


def not_captured(recipe: Recipe) -> str | None:
    """Why the updates of a recipe cannot be captured, in words that follow "for"; None = they can.

    A captured number is a constant, so what the step computes in Python must be the same at each step.
    """
    if recipe.reuse_fakes:
        return "reuse_fakes joins the updates of D and G"
    if recipe.instance_noise:
        return "instance_noise changes from step to step"
    for name in ("penalty_weight", "augment_strength", "top_k"):
        if isinstance(getattr(recipe, name), Schedule):
            return f"{name} changes from step to step"
    return None
