"""A Gaussian as a file (.npz): `mu` and `sigma`, which is all that pytorch-fid reads, and what ours needs besides."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.core.files import atomic_path
from pipeline.metrics.frechet import Gaussian
from pipeline.metrics.npz import load_arrays


def save_gaussian(path: Path, gaussian: Gaussian, **extra: Any) -> None:
    """Write `mu` (D,), `sigma` (D, D), `factor` (D, R), `count` and the arrays or texts of `extra`."""
    sigma = gaussian.factor @ gaussian.factor.T
    arrays = {"mu": gaussian.mean, "sigma": sigma, "factor": gaussian.factor, "count": gaussian.count}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, **extra)


def load_gaussian(path: Path) -> Gaussian:
    """What `save_gaussian` wrote.

    Raises:
        PipelineError: the file is missing or damaged.
    """
    try:
        saved = load_arrays(path, ("mu", "factor", "count"))
        return Gaussian(saved["mu"], saved["factor"], int(saved["count"]))
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
    except (LookupError, TypeError, ValueError) as error:
        raise PipelineError(f"{path} is damaged ({error}): delete it and run `dvc repro` again") from None
