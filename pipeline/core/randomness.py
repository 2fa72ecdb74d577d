"""Random numbers from a stable hash of (seed, stream, step), everywhere in the project.

A draw is a function of its name, never of earlier draws. A checkpoint therefore needs no random state, and a run that
was killed and resumed draws exactly what it would have drawn. (The idea is that of edm2, `training_loop.py`.)
"""

import hashlib

import torch

from pipeline.core.world import ALONE, World


def stable_hash(*parts: object) -> int:
    """A 63-bit integer that depends only on the text of `parts`: the same in every process and on every machine.

    >>> stable_hash(0, "latents", 7) == stable_hash(0, "latents", 7) != stable_hash(0, "latents", 8)
    True
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rng(device: torch.device | str, *parts: object) -> torch.Generator:
    """A fresh torch generator on `device`, seeded by `stable_hash(*parts)`.

    The generator for `meta` tensors, which hold no numbers, is on the CPU.
    """
    device = torch.device(device)
    return torch.Generator("cpu" if device.type == "meta" else device).manual_seed(stable_hash(*parts))


class Draws:
    """Random numbers for the images of a batch, from a source such as `rng`.

    Where a batch is shared by several ranks, each draws for the whole of it and keeps its own images' numbers. So a
    shape names this rank's images, as one has them, along the dimension `of` (0 unless said).
    """

    def __init__(self, source: torch.Generator, device: torch.device | str = "cpu", world: World = ALONE) -> None:
        self._source, self._device, self._world = source, device, world

    def rand(self, *shape: int, of: int = 0) -> torch.Tensor:
        """Uniform numbers in [0, 1), float32."""
        return self._own(torch.rand(self._whole(shape, of), generator=self._source, device=self._device), of)

    def randn(self, *shape: int, of: int = 0) -> torch.Tensor:
        """Normal numbers, float32."""
        return self._own(torch.randn(self._whole(shape, of), generator=self._source, device=self._device), of)

    def randint(self, low: int, high: int, shape: tuple[int, ...], of: int = 0) -> torch.Tensor:
        """Whole numbers from `low` to `high` - 1, int64."""
        whole = self._whole(shape, of)
        return self._own(torch.randint(low, high, whole, generator=self._source, device=self._device), of)

    def _whole(self, shape: tuple[int, ...], of: int) -> tuple[int, ...]:
        return tuple(size * self._world.size if place == of else size for place, size in enumerate(shape))

    def _own(self, whole: torch.Tensor, of: int) -> torch.Tensor:
        return self._world.part(whole, of)
