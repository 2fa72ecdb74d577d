"""Random numbers from a stable hash of (seed, stream, step), everywhere in the project.

A draw is a function of its name, never of earlier draws. A checkpoint therefore needs no random state, and a run that
was killed and resumed draws exactly what it would have drawn. (The idea is that of edm2, `training_loop.py`.)
"""

import hashlib

import torch


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
