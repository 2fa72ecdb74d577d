"""Processes that train one model together, each a rank with a device of its own.

Rank 0 leads: it alone decides, writes and logs. Before each thing that the ranks do together it sends the others the
name of that thing (`World.lead`); they wait for it and do the same (`World.follow`). A process by itself is `ALONE`,
for which everything here is the identity.

The batch of a recipe is that of all ranks. Every rank has the same weights and draws the same numbers for the whole
batch; of both it takes the images `rank`, `rank + size`, `rank + 2 * size`, ... So the mathematics of a run does not
depend on how many ranks there are, only the order in which sums are added up does.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from pipeline.core.errors import PipelineError

END, STEP, STATE, FEATURES, SAMPLES = range(5)  # what rank 0 can lead


class RankLost(PipelineError):
    """Another rank has ended, or does not answer any more."""


@dataclass(eq=False)
class World:
    """The ranks of a run, seen from one of them.

    commands: the group in which rank 0 leads; None = alone.
    block: how many images in a row it takes at a time.
    signals: the numbers of the stop signals that this rank has received.
    told: on rank 0, the numbers of the stop signals that other ranks have received.
    intact: whether the ranks are between two things that they do together: only then can rank 0 send them anything.
    """

    rank: int = 0
    size: int = 1
    commands: "dist.ProcessGroup | None" = None
    signals: list[int] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    intact: bool = True
    block: int = 1

    def is_to_stop(self) -> bool:
        """Whether a stop signal has reached this rank or, if this is the first, another one."""
        return bool(self.signals or self.told)

    def part(self, whole: Tensor, dim: int = 0) -> Tensor:
        """Of the numbers of a batch those of this rank's images."""
        if self.size == 1:
            return whole
        places = torch.arange(self.rank * self.block, whole.shape[dim], self.size * self.block, device=whole.device)
        if self.block > 1:
            places = (places[:, None] + torch.arange(self.block, device=whole.device)).flatten()
        return whole.index_select(dim, places)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all ranks, differentiable, twice too. Every rank must ask for it in the same order."""
        return value if self.size == 1 else _Sum.apply(value)

    def whole(self, part: Tensor) -> Tensor:
        """The whole batch's numbers from each rank's part, in their order, differentiable: the inverse of `part`."""
        if self.size == 1:
            return part
        placed = part.new_zeros(len(part), self.size, *part.shape[1:])
        placed[:, self.rank] = part
        return self.total(placed).flatten(0, 1)

    def each(self, value: Tensor) -> Tensor:
        """The values of all ranks, one row each (size, ...), differentiable."""
        placed = value.new_zeros(self.size, *value.shape)
        placed[self.rank] = value
        return self.total(placed)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all ranks, differentiable: of means over each rank's images, that over the whole batch."""
        return value if self.size == 1 else self.total(value) / self.size

    def micro_batches(self, count: int) -> "list[World]":
        """The parts of a batch that pass the networks one after another: part i is its images i, i + count, ...

        Each is shared by all ranks, and of each this rank takes what a rank among `count` times as many would.
        """
        return [self] if count == 1 else [MicroBatch(self, number, count) for number in range(count)]

    def all_of(self, count: int) -> "World":
        """What takes this rank's images of all micro-batches at once; `MicroBatch.cut` then tells them apart."""
        return self if 1 in (count, self.size) else World(self.rank, self.size, block=count)

    def cut(self, values: Tensor) -> Tensor:
        """Of the numbers of all images of this rank those of a micro-batch; where there is one only, all of them."""
        return values

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Set each gradient to its mean over all ranks, in one message."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = _sum(torch.cat([gradient.flatten() for gradient in gradients])) / self.size
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the values that rank 0's tensors have."""
        for tensor in tensors if self.size > 1 else ():
            values = tensor.contiguous()  # a channels_last tensor is not
            dist.broadcast(values, src=0)
            tensor.copy_(values)

    @contextlib.contextmanager
    def lead(self, command: int, argument: int = 0) -> Iterator[None]:
        """On rank 0: have all ranks do what the body does here.

        Raises:
            RankLost: another rank has ended or does not answer.
        """
        if self.size == 1:
            yield
            return
        assert self.rank == 0
        self.intact = False
        with self._faults():
            signal = self._agree(command, argument)[2]
            if signal and signal not in self.told:
                self.told.append(signal)
            yield
        self.intact = True

    def follow(self, doings: Mapping[int, Callable[[int], None]], until: int | None = None) -> None:
        """On another rank: do what rank 0 leads, each with its argument, until it ends, or so many things are done.

        Raises:
            RankLost: rank 0 has ended or does not answer.
        """
        for _ in itertools.count() if until is None else range(until):
            with self._faults():
                command, argument, _ = self._agree(0, 0)
                if command == END:
                    return
                doings[command](argument)

    def _agree(self, command: int, argument: int) -> tuple[int, int, int]:
        """Rank 0's command and its argument, and the number of a signal that any rank has received, 0 = none."""
        message = torch.tensor([command, argument, max(self.signals, default=0)])
        dist.all_reduce(message, dist.ReduceOp.MAX, group=self.commands)
        found = message.tolist()
        return found[0], found[1], found[2]

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # so gloo tells that a connection is closed, or that an answer takes too long
            if not any(sign in str(error) for sign in LOST):
                raise
            raise RankLost(f"rank {self.rank} has lost another rank: {error}") from error


class MicroBatch(World):
    """A rank's part of one of the `count` micro-batches of a batch, whose gradients are added up.

    It takes of a batch, and of random numbers, what a rank among `count` times as many would. But while one passes the
    networks the others are not there: nothing can be asked of the whole batch.
    """

    def __init__(self, rank: World, number: int, count: int) -> None:
        super().__init__(rank.rank * count + number, rank.size * count)
        self._among = World(number, count)

    def cut(self, values: Tensor) -> Tensor:
        assert len(values) % self._among.size == 0, (len(values), self._among.size)
        return self._among.part(values)

    def total(self, value: Tensor) -> Tensor:
        """Raises a PipelineError."""
        problem = "must be 1 with a penalty that asks for the mean or the numbers of the whole batch"
        raise PipelineError(f"train.accumulate: {problem}", field="train.accumulate", problem=problem)


ALONE = World()
LOST = ("gloo", "Gloo", "NCCL", "Connection closed", "Connection reset", "Timed out waiting", "timed out")


def _sum(value: Tensor) -> Tensor:
    result = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result)
    return result


class _Sum(torch.autograd.Function):
    """A sum over ranks. Each rank's share has the gradient of all that any rank makes of the sum: a sum as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _sum(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        result: Tensor = _Sum.apply(gradient)
        return result
