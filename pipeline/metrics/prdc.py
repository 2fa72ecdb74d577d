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
from pipeline.metrics.sampling_error import Hits, mean_error, share_error, strata
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

    counts: int64 (M, K), in how many real balls a generated image lies.
    recalled: K times, which of the N real images lie in any generated ball.
    covered: K times, which of the N real images' balls hold any generated image.
    """

    counts: np.ndarray
    recalled: list[Hits]
    covered: list[Hits]


def prdc(comparison: Comparison) -> dict[str, Estimate]:
    """All four at k = 5, and `precision_k3` and `recall_k3` at k = 3.

    The errors are those of other generated images, the real ones and their balls held fixed. Recall's takes a
    generated image and its ball for one thing: that a ball shrinks where others lie is not in it. The values depend on
    how many images there are on either side.
    """
    real, generated = comparison.real, comparison.generated
    columns = [k - 1 for k in KS]
    radii = real.neighbour_distances[:, columns], generated.neighbour_distances[:, columns]
    found = neighbourhoods(real.features, generated.features, *radii, real.device)
    members = strata(generated.labels, len(generated))
    three, five = range(len(KS))
    density = found.counts[:, five] / KS[five]
    return {
        "precision": _share(found.counts[:, five] > 0, members),
        "recall": Estimate(found.recalled[five].share, found.recalled[five].error(members)),
        "density": Estimate(float(density.mean()), mean_error(density, members)),
        "coverage": Estimate(found.covered[five].share, found.covered[five].error(members)),
        "precision_k3": _share(found.counts[:, three] > 0, members),
        "recall_k3": Estimate(found.recalled[three].share, found.recalled[three].error(members)),
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
    >>> found.counts.tolist(), found.recalled[0].hit.tolist(), found.covered[0].hit.tolist()
    ([[2], [0]], [False, False], [True, True])
    """
    real_radii, generated_radii = real_radii.astype(np.float32), generated_radii.astype(np.float32)
    counts = np.zeros(generated_radii.shape, np.int64)
    recalled, covered = ([Hits(len(real), len(generated)) for _ in range(real_radii.shape[1])] for _ in range(2))
    for block in distance_blocks(generated, real, device):
        for column in range(real_radii.shape[1]):
            around_real = _within(block, generated, real, real_radii[None, block.columns, column])
            around_generated = _within(block, generated, real, generated_radii[block.rows, None, column])
            counts[block.rows, column] += around_real.sum(dim=1).cpu().numpy()
            covered[column].add(block.rows, block.columns, around_real)
            recalled[column].add(block.rows, block.columns, around_generated)
    return Neighbourhoods(counts, recalled, covered)


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


def _share(inside: np.ndarray, members: np.ndarray) -> Estimate:
    return Estimate(float(inside.mean()), share_error(inside, members))
