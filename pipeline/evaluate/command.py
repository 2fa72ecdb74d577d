"""Two sets of images to one record: features of each, those of the real ones from a cache, and all metrics.

    open_side -> Side -> measure_side -> FeatureSet, record, warnings -> compare -> what the command prints

A cached set lies in a folder named by a hash of the images' content and of all that shapes their features; so nothing
in it can be out of date, and all of it may be deleted at any time.
"""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.errors import PipelineError
from pipeline.core.files import (
    ArrayWriter,
    atomic_folder,
    atomic_path,
    exclusive,
    read_json,
    sha256,
    storage_errors,
    write_json,
)
from pipeline.core.progress import progress
from pipeline.data import datasets
from pipeline.evaluate.images import BadImages, ImageSource, Tally, open_images
from pipeline.evaluate.statistics import is_statistics, read_statistics, write_statistics
from pipeline.metrics.features import Extractor, extract
from pipeline.metrics.protocol import code_version, protocol_of
from pipeline.metrics.registry import measure
from pipeline.metrics.types import NEIGHBOURS, Comparison, FeatureSet


@dataclass(frozen=True)
class Reading:
    """How images are read: as the command's options of the same names."""

    max_megapixels: float
    bad_images: BadImages
    value_range: tuple[float, float] | None
    batch_size: int
    workers: int


@dataclass
class Side:
    """One of the sets, before and after its measurement; `source` is None for a statistics file.

    kept: the cache's folder of this set, None if it is not cached.
    """

    path: Path
    source: ImageSource | None
    features: FeatureSet
    record: dict[str, Any]
    warnings: list[str]
    kept: Path | None


def open_side(path: Path, reading: Reading) -> ImageSource | None:
    """The images at `path`, or None if it is a statistics file; nothing is decoded yet."""
    if is_statistics(path):
        return None
    return open_images(path, reading.max_megapixels, reading.bad_images, reading.value_range)


def measure_side(
    path: Path, source: ImageSource | None, extractor: Extractor, reading: Reading, cache: Path | None
) -> Side:
    """The features of one set. With `cache` they are looked for there, and kept there."""
    if source is None:
        features, warnings = read_statistics(path, extractor.dim, extractor.protocol)
        record = {"path": str(path), "images": len(features) or None, "statistics": True}
        return Side(path, None, features, record, warnings, None)
    content, kept, cached = source.content_sha256(), None, False
    if cache is None:
        features = _in_scratch(source, extractor, reading)
    else:
        kept = cache / _key(content, source, extractor, reading)
        found = _read_kept(kept, source, extractor)
        cached = found is not None
        features = found if found is not None else _keep(kept, source, extractor, reading)
    record = {**source.record(), "content_sha256": content, "cached": cached}
    warnings = list(source.warnings)
    if source.count <= extractor.dim:
        warnings.append(
            f"{path}: {source.count} images are too few for {extractor.dim} dimensions: the covariance is "
            "rank-deficient and the distance biased upwards; compare it only with distances of as many images"
        )
    return Side(path, source, features, record, warnings, kept)


def compare(
    real: Side,
    generated: Side,
    held_out: Side | None,
    extractor: Extractor,
    bootstrap: int,
    infinity: bool,
    names: Collection[str] | None,
) -> dict[str, Any]:
    """All metrics, or those of `names`, with how they were measured and what to beware of."""
    warnings = [*real.warnings, *generated.warnings, *(held_out.warnings if held_out else [])]
    warnings += [*_same_or_resized(real, generated), *_align_labels(real, generated)]
    warnings += _align_labels(real, held_out) if held_out else []
    comparison = Comparison(
        real.features,
        generated.features,
        held_out.features if held_out else None,
        extractor.metric,
        extractor.head,
        bootstrap,
        infinity,
    )
    found = measure(comparison, names)
    for side in (real, held_out):
        if side and side.kept:
            _keep_neighbours(side.kept, side.features)
    records = {"a": real.record, "b": generated.record} | ({"held_out": held_out.record} if held_out else {})
    return {
        "metrics": found.values,
        "sampling_error": found.errors,
        "not_available": found.not_available,
        "protocol": protocol_of(extractor.protocol),
        **records,
        "warnings": warnings,
    }


def _align_labels(real: Side, other: Side) -> list[str]:
    """Give `other` labels that mean the real images' classes, by name; a warning where it has other classes."""
    if not (real.source and other.source and real.source.classes and other.source.classes):
        return []
    known = {name: label for label, name in enumerate(real.source.classes)}
    if unknown := [name for name in other.source.classes if name not in known]:
        other.features.labels = None
        return [f"{other.path}: its classes are not used: {real.path} has no class {', '.join(unknown[:5])}"]
    renamed = np.array([known[name] for name in other.source.classes], np.int64)
    other.features.labels = renamed[other.source.labels]
    return []


def _same_or_resized(real: Side, generated: Side) -> list[str]:
    warnings = []
    if real.source and generated.source and real.record["content_sha256"] == generated.record["content_sha256"]:
        warnings.append(f"{real.path} and {generated.path} hold the same images")
    sizes = [set(side.record.get("sizes", ())) for side in (real, generated)]
    if all(sizes) and sizes[0] != sizes[1]:
        warnings.append(f"{real.path} and {generated.path} differ in image sizes: part of any distance is due to that")
    return warnings


def _extract(path: Path, source: ImageSource, extractor: Extractor, reading: Reading) -> np.ndarray:
    """Write all features to the file `path`, and map it."""
    total = -(-source.count // reading.batch_size)
    read = source.batches(reading.batch_size, reading.workers)
    batches = progress(read, f"features of {source.path}", total, "batches")
    with storage_errors(path), ArrayWriter(path, (extractor.dim,), np.float32) as rows:
        for features in extract(extractor, ([torch.from_numpy(image) for image in batch] for batch in batches)):
            rows.append(features)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _in_scratch(source: ImageSource, extractor: Extractor, reading: Reading) -> FeatureSet:
    with tempfile.TemporaryDirectory(prefix="gan-metrics-") as scratch:  # the map outlives the file's name
        features = _extract(Path(scratch) / "features.npy", source, extractor, reading)
    return FeatureSet(features, source.labels, device=extractor.device)


def _key(content: str, source: ImageSource, extractor: Extractor, reading: Reading) -> str:
    shaping = {
        "content": content,
        "protocol": extractor.protocol,
        "device": extractor.device.type,
        "read": [reading.max_megapixels, reading.bad_images, reading.value_range],
        "code": [code_version(), sha256(datasets.__file__)],
        "versions": [metadata.version(package) for package in ("torch", "numpy", "pillow")],
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def _keep(kept: Path, source: ImageSource, extractor: Extractor, reading: Reading) -> FeatureSet:
    """Measure a set into the cache. One process at a time does so; a second one is told."""
    with exclusive(kept.parent / "locks" / kept.name, f"the cache of {source.path}"), atomic_folder(kept) as folder:
        features = FeatureSet(_extract(folder / "features.npy", source, extractor, reading))
        write_statistics(folder / "statistics.npz", features, extractor.protocol)
        write_json(folder / "tally.json", dataclasses.asdict(source.tally))
    found = _read_kept(kept, source, extractor)
    assert found is not None, f"{kept} was written and cannot be read"
    return found


def _read_kept(kept: Path, source: ImageSource, extractor: Extractor) -> FeatureSet | None:
    """A set from the cache, its tally given to `source`; None if it is not there or damaged."""
    try:
        tally = Tally(**read_json(kept / "tally.json"))
        features = np.load(kept / "features.npy", mmap_mode="r", allow_pickle=False)
        gaussian = read_statistics(kept / "statistics.npz", extractor.dim, extractor.protocol)[0].gaussian
        near = kept / "neighbours.npy"
        distances = np.load(near, allow_pickle=False) if near.exists() else None
    except (PipelineError, OSError, ValueError, TypeError, EOFError):
        return None
    shapes_fit = features.shape == (tally.images, extractor.dim) and gaussian.count == tally.images
    if not shapes_fit or (distances is not None and distances.shape != (tally.images, NEIGHBOURS)):
        return None
    source.tally = tally
    return FeatureSet(features, source.labels, gaussian, distances, extractor.device)


def _keep_neighbours(kept: Path, features: FeatureSet) -> None:
    """Add the neighbours' distances to a cached set, if a metric asked for them."""
    path = kept / "neighbours.npy"
    if "neighbour_distances" in vars(features) and not path.exists():
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, features.neighbour_distances)
