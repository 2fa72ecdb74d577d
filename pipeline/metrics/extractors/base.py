"""What an extractor is, and how images pass through it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.progress import progress
from pipeline.metrics.extractors.fast import accelerate
from pipeline.metrics.precision import full_precision

CPU_PIXELS = 4 * 299 * 299  # of Inception: 15.9 images a second by 4, 12.5 by 64, on 2 cores


def _unresized(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Extractor:
    """A frozen network that turns images into feature vectors.

    metric: what the Fréchet distance under it is called.
    network: its input, float32 (N, 3, S, S), to features (N, dim).
    protocol: what a number measured with it must say of it: input size, resize, value range, weights.
    head: the class weights (K, dim) that turn features into logits, None if it has none.
    resize: float32 RGB images in 0..255, (N, 3, H, W), to the network's input.
    version: of its code; `load_extractor` fills it in.
    shared: features of batches of images of one size by several ranks, see `pipeline.metrics.shared`; None = by this
        process alone.
    """

    name: str
    metric: str
    dim: int
    network: nn.Module
    device: torch.device
    protocol: dict[str, Any]
    head: np.ndarray | None = None
    resize: Callable[[Tensor], Tensor] = _unresized
    version: str = ""
    shared: "Callable[[Extractor, Iterable[Tensor | Sequence[Tensor]]], Iterator[np.ndarray]] | None" = None

    @torch.inference_mode()
    def __call__(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Features float32 (N, dim), on the CPU, of images uint8: (N, C, H, W), or N images (C, H, W) of any sizes.

        Grey is repeated to RGB.
        """
        groups = [images] if isinstance(images, Tensor) else _same_size(images)
        with full_precision(), torch.autocast(self.device.type, enabled=False):
            resized = torch.cat([self.resize(self._rgb(group)) for group in groups])
            parts = torch.split(resized.contiguous(memory_format=torch.channels_last), self._part(resized))
            return torch.cat([self.network(part).float().cpu() for part in parts])

    def _part(self, resized: Tensor) -> int:
        """How many images pass the network at once: on a CPU no more than its caches take, in equal parts."""
        count, _, height, width = resized.shape
        most = max(1, CPU_PIXELS // (height * width)) if self.device.type == "cpu" else max(count, 1)
        return max(1, -(-count // -(-count // most))) if count else 1

    def _rgb(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8, f"images must be uint8, got {images.dtype}"
        return images.to(self.device).expand(-1, 3, -1, -1).float()  # (N, 1 or 3, H, W) -> (N, 3, H, W)


def frozen(network: nn.Module, device: torch.device, size: int, compiled: bool) -> nn.Module:
    """The network as an extractor uses it: without gradients, on `device`, faster for inputs (N, 3, size, size)."""
    network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    return accelerate(network, size, compiled)


def in_batches(images: np.ndarray, size: int) -> Iterator[Tensor]:
    """Copies of `size` images at a time of a uint8 array (N, C, S, S), a last shorter batch included."""
    for start in range(0, len(images), size):
        yield torch.from_numpy(np.array(images[start : start + size]))


def extract(extractor: Extractor, batches: Iterable[Tensor | Sequence[Tensor]]) -> Iterator[np.ndarray]:
    """Features float32 (N, dim) of each batch of images."""
    if extractor.shared is not None:
        yield from extractor.shared(extractor, batches)
        return
    for images in batches:
        yield extractor(images).numpy()


def features_of(extractor: Extractor, images: np.ndarray, size: int, title: str) -> Iterator[np.ndarray]:
    """Features float32 (n, dim) of a uint8 array (N, C, S, S), `size` images at a time, under a progress bar."""
    batches = progress(in_batches(images, size), f"features of {title}", -(-len(images) // size), "batches")
    yield from extract(extractor, batches)


def _same_size(images: Sequence[Tensor]) -> list[Tensor]:
    """One batch of all images if they are of one size, else one for each."""
    if len({image.shape for image in images}) == 1:
        return [torch.stack(tuple(images))]
    return [image[None] for image in images]
