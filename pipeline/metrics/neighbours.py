"""Nearest neighbours in feature space, block by block: the matrix of all distances is never in memory.

Squared distances come from |a|² + |b|² - 2ab, one matrix product per block, in float32. Where points are close that
form cancels, so it only chooses candidates: whatever a result hangs on is computed again from the differences.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import PipelineError
from pipeline.metrics.precision import full_precision

ROWS, COLUMNS = 2048, 1024  # of a block: 8 MiB of distances; 2,048 features of each side are 16 and 8 MiB
PAIRS = 512  # pairs whose differences are in memory at once
SPARE = 8  # candidates beyond the k wanted, so that rounding seldom drops a true neighbour
CENTRED_ON = 1024  # the first rows of the second side, whose mean is taken off both
ROUNDING = 1e-5  # of |a|² + |b|²: above what float32 errs by in sums of 2,048 products, about 1e-6


class Block(NamedTuple):
    """Squared distances (R, C), at least 0, on the device, between `rows` of one side and `columns` of the other.

    margin: no squared distance is wrong by more than this.
    """

    rows: slice
    columns: slice
    squared: Tensor
    margin: float


def nearest(
    queries: np.ndarray, bank: np.ndarray, k: int, device: torch.device | str = "cpu", exclude_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows of `bank` (M, D) nearest to each row of `queries` (Q, D), by Euclidean distance.

    Returns distances float32 (Q, k), ascending, and indices into `bank` int64 (Q, k). With `exclude_self`, `queries`
    is `bank` and row i is no neighbour of itself. Equal distances come in the order of the indices. A copy of a row
    is at distance 0 exactly. Rows that are nearer to each other than about 1/1000 of their distance from the mean
    may be taken for one another where there are more than k + 8 of them.

    Raises:
        PipelineError: the features hold NaN or infinite values.
    """
    available = len(bank) - exclude_self
    assert 1 <= k <= available, f"k must be in 1..{available}, got {k}"
    assert not exclude_self or len(queries) == len(bank)
    count = min(k + SPARE, available)
    values = torch.full((len(queries), count), torch.inf)
    indices = torch.zeros((len(queries), count), dtype=torch.int64)
    for rows, columns, squared, _ in distance_blocks(queries, bank, device):
        if exclude_self:
            squared.diagonal(rows.start - columns.start).fill_(torch.inf)  # empty in blocks that it does not cross
        found, places = _smallest(squared, count)
        joined = torch.cat([values[rows], found.cpu()], dim=1)
        order = joined.argsort(dim=1, stable=True)[:, :count]  # stable: of equals, the earlier block's
        values[rows] = joined.gather(1, order)
        indices[rows] = torch.cat([indices[rows], places.cpu() + columns.start], dim=1).gather(1, order)
    candidates = indices.numpy()
    distances = exact_distances(queries, bank, np.repeat(np.arange(len(queries)), count), candidates.ravel())
    distances = distances.reshape(candidates.shape)
    ascending = np.lexsort((candidates, distances))[:, :k]
    return np.take_along_axis(distances, ascending, axis=1), np.take_along_axis(candidates, ascending, axis=1)


def distance_blocks(a: np.ndarray, b: np.ndarray, device: torch.device | str) -> Iterator[Block]:
    """The squared distances between all rows of `a` (N, D) and of `b` (M, D), a block at a time, row by row.

    Either may be memory-mapped: a block of each is read at a time. The next block overwrites a block's distances.

    Raises:
        PipelineError: the features hold NaN or infinite values.
    """
    device = torch.device(device)
    centre = b[:CENTRED_ON].mean(axis=0, dtype=np.float64).astype(np.float32)
    # Every block is written to the same memory: arrays of some MiB, made and freed in turn, fragment the heap.
    height, width = min(ROWS, len(a)), min(COLUMNS, len(b))
    left_buffer, right_buffer = (np.empty((size, b.shape[1]), np.float32) for size in (height, width))
    products = torch.empty(height * width, device=device)
    for rows in _slices(len(a), ROWS):
        left, left_norms = _load(a, rows, centre, device, left_buffer)
        for columns in _slices(len(b), COLUMNS):
            right, right_norms = _load(b, columns, centre, device, right_buffer)
            with full_precision(), torch.autocast(device.type, enabled=False):
                squared = products[: len(left) * len(right)].view(len(left), len(right))
                torch.addmm(right_norms[None], left, right.T, alpha=-2, out=squared)  # (R, D) x (D, C) -> (R, C)
            squared.add_(left_norms[:, None]).clamp_(min=0)
            margin = ROUNDING * float(left_norms.max() + right_norms.max())
            yield Block(rows, columns, squared, margin)


def exact_distances(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float32 (P,): the distance of row `rows[p]` of `a` from row `columns[p]` of `b`, summed in float64.

    It is the same number for a and b swapped, and exactly 0 for equal rows.
    """
    distances = np.empty(len(rows), np.float32)
    for pairs in _slices(len(rows), PAIRS):
        gaps = np.asarray(a[rows[pairs]], np.float64) - b[columns[pairs]]
        distances[pairs] = np.sqrt(np.einsum("pd,pd->p", gaps, gaps))
    return distances


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _load(
    features: np.ndarray, rows: slice, centre: np.ndarray, device: torch.device, buffer: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Rows of features around `centre`, float32 (R, D), on the CPU in `buffer`, and their squared lengths (R,)."""
    block = buffer[: rows.stop - rows.start]
    np.subtract(features[rows], centre, out=block, casting="same_kind")
    vectors = torch.from_numpy(block).to(device)
    norms = torch.linalg.vector_norm(vectors, dim=1).square()
    if not torch.isfinite(norms).all():
        raise PipelineError("the features hold NaN or infinite values: the images or the weights are damaged")
    return vectors, norms


def _smallest(squared: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest of each row (R, C), ascending, and their columns.

    Equals come in the order of their columns. Where only the last has equals, it may be any of these: it is a spare.
    """
    count = min(count, squared.shape[1])
    values, columns = squared.topk(count, dim=1, largest=False)
    tied = (values.diff(dim=1) == 0).any(dim=1)
    columns[tied] = squared[tied].argsort(dim=1, stable=True)[:, :count]
    return values, columns
