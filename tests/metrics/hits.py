"""What images hit, block by block, and the error of the share of it from its definition."""

from collections import Counter
from math import comb

import numpy as np
import torch

from pipeline.metrics.sampling_error import FEWEST, TERMS, Hits


def filled(hit: np.ndarray, rows: int = 1000, columns: int = 1000) -> Hits:
    """Hits of all images of bool (M, N), taken in by blocks of so many rows and columns."""
    found = Hits(hit.shape[1], len(hit))
    for top in range(0, len(hit), rows):
        for left in range(0, hit.shape[1], columns):
            block = (slice(top, min(top + rows, len(hit))), slice(left, min(left + columns, hit.shape[1])))
            found.add(*block, torch.from_numpy(hit[block]))
    return found


def naive_error(hit: np.ndarray, members: np.ndarray) -> float | None:
    """The documented series for bool (M, N) and strata (M,), with the sets of images spelt out."""
    missed = int((~hit.any(axis=0)).sum())
    if min(missed, hit.shape[1] - missed) < FEWEST:
        return None
    sets = [frozenset(np.flatnonzero(column).tolist()) for column in hit.T]
    variance = 0.0
    for chosen, times in Counter(sets).items():
        if chosen:
            heads = sum(comb(TERMS, q) for q in range(len(chosen), TERMS + 1)) / 2**TERMS
            variance += (-1) ** (len(chosen) + 1) * heads * times**2
    for member in set(members.tolist()):
        once = sum(len(chosen) == 1 and members[next(iter(chosen))] == member for chosen in sets)
        variance -= once**2 / np.sum(members == member)
    return float(np.sqrt(variance)) / len(sets) if variance > 0 else None
