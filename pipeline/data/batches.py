"""Batches of prepared images on a device: the input of a training step."""

import functools
from dataclasses import dataclass

import torch

from pipeline.core.errors import PipelineError
from pipeline.core.randomness import named_draws, rng
from pipeline.core.world import ALONE, World
from pipeline.data.host_images import HostImages


@dataclass(frozen=True)
class ImageSet:
    """A split for one device: images uint8 (N, C, H, W), there or in their file; labels int64 (N,), there."""

    images: torch.Tensor | HostImages
    labels: torch.Tensor
    n_classes: int  # 0 = unlabelled


def batch(
    images: ImageSet, index: int, size: int, seed: int, flip: bool, dequantise: bool, world: World = ALONE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch `index` of an endless sequence: float32 (size, C, H, W) in [-1, 1], and int64 (size,).

    Where several ranks share the batch, it is this rank's part of it.

    A pure function of its arguments. Each epoch is a fresh permutation, the same on every device; an incomplete last
    batch is not used. `flip` mirrors each image with probability 1/2. `dequantise` adds noise from U(0, 1/128) after
    scaling, as the SNGAN code does, so that values reach 1 + 1/128.

    Raises:
        PipelineError: there are fewer than `size` images.
    """
    assert index >= 0 and size >= 1, (index, size)
    count, device = len(images.labels), images.images.device
    if size > count:
        raise PipelineError(f"batch_size: must be at most the number of training images, {count}, got {size}")
    chosen = world.part(_chosen(count, index, size, seed, device))
    if isinstance(images.images, HostImages):
        host = torch.device("cpu")
        here, following = (world.part(_chosen(count, one, size, seed, host)) for one in (index, index + 1))
        rows = images.images.batch(here, following)
    else:
        rows = images.images[chosen]
    if flip:
        mirrored = named_draws(device, world, seed, "flip", index).rand(len(rows), 1, 1, 1) < 0.5
        rows = torch.where(mirrored, rows.flip(-1), rows)
    values = rows.float().div_(127.5).sub_(1)
    if dequantise:
        values.add_(named_draws(device, world, seed, "noise", index).rand(*values.shape), alpha=1 / 128)
    return values, images.labels[chosen]


def _chosen(count: int, index: int, size: int, seed: int, device: torch.device) -> torch.Tensor:
    """The numbers of the images of batch `index`, int64 (size,). Do not write to them."""
    epoch, place = divmod(index, count // size)
    return _epoch_order(count, seed, epoch, device)[place * size : (place + 1) * size]


@functools.lru_cache(maxsize=8)  # two sequences, on the device and on the host, at the turn of an epoch
def _epoch_order(count: int, seed: int, epoch: int, device: torch.device) -> torch.Tensor:
    """The permutation of one epoch, int64 (count,). Do not write to it: it is cached."""
    pinned = device.type == "cuda"  # so that the copy makes the host wait for nothing
    order = torch.randperm(count, generator=rng("cpu", seed, "epoch", epoch), pin_memory=pinned)
    return order.to(device, non_blocking=pinned)
