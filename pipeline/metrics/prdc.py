"""Precision and recall, density and coverage: how good the generated images are, apart from how varied they are.

An image's ball reaches to the k-th nearest other image of its own set; the balls of a set are its manifold.

    precision  share of generated images that lie in some real image's ball
    recall     share of real images that lie in some generated image's ball
    density    in how many real balls a generated image lies, divided by k: 1 on average if the sets are alike
    coverage   share of real images whose own ball holds a generated image

Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 and 2. Density and coverage: Naeem et al.
2020, arXiv:2002.09797, equations 2 and 3. As in the latter authors' code, what lies on the border is outside.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from pipeline.metrics.neighbours import Block, distance_blocks, exact_distances
from pipeline.metrics.types import Comparison, Estimate

KS = (3, 5)  # what the authors of precision and recall use; what those of density and coverage do


def expected_coverage(real: int, generated: int, k: int = KS[1]) -> float:
    """The coverage that is expected of so many generated images drawn from the very distribution of the real ones.

    Naeem et al. 2020, section 3.3: with few generated images no model covers much.

    >>> round(expected_coverage(50_000, 50_000), 3), round(expected_coverage(1000, 10), 3)
    (0.969, 0.049)
    """
    return 1 - math.prod((real - i) / (generated + real - i) for i in range(1, k + 1))


class Neighbourhoods(NamedTuple):
    """For N real and M generated images and K radii of each.

    inside: bool (M, K), whether a generated image lies in any real ball.
    counts: int64 (M, K), in how many.
    recalled: bool (N, K), whether a real image lies in any generated ball.
    covered: bool (N, K), whether a real image's ball holds any generated image.
    """

    inside: np.ndarray
    counts: np.ndarray
    recalled: np.ndarray
    covered: np.ndarray


def prdc(comparison: Comparison) -> dict[str, Estimate]:
    """All four at k = 5, and `precision_k3` and `recall_k3` at k = 3.

    An error is the standard error of a mean over images, the balls held fixed: what other images the balls might have
    been drawn around is not in it. The values depend on how many images there are on either side.
    """
    real, generated = comparison.real, comparison.generated
    columns = [k - 1 for k in KS]
    radii = real.neighbour_distances[:, columns], generated.neighbour_distances[:, columns]
    found = neighbourhoods(real.features, generated.features, *radii, real.device)
    three, five = range(len(KS))
    return {
        "precision": _mean(found.inside[:, five]),
        "recall": _mean(found.recalled[:, five]),
        "density": _mean(found.counts[:, five] / KS[five]),
        "coverage": _mean(found.covered[:, five]),
        "precision_k3": _mean(found.inside[:, three]),
        "recall_k3": _mean(found.recalled[:, three]),
    }


def neighbourhoods(
    real: np.ndarray,
    generated: np.ndarray,
    real_radii: np.ndarray,
    generated_radii: np.ndarray,
    device: torch.device | str = "cpu",
) -> Neighbourhoods:
    """Which of the features `real` (N, D) and `generated` (M, D) lie in balls around those of the other set.

    The radii are distances, float32 (N, K) and (M, K): K of them for each image, all taken in one pass.

    >>> real, generated = np.array([[0.0], [4.0]]), np.array([[1.0], [9.0]])
    >>> found = neighbourhoods(real, generated, np.array([[2.0], [4.0]]), np.array([[1.0], [3.0]]))
    >>> found.counts.tolist(), found.recalled.tolist(), found.covered.tolist()
    ([[2], [0]], [[False], [False]], [[True], [True]])
    """
    real_radii, generated_radii = real_radii.astype(np.float32), generated_radii.astype(np.float32)
    counts = np.zeros(generated_radii.shape, np.int64)
    recalled, covered = np.zeros(real_radii.shape, bool), np.zeros(real_radii.shape, bool)
    for block in distance_blocks(generated, real, device):
        for column in range(real_radii.shape[1]):
            around_real = _within(block, generated, real, real_radii[None, block.columns, column])
            around_generated = _within(block, generated, real, generated_radii[block.rows, None, column])
            counts[block.rows, column] += around_real.sum(dim=1).cpu().numpy()
            covered[block.columns, column] |= around_real.any(dim=0).cpu().numpy()
            recalled[block.columns, column] |= around_generated.any(dim=0).cpu().numpy()
    return Neighbourhoods(counts > 0, counts, recalled, covered)


def _within(block: Block, generated: np.ndarray, real: np.ndarray, radii: np.ndarray) -> torch.Tensor:
    """bool (R, C): which distances of a block are below `radii`, (1, C) or (R, 1).

    A generated image that copies a real one lies on the border of others' balls: where rounding could decide, the
    distance is computed as the radii were. A ball of radius 0 holds nothing, however many copies lie at its centre.
    """
    limits = torch.from_numpy(radii).to(block.squared.device)
    inside = block.squared < limits.square() - block.margin
    doubtful = (block.squared < limits.square() + block.margin) & (limits > 0) & ~inside
    places = doubtful.nonzero(as_tuple=True)
    rows, columns = (place.cpu().numpy() for place in places)
    distances = exact_distances(generated, real, rows + block.rows.start, columns + block.columns.start)
    below = distances < np.broadcast_to(radii, inside.shape)[rows, columns]
    inside[places] = torch.from_numpy(below).to(inside.device)
    return inside


def _mean(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))
