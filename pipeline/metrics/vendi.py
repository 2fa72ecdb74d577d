"""The Vendi score: how many different images there are, in effect (Friedman and Dieng 2023, arXiv:2210.02410).

    VS = exp(- sum of l log l)      over the eigenvalues l of K / n,  K = cosines of the angles between features

1 if all features point the same way, n if all are at right angles: at most the number of images, and of dimensions. It
never looks at the real images; theirs stands beside it.
"""

import numpy as np

from pipeline.metrics.types import Comparison, Estimate, NotAvailable

BLOCK = 4096  # rows that are in memory in float64 at once


def vendi(comparison: Comparison) -> dict[str, Estimate]:
    """vendi: the score of the generated images, of order 1. It has no error.

    It rises with the number of images, so only scores of equally many compare.

    Raises:
        NotAvailable: the generated images have no features, or one of them has only zeros.
    """
    return {"vendi": Estimate(vendi_score(comparison.generated.features))}


def vendi_score(features: np.ndarray) -> float:
    """The score of features (N, D), by the eigenvalues of the smaller of the two matrices: (N, N) or (D, D).

    >>> round(vendi_score(np.eye(3)), 12), round(vendi_score(np.ones((4, 2))), 12)
    (3.0, 1.0)
    """
    count, dim = features.shape
    if count <= dim:
        rows = _directions(features)
        matrix = rows @ rows.T
    else:
        matrix = np.zeros((dim, dim))
        for start in range(0, count, BLOCK):
            rows = _directions(features[start : start + BLOCK])
            matrix += rows.T @ rows
    shares = np.linalg.eigvalsh(matrix / count)
    shares = shares[shares > 0]  # rounding leaves some of those that are 0 below it
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _directions(features: np.ndarray) -> np.ndarray:
    """float64 (N, D), each row of length 1."""
    rows: np.ndarray = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise NotAvailable("an image whose features are all 0 has no direction")
    rows /= lengths
    return rows
