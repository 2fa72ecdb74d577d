"""Features of one set of images: extracted, or from the cache.

A cached set lies in a folder named by a hash of the images' content and of all that shapes their features; so nothing
in it can be out of date, and all of it may be deleted at any time.
"""

import dataclasses
import functools
import hashlib
import json
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from pipeline import data
from pipeline.core.errors import PipelineError
from pipeline.core.files import (
    ArrayWriter,
    atomic_folder,
    atomic_path,
    exclusive,
    read_json,
    storage_errors,
    write_json,
)
from pipeline.core.progress import progress
from pipeline.core.versions import program_of, version
from pipeline.evaluate import arrays, images
from pipeline.evaluate.images import BadImages, ImageSource, ReadStats
from pipeline.evaluate.statistics import read_statistics, write_statistics
from pipeline.metrics import types
from pipeline.metrics.extractors.base import Extractor, extract
from pipeline.metrics.types import NEIGHBOURS, FeatureSet
from pipeline.metrics.versions import sources_of_file


@dataclass(frozen=True)
class ReadOptions:
    """How images are read: as the command's options of the same names."""

    max_megapixels: float
    bad_images: BadImages
    value_range: tuple[float, float] | None
    batch_size: int
    workers: int


def extract_features(source: ImageSource, extractor: Extractor, options: ReadOptions) -> FeatureSet:
    """The features of all images, in a file that is gone when nobody uses them any more."""
    with tempfile.TemporaryDirectory(prefix="gan-metrics-") as scratch:  # the map outlives the file's name
        features = _extract(Path(scratch) / "features.npy", source, extractor, options)
    return FeatureSet(features, source.labels, device=extractor.device)


def cache_folder(
    cache: Path, content_sha256: str, source: ImageSource, extractor: Extractor, options: ReadOptions
) -> Path:
    """Where the features of these images, read so, belong in a cache."""
    shaping = {
        "content": content_sha256,
        "protocol": extractor.protocol,
        "device": extractor.device.type,
        "read": [options.max_megapixels, options.bad_images, options.value_range],
        "code": [extractor.version, reading_version()],
        "versions": [metadata.version(package) for package in ("torch", "numpy", "pillow")],
    }
    return cache / hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def read_cached(folder: Path, source: ImageSource, extractor: Extractor) -> FeatureSet | None:
    """A set from its cache folder, what was read of it given to `source`; None if it is not there or damaged."""
    try:
        stats = ReadStats(**read_json(folder / "stats.json"))
        features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
        gaussian = read_statistics(folder / "statistics.npz", extractor.dim, extractor.protocol)[0].gaussian
        near = folder / "neighbours.npy"
        distances = np.load(near, allow_pickle=False) if near.exists() else None
    except (PipelineError, OSError, ValueError, TypeError, EOFError):
        return None
    shapes_fit = features.shape == (stats.images, extractor.dim) and gaussian.count == stats.images
    if not shapes_fit or (distances is not None and distances.shape != (stats.images, NEIGHBOURS)):
        return None
    source.stats = stats
    return FeatureSet(features, source.labels, gaussian, distances, extractor.device)


def extract_into_cache(folder: Path, source: ImageSource, extractor: Extractor, options: ReadOptions) -> FeatureSet:
    """Extract a set's features into its cache folder.

    Raises:
        PipelineError: another process is doing so.
    """
    lock = folder.parent / "locks" / folder.name
    with exclusive(lock, f"the cache of {source.path}"), atomic_folder(folder) as temporary:
        features = FeatureSet(_extract(temporary / "features.npy", source, extractor, options))
        write_statistics(temporary / "statistics.npz", features, extractor.protocol)
        write_json(temporary / "stats.json", dataclasses.asdict(source.stats))
    found = read_cached(folder, source, extractor)
    assert found is not None, f"{folder} was written and cannot be read"
    return found


def cache_neighbours(folder: Path, features: FeatureSet) -> None:
    """Add the distances to the nearest neighbours to a cached set, if a metric has looked them up."""
    path = folder / "neighbours.npy"
    if features.has_neighbour_distances and not path.exists():
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, features.neighbour_distances)


@functools.cache
def reading_version() -> str:
    """A version of the code that makes, of files of images, what lies in a cache; the extractor has its own."""
    shaping = [__file__, images.__file__, arrays.__file__, types.__file__]
    files = [*map(Path, shaping), *Path(data.__path__[0]).glob("*.py")]  # the last: what decodes pictures
    return version(program_of({source for file in files for source in sources_of_file(file.resolve())}))


def _extract(path: Path, source: ImageSource, extractor: Extractor, options: ReadOptions) -> np.ndarray:
    """Write all features to the file `path`, and map it."""
    total = -(-source.count // options.batch_size)
    read = source.batches(options.batch_size, options.workers)
    batches = progress(read, f"features of {source.path}", total, "batches")
    with storage_errors(path), ArrayWriter(path, (extractor.dim,), np.float32) as rows:
        for features in extract(extractor, ([torch.from_numpy(image) for image in batch] for batch in batches)):
            rows.append(features)
    features_read: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return features_read
