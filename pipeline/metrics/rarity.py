"""Rarity: how uncommon the generated images are that lie among the real ones (Han et al. 2023, arXiv:2206.08549).

An image's rarity is the radius of the smallest real ball that holds it: real balls are wide where real images are
sparse. An image in no ball has none. The balls are those of `pipeline.metrics.prdc` at k = 3.
"""

import numpy as np
import torch

from pipeline.metrics.neighbours import Block, distance_blocks, exact_distances
from pipeline.metrics.sampling_error import mean_error, strata
from pipeline.metrics.types import Comparison, Estimate, FeatureSet, NotAvailable

K = 3  # as in the paper's experiments


def rarity(comparison: Comparison) -> dict[str, Estimate]:
    """rarity: the mean over the generated images that lie in any real ball.

    Its unit is the extractor's, and it grows as real images become fewer: compare it only with that of other real
    images. `precision_k3` is the share of images that it is taken over. The error is that of other generated images.

    Raises:
        NotAvailable: no generated image lies in a real ball, or one side has no features.
    """
    scores = rarities(comparison.real, comparison.generated.features)
    inside = np.isfinite(scores)
    if not inside.any():
        raise NotAvailable("no generated image lies among the real ones")
    labels = comparison.generated.labels
    members = strata(None if labels is None else labels[inside], int(inside.sum()))
    return {"rarity": Estimate(float(scores[inside].mean(dtype=np.float64)), mean_error(scores[inside], members))}


def rarities(real: FeatureSet, generated: np.ndarray) -> np.ndarray:
    """The rarity of each of the generated features (M, D), float32 (M,); infinity where it has none."""
    radii = real.neighbour_distances[:, K - 1]
    found = np.full(len(generated), np.inf, np.float32)
    for block in distance_blocks(generated, real.features, real.device):
        smallest = _smallest_ball(block, generated, real.features, radii[block.columns])
        found[block.rows] = np.minimum(found[block.rows], smallest)
    return found


def _smallest_ball(block: Block, generated: np.ndarray, real: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """float32 (R,): the smallest of the radii (C,) whose ball holds the row's image; infinity if none does.

    Where rounding could decide, the distance is computed as the radii were. What lies on the border is outside.
    """
    limits = torch.from_numpy(np.ascontiguousarray(radii)).to(block.squared.device)
    inside = block.squared < limits.square() - block.margin
    sizes = torch.where(inside, limits, torch.inf)
    smallest: np.ndarray = sizes.amin(dim=1).cpu().numpy()
    doubtful = ~inside & (block.squared < limits.square() + block.margin) & (limits < sizes.amin(dim=1)[:, None])
    rows, columns = (place.cpu().numpy() for place in doubtful.nonzero(as_tuple=True))
    distances = exact_distances(generated, real, rows + block.rows.start, columns + block.columns.start)
    held = distances < radii[columns]
    np.minimum.at(smallest, rows[held], radii[columns][held])
    return smallest
