"""Samples by several ranks, of which each makes a batch at a time.

A batch passes one rank's generator whole, as it would pass the only one: the samples are the same bits.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pipeline.core.world import SAMPLES, World
from pipeline.sampling.images import sample


def share_samples(
    world: World, number: int, generator: nn.Module, labels: Tensor, settings: tuple[int, int, int]
) -> Iterator[Tensor]:
    """As `sample`, on the first rank, by all; the others run what `follow_samples` gives.

    Args:
        number: of the generator among those of the other ranks.
        settings: the seed, the size of a batch, and that of the latents.
    """
    own = sample(generator, labels, *settings, first=world.rank, every=world.size)
    if world.size == 1:
        yield from own
        return
    for _ in range(0, len(labels), settings[1] * world.size):
        with world.lead(SAMPLES, number):
            images = _one_batch_each(world, own)
        yield images


def follow_samples(
    world: World, generators: Sequence[nn.Module], labels: Tensor, settings: tuple[int, int, int]
) -> Callable[[int], None]:
    """What another rank does for SAMPLES: its next batch of the generator of that number."""
    own = [sample(generator, labels, *settings, first=world.rank, every=world.size) for generator in generators]

    def next_batch(number: int) -> None:
        _one_batch_each(world, own[number])

    return next_batch


def _one_batch_each(world: World, own: Iterator[Tensor]) -> Tensor:
    """The next batches of all ranks, in their order, uint8 (N, C, S, S); at the end only the first may have one."""
    images = next(own, torch.empty(0, 0, 0, 0, dtype=torch.uint8))
    sizes = world.each(torch.tensor(images.shape))  # (ranks, 4)
    counts = sizes[:, 0].tolist()
    whole = torch.zeros(sum(counts), *sizes[0, 1:].tolist(), dtype=torch.uint8)
    start = sum(counts[: world.rank])
    whole[start : start + len(images)] = images.view(len(images), *whole.shape[1:])
    return world.total(whole)
