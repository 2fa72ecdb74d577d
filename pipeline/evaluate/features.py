"""Features of one set of images: extracted, or from the cache.

A cached set lies in a folder named by a hash of the images' content and of all that shapes their features; so nothing
in it can be out of date, and all of it may be deleted at any time.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import tempfile
from collections.abc import Sequence
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
from pipeline.metrics.extractors.base import Extractor
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


def extract_features(source: ImageSource, extractors: Sequence[Extractor], options: ReadOptions) -> list[FeatureSet]:
    """The features of all images under each extractor, in files that are gone when nobody uses them any more."""
    with tempfile.TemporaryDirectory(prefix="gan-metrics-") as scratch:  # the map outlives the file's name
        paths = [Path(scratch) / f"{number}.npy" for number in range(len(extractors))]
        found = _extract(paths, source, extractors, options)
    return [
        FeatureSet(features, source.labels, device=extractor.device)
        for features, extractor in zip(found, extractors, strict=True)
    ]


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


def extract_into_cache(
    folders: Sequence[Path], source: ImageSource, extractors: Sequence[Extractor], options: ReadOptions
) -> list[FeatureSet]:
    """Extract a set's features under each extractor into its cache folder.

    Raises:
        PipelineError: another process is doing so.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(exclusive(folder.parent / "locks" / folder.name, f"the cache of {source.path}"))
        written = [stack.enter_context(atomic_folder(folder)) for folder in folders]
        found = _extract([folder / "features.npy" for folder in written], source, extractors, options)
        for folder, features, extractor in zip(written, found, extractors, strict=True):
            write_statistics(folder / "statistics.npz", FeatureSet(features), extractor.protocol)
            write_json(folder / "stats.json", dataclasses.asdict(source.stats))
    sets = []
    for folder, extractor in zip(folders, extractors, strict=True):
        cached = read_cached(folder, source, extractor)
        assert cached is not None, f"{folder} was written and cannot be read"
        sets.append(cached)
    return sets


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


def _extract(
    paths: Sequence[Path], source: ImageSource, extractors: Sequence[Extractor], options: ReadOptions
) -> list[np.ndarray]:
    """Write all features under each extractor to its file, and map it. Each image is decoded once."""
    total = -(-source.count // options.batch_size)
    read = source.batches(options.batch_size, options.workers)
    with storage_errors(paths[0]), contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(ArrayWriter(path, (extractor.dim,), np.float32))
            for path, extractor in zip(paths, extractors, strict=True)
        ]
        for batch in progress(read, f"features of {source.path}", total, "batches"):
            images = [torch.from_numpy(image) for image in batch]
            for rows, extractor in zip(files, extractors, strict=True):
                rows.append(extractor(images).numpy())
    return [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
