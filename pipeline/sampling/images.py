"""From a generator to uint8 images.

The latents of sample i are a function of (seed, i) alone, on every device. So are its pixels, given its label, but for
the rounding of kernels that a library chooses by device and batch size: at most one level in a few pixels.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.randomness import rng

LEAST_PIXEL_STD_RATIO = 0.05  # of a grid, as a share of real images' spread: below it the model has collapsed
BLOCK = 256  # latents are drawn in blocks of this size, so that a batch's size never shifts them


def latents(seed: int, start: int, stop: int, latent_dim: int) -> Tensor:
    """The latents of samples start..stop-1: float32 (stop - start, Z) on the CPU, the same for every device."""
    first, last = start // BLOCK, (stop - 1) // BLOCK
    blocks = [
        torch.randn(BLOCK, latent_dim, generator=rng("cpu", seed, "samples", block)) for block in range(first, last + 1)
    ]
    return torch.cat(blocks)[start - first * BLOCK : stop - first * BLOCK]


def labels(choice: str | int, counts: Sequence[int], n: int) -> Tensor:
    """The labels of samples 0..n-1, int64: those of the first k samples are as `choice` says, for every k.

    Args:
        choice: "balanced", each class that has training images as often as any other; "data", each as often as among
            the training images; or the number of one class, which all samples have.
        counts: how many training images each class has; of images without labels, one number.

    The order is that of the divisor method of Webster and Sainte-Laguë: of equal classes each in turn.

    >>> labels("data", [10, 30], 8).tolist()
    [1, 0, 1, 1, 1, 0, 1, 1]
    """
    if isinstance(choice, int):
        return torch.full((n,), choice)
    weights = np.asarray(counts, np.float64)
    weights = np.sign(weights) if choice == "balanced" else weights
    most = (n + len(weights) / 2) * weights / weights.sum()  # no class is due more often
    numbers = [np.arange(int(number) + 2) for number in most]
    # Of counts, not of shares: equal quotients then round to the same number.
    due = np.concatenate([(k + 0.5) / weight for k, weight in zip(numbers, weights, strict=True) if weight])
    owner = np.concatenate([np.full(len(k), label) for label, k in enumerate(numbers) if weights[label]])
    return torch.from_numpy(owner[np.lexsort((owner, due))[:n]])


def rows_of_classes(classes: Sequence[int], rows: int, columns: int) -> Tensor:
    """The labels of a grid with one class a row, int64 (rows * columns,): the classes in order, each in equal parts.

    >>> rows_of_classes([0, 1, 2], rows=4, columns=2).tolist()
    [0, 0, 0, 0, 1, 1, 2, 2]
    """
    chosen = np.sort(np.arange(rows) % len(classes))
    return torch.from_numpy(np.asarray(classes)[chosen].repeat(columns))


@torch.inference_mode()
def sample(
    generator: nn.Module, labels: Tensor, seed: int, batch_size: int, latent_dim: int, first: int = 0, every: int = 1
) -> Iterator[Tensor]:
    """Yield one sample for each label in batches: uint8 (N, C, S, S) on the CPU.

    The generator runs in evaluation mode on the device of its weights, and is left in the mode it came in. Every
    batch it sees has the same size (a short last one is filled up), so that the same kernels make every sample.

    Args:
        first, every: which batches are wanted: this one, counted from 0, and every so many after it.
    """
    device, was_training, n = next(generator.parameters()).device, generator.training, len(labels)
    labels = F.pad(labels, (0, -n % batch_size))
    generator.eval()
    try:
        for start in range(first * batch_size, n, every * batch_size):
            stop = start + batch_size
            images = generator(latents(seed, start, stop, latent_dim).to(device), labels[start:stop].to(device))
            yield to_uint8(images)[: n - start].cpu()
    finally:
        generator.train(was_training)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to 0..255, rounded to the nearest: -1 -> 0, 0 -> 128, 1 -> 255; what lies outside is clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def pixel_std(images: torch.Tensor) -> float:
    """How much images differ, in grey levels: the standard deviation of a pixel over them, the mean of all pixels.

    Args:
        images: uint8 (R, N, C, H, W), or (N, C, H, W) for R = 1: R groups of N, compared within each group.
    """
    return float(images.float().std(dim=-4).mean())
