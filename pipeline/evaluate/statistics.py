"""Statistics files: the Gaussian of a set of features, as pytorch-fid and others read and write it (.npz).

`mu` (D,) and `sigma` (D, D) are all that the others know. Ours also hold the factor of sigma, the number of images and
the protocol (JSON text) by which the features were made; a file without one may have been made in any way.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError, printable
from pipeline.metrics.frechet import Gaussian, factorise
from pipeline.metrics.gaussian_file import save_gaussian
from pipeline.metrics.npz import load_arrays, members
from pipeline.metrics.types import FeatureSet

ASYMMETRY = 1e-8  # of the largest entry: what rounding may leave
NEGATIVE = 1e-6  # of the largest eigenvalue
KEYS = ("mu", "sigma")
LARGEST = np.float64(1e77)  # no feature is a larger float32 than 3e38, so no variance is larger than this
MOST_IMAGES = 2**53


def is_statistics(path: Path) -> bool:
    """Whether `path` is an .npz file with `mu` or `sigma` in it."""
    return path.suffix.lower() == ".npz" and os.path.isfile(path) and bool({*KEYS} & {*members(path)})


def holds_images(path: Path) -> bool:
    """Whether images lie beside the statistics, as in ADM's reference batches VIRTUAL_*.npz.

    Those are 10,000 of the images whose `mu` and `sigma` the file has: the Fréchet distance is to the latter, all
    other metrics are of the former.
    """
    return is_statistics(path) and "arr_0" in members(path)


def dimensions(path: Path) -> int:
    """The dimensions D of a statistics file.

    Raises:
        PipelineError: it is damaged, or lacks `mu` (D,).
    """
    mean = _load(path).get("mu")
    if mean is None:
        raise PipelineError(f"{path} lacks mu: make the statistics again")
    if mean.ndim != 1:
        raise PipelineError(f"{path}: mu {mean.shape} must be (D,): make it again")
    return len(mean)


def write_statistics(path: Path, features: FeatureSet, protocol: dict[str, Any]) -> None:
    """Write the set's Gaussian, its number of images and the protocol."""
    text = json.dumps(protocol, sort_keys=True)
    save_gaussian(path, features.gaussian, protocol=text, extractor=str(protocol.get("extractor", "unknown")))


def read_statistics(
    path: Path, dim: int, protocol: dict[str, Any], stated: bool = False
) -> tuple[FeatureSet, list[str]]:
    """The set that a statistics file describes, without features, and warnings as sentences.

    Its count is 0 where the file does not say it. `stated` says that the caller knows it to be of this protocol.

    Raises:
        PipelineError: the file is damaged, is no Gaussian of `dim` dimensions, or was made by another protocol.
    """
    saved = _load(path)
    if lacking := [key for key in KEYS if key not in saved]:
        raise PipelineError(f"{path} lacks {' and '.join(lacking)}: make the statistics again")
    mean, sigma = (_numbers(path, key, saved[key]) for key in KEYS)
    if mean.ndim != 1 or sigma.shape != (len(mean),) * 2:
        raise PipelineError(f"{path}: mu {mean.shape} and sigma {sigma.shape} must be (D,) and (D, D): make it again")
    if len(mean) != dim:
        raise PipelineError(f"{path} has {len(mean)} dimensions, the extractor {dim}: choose its own with --extractor")
    warnings = _check_protocol(path, saved, protocol, stated)
    largest = np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > ASYMMETRY * largest:
        raise PipelineError(f"{path}: sigma is not symmetric, so it is no covariance: make the statistics again")
    factor = _factor(path, saved, sigma)
    return FeatureSet(None, gaussian=Gaussian(mean, factor, _count(path, saved))), warnings


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_arrays(path, (*KEYS, "factor", "count", "protocol"))
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: name the statistics file") from None
    except ValueError as error:
        raise PipelineError(f"{path} is damaged ({error}): make the statistics again") from None


def _numbers(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """float64, and of a size of which sums and products stay finite."""
    if array.dtype.kind not in "fiu" or not (np.abs(array) <= LARGEST).all():
        raise PipelineError(f"{path}: {key} holds NaN, infinite values or no numbers: make the statistics again")
    return array.astype(np.float64)


def unknown_protocol(path: Path) -> str:
    """A warning about features or statistics that do not say how they were made."""
    fault = "does not say by which weights and resizing it was made, so its protocol is assumed"
    return f"{path} {fault}: state it with --statistics-protocol"


def _check_protocol(path: Path, saved: dict[str, np.ndarray], protocol: dict[str, Any], stated: bool) -> list[str]:
    if "protocol" not in saved:
        return [] if stated else [unknown_protocol(path)]
    try:
        theirs = json.loads(str(saved["protocol"]))
    except (ValueError, RecursionError):
        theirs = None
    if not isinstance(theirs, dict):
        raise PipelineError(f"{path}: its protocol is not a JSON object: make the statistics again")
    ours = json.loads(json.dumps(protocol))
    differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if differing:
        shown = printable(
            "; ".join(f"{key}: {theirs.get(key)!s:.100} there, {ours.get(key)} here" for key in differing), 1000
        )
        raise PipelineError(f"{path} was made by another protocol ({shown}): make the statistics again by this one")
    return []


def _factor(path: Path, saved: dict[str, np.ndarray], sigma: np.ndarray) -> np.ndarray:
    """The factor of sigma that the file holds, if it is one, else one made now."""
    if "factor" in saved:
        factor = _numbers(path, "factor", saved["factor"])
        if factor.ndim != 2 or len(factor) != len(sigma) or factor.shape[1] > len(sigma):
            raise PipelineError(f"{path}: factor {factor.shape} does not fit sigma {sigma.shape}: make it again")
        if np.abs(factor @ factor.T - sigma).max() > ASYMMETRY * np.abs(sigma).max():
            raise PipelineError(f"{path}: factor and sigma contradict each other: make the statistics again")
        return factor
    values = np.linalg.eigvalsh(sigma)
    if values[0] < -NEGATIVE * max(values[-1], 0):
        raise PipelineError(
            f"{path}: sigma has the negative eigenvalue {values[0]:.3g}, so it is no covariance: "
            "make the statistics again"
        )
    return factorise(sigma)


def _count(path: Path, saved: dict[str, np.ndarray]) -> int:
    count = saved.get("count", np.array(0))
    if count.shape != () or count.dtype.kind not in "iu" or not 0 <= count <= MOST_IMAGES:
        raise PipelineError(f"{path}: count is no number of images: make the statistics again")
    return int(count)
