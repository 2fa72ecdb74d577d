"""Files of features that other tools leave: one row for each image. Nothing in them is executed.

.npz  `feats`                      clean-fid's, for KID
.npz  `real_feats`, `real_labels`  PyTorch-StudioGAN's
.npz  `reps`                       dgm-eval's; what lies beside it is pickled, and is never read
.pt   one tensor                   torch-fidelity's cache of an input's features
"""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.core.errors import PipelineError, printable
from pipeline.core.files import ArrayWriter, storage_errors
from pipeline.metrics.npz import damage_named, load_arrays, members, open_member
from pipeline.metrics.types import FeatureSet

MEMBERS = ("feats", "real_feats", "reps")
LABELS = {"real_feats": "real_labels"}
ROWS = 1024  # that are in memory at once
MOST_DIM = 2**20


def is_feature_file(path: Path) -> bool:
    """Whether `path` is a .pt file, or an .npz file with a member that holds features.

    Raises:
        PipelineError: it is a damaged .npz.
    """
    if not os.path.isfile(path):
        return False
    return path.suffix.lower() == ".pt" or (path.suffix.lower() == ".npz" and _member(path) is not None)


def feature_dim(path: Path) -> int:
    """The number of columns of the features in a file.

    Raises:
        PipelineError: the file is damaged or holds something else.
    """
    with damage_named(path), _rows(path) as (shape, _):
        return _checked(path, shape)[1]


def read_features(path: Path, device: torch.device | str = "cpu") -> FeatureSet:
    """The features (N, D), N at least 2, as float32 in a file that is gone when nobody uses them any more.

    Raises:
        PipelineError: the file is damaged or holds something else.
    """
    with tempfile.TemporaryDirectory(prefix="gan-metrics-") as scratch:  # the map outlives the file's name
        place = Path(scratch) / "features.npy"
        with (
            damage_named(path),
            _rows(path) as (shape, blocks),
            storage_errors(place),
            ArrayWriter(place, _checked(path, shape)[1:], np.float32) as writer,
            np.errstate(over="ignore"),
        ):
            for block in blocks:
                rows = block.astype(np.float32)
                if not np.isfinite(rows).all():
                    raise PipelineError(f"{path}: the features hold NaN or infinite values: make them again")
                writer.append(rows)
        features = np.load(place, mmap_mode="r", allow_pickle=False)
    return FeatureSet(features, _labels(path, len(features)), device=device)


def _checked(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 2 or not 0 < shape[1] <= MOST_DIM or shape[0] < 2:
        raise PipelineError(f"{path} holds features of shape {shape}: they must be (N, D), N at least 2")
    return shape


def _member(path: Path) -> str | None:
    held = members(path)
    return next((name for name in MEMBERS if name in held), None)


@contextlib.contextmanager
def _rows(path: Path) -> Iterator[tuple[tuple[int, ...], Iterator[np.ndarray]]]:
    """The shape of the features in a file, and an iterator over blocks of rows."""
    if path.suffix.lower() == ".pt":
        tensor = _tensor(path)
        yield tuple(tensor.shape), (part.numpy() for part in torch.split(tensor, ROWS) if tensor.ndim == 2)
        return
    name = str(_member(path))
    with zipfile.ZipFile(path) as archive, open_member(archive, name) as (file, header):
        if header.fortran or header.dtype.kind != "f" or header.dtype.itemsize > 8:
            raise PipelineError(f"{path}: {name} holds {header.dtype}: save it as floats, row by row")
        width = int(np.prod(header.shape[1:])) * header.dtype.itemsize

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, header.shape[0], ROWS):
                content = file.read(min(ROWS, header.shape[0] - start) * width)
                yield np.frombuffer(content, header.dtype).reshape(-1, *header.shape[1:])

        yield header.shape, blocks()


def _tensor(path: Path) -> torch.Tensor:
    """The one tensor in a .pt file; an archive that is larger inside than outside is none that torch writes."""
    held = os.path.getsize(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > held:
                raise PipelineError(f"{path} is packed, as no file of torch is: save it again")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever it meets, in many lines, some with advice to trust the file
        reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, 100)
        raise PipelineError(
            f"{path} cannot be read as one tensor ({reason}): save the features with torch.save"
        ) from None
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or not tensor.is_floating_point():
        raise PipelineError(f"{path} holds no tensor of floats: save the features as one, with torch.save")
    if tensor.numel() * tensor.element_size() > held:
        raise PipelineError(
            f"{path} announces features of shape {tuple(tensor.shape)}, more than it holds: save it again"
        )
    return tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()


def _labels(path: Path, count: int) -> np.ndarray | None:
    """The labels that stand beside the features: whole numbers, one for each image; else None."""
    name = LABELS.get(str(_member(path))) if path.suffix.lower() == ".npz" else None
    if name is None or name not in members(path):
        return None
    try:
        found = load_arrays(path, (name,))[name]
    except ValueError as error:
        raise PipelineError(f"{path} is damaged ({error}): make the features again") from None
    return found.astype(np.int64) if found.shape == (count,) and found.dtype.kind in "iu" else None
