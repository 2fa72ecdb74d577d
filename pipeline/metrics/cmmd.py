"""CMMD: a kernel distance of CLIP's embeddings (Jayasumana et al. 2024, arXiv:2401.09603).

    CMMD = 1000 * (E k(x, x') + E k(y, y') - 2 E k(x, y)),   k(x, y) = exp(-|x - y|² / (2 * 10²))

The means are over all pairs, those of an image with itself too, as in the authors' code: the biased estimate, which
falls to 0 for equal sets only, and is too high by about 1000 * (E k(x, x) - E k(x, x')) / N on each side.
"""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.core.metric_names import CLIP, cmmd_name
from pipeline.metrics.applicable import NotApplicable
from pipeline.metrics.precision import full_precision
from pipeline.metrics.types import Comparison, Estimate

SIGMA, SCALE = 10, 1000
ROWS, COLUMNS = 2048, 4096  # of a block of the kernel's matrix: 64 MiB in float64


def cmmd(comparison: Comparison) -> dict[str, Estimate]:
    """The distance between real and generated images under CLIP. It has no error.

    Raises:
        NotApplicable: the features are another network's.
    """
    if not comparison.metric.startswith(f"fd_{CLIP}"):
        raise NotApplicable(f"needs the extractor {CLIP}")
    real, generated = comparison.real.features, comparison.generated.features
    value = kernel_mean(real, real) + kernel_mean(generated, generated) - 2 * kernel_mean(real, generated)
    return {cmmd_name(comparison.metric): Estimate(SCALE * value)}


def kernel_mean(first: np.ndarray, second: np.ndarray) -> float:
    """The mean of k over all pairs of features (N, D) and (M, D).

    Scalar products are float32: what they err by is multiplied by 1 / SIGMA² before it reaches the result.

    >>> round(kernel_mean(np.zeros((1, 2)), np.array([[0.0, 0.0], [6.0, 8.0]])), 6)      # (1 + exp(-1/2)) / 2
    0.803265
    """
    total = 0.0
    for rows in _blocks(first, ROWS):
        for columns in _blocks(second, COLUMNS):
            lengths = (rows**2).sum(dim=1)[:, None] + (columns**2).sum(dim=1)
            with full_precision(), torch.autocast("cpu", enabled=False):
                squared = (lengths - 2 * (rows @ columns.T)).double()
            total += float((squared.clamp_(min=0) / (-2 * SIGMA**2)).exp_().sum())
    return total / (len(first) * len(second))


def _blocks(features: np.ndarray, size: int) -> Iterator[torch.Tensor]:
    for start in range(0, len(features), size):
        yield torch.from_numpy(np.array(features[start : start + size], np.float32))
