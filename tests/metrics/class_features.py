"""Features in clusters, one for each class."""

import functools

import numpy as np

from tests.metrics.comparisons import comparison

compare = functools.partial(comparison, metric="fd_x")


def draw(counts: dict[int, int], seed: int, spread: float = 1.0, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """float32 features (N, D) in one cluster per label, and the labels int64 (N,), shuffled."""
    source = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(10, 3, size=(10, dim))
    labels = source.permutation(np.repeat(list(counts), list(counts.values())))
    return (centres[labels] + spread * source.normal(size=(len(labels), dim))).astype(np.float32), labels
