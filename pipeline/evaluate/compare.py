"""Compare two sets of images: how they were read, their features, and all metrics, as one record.

open_image_set -> measure_image_set -> ImageSetResult -> compare -> what `python -m pipeline.metrics` prints
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.evaluate.feature_files import feature_dim, is_feature_file, read_features
from pipeline.evaluate.features import (
    ReadOptions,
    cache_folder,
    cache_neighbours,
    extract_features,
    extract_into_cache,
    read_cached,
)
from pipeline.evaluate.images import ImageSource, open_images
from pipeline.evaluate.statistics import (
    dimensions,
    holds_images,
    is_statistics,
    read_statistics,
    unknown_protocol,
)
from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.protocol import protocol_of
from pipeline.metrics.registry import measure, metric_versions
from pipeline.metrics.types import Comparison, FeatureSet


@dataclass
class ImageSetResult:
    """One of the sets after it was read: its features, what the record says of it, and warnings as sentences.

    source: None for a file of statistics or features.
    cached_in: the folder of this set in the cache, None if it is not cached.
    """

    path: Path
    source: ImageSource | None
    features: FeatureSet
    record: dict[str, Any]
    warnings: list[str]
    cached_in: Path | None


def open_image_set(path: Path, options: ReadOptions) -> ImageSource | None:
    """The images at `path`, or None if it is a file of statistics or features; nothing is decoded yet."""
    if (is_statistics(path) and not holds_images(path)) or is_feature_file(path):
        return None
    return open_images(path, options.max_megapixels, options.bad_images, options.value_range)


def dimensions_of(path: Path) -> int:
    """The dimensions of the features that a file of statistics or features holds."""
    return feature_dim(path) if is_feature_file(path) else dimensions(path)


def measure_image_set(
    path: Path,
    source: ImageSource | None,
    extractors: Sequence[Extractor],
    options: ReadOptions,
    cache: Path | None,
    stated: bool = False,
) -> list[ImageSetResult]:
    """The features of one set under each extractor; its images are decoded once.

    With `cache` the features come from there, or are added to it. A file of statistics or features has one extractor.

    stated: the caller says that such files are of the first extractor.
    """
    if source is None:
        (extractor,) = extractors
        return [_from_file(path, extractor, stated)]
    content, found = source.content_sha256(), dict[str, FeatureSet]()
    folders: dict[str, Path] = {}
    if cache:
        folders = {one.name: cache_folder(cache, content, source, one, options) for one in extractors}
        held = {one.name: read_cached(folders[one.name], source, one) for one in extractors}
        found = {name: features for name, features in held.items() if features is not None}
    cached = set(found)
    if lacking := [extractor for extractor in extractors if extractor.name not in cached]:
        if cache:
            made = extract_into_cache([folders[one.name] for one in lacking], source, lacking, options)
        else:
            made = extract_features(source, lacking, options)
        found |= {extractor.name: features for extractor, features in zip(lacking, made, strict=True)}
    results = []
    for extractor in extractors:
        name, known = extractor.name, stated and extractor is extractors[0]
        record = {**source.record(), "content_sha256": content, "cached": name in cached}
        results.append(_result(path, source, extractor, found[name], record, folders.get(name), known))
    return results


def _result(
    path: Path,
    source: ImageSource,
    extractor: Extractor,
    features: FeatureSet,
    record: dict[str, Any],
    folder: Path | None,
    stated: bool,
) -> ImageSetResult:
    """A set of images whose features are at hand: with what must be said of them."""
    warnings = list(source.warnings)
    if source.count <= extractor.dim:
        warnings.append(
            f"{path}: {source.count} images are too few for {extractor.dim} dimensions: the covariance is "
            "rank-deficient and the distance biased upwards; compare it only with distances of as many images"
        )
    if holds_images(path) and (extractor.name.startswith("inception") or dimensions(path) == extractor.dim):
        known, told = read_statistics(path, extractor.dim, extractor.protocol, stated)
        near = features.neighbour_distances if features.has_neighbour_distances else None
        features = FeatureSet(features.features, features.labels, known.gaussian, near, extractor.device)
        record["statistics"], warnings = "mu and sigma for the distance, its images for all else", warnings + told
    return ImageSetResult(path, source, features, record, warnings, folder)


def _from_file(path: Path, extractor: Extractor, stated: bool) -> ImageSetResult:
    if not is_feature_file(path):
        features, warnings = read_statistics(path, extractor.dim, extractor.protocol, stated)
        record = {"path": str(path), "images": len(features) or None, "statistics": True}
        return ImageSetResult(path, None, features, record, warnings, None)
    features = read_features(path, extractor.device)
    if (dim := features.features.shape[1]) != extractor.dim:
        raise PipelineError(
            f"{path} has {dim} dimensions, the extractor {extractor.dim}: choose its own with --extractor"
        )
    record = {"path": str(path), "images": len(features), "features": True}
    return ImageSetResult(path, None, features, record, [] if stated else [unknown_protocol(path)], None)


def compare(
    real: ImageSetResult,
    generated: ImageSetResult,
    held_out: ImageSetResult | None,
    extractor: Extractor,
    bootstrap: int,
    infinity: bool,
    names: Collection[str] | None,
) -> dict[str, Any]:
    """All metrics, or those of `names`, with how they were measured, and warnings."""
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
        if side and side.cached_in:
            cache_neighbours(side.cached_in, side.features)
    records = {"a": real.record, "b": generated.record} | ({"held_out": held_out.record} if held_out else {})
    return {
        "metrics": found.values,
        "sampling_error": found.errors,
        "not_available": found.not_available,
        "protocol": protocol_of(extractor),
        "versions": metric_versions(extractor, names),
        **records,
        "warnings": warnings,
    }


def _align_labels(real: ImageSetResult, other: ImageSetResult) -> list[str]:
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


def _same_or_resized(real: ImageSetResult, generated: ImageSetResult) -> list[str]:
    warnings = []
    if real.source and generated.source and real.record["content_sha256"] == generated.record["content_sha256"]:
        warnings.append(f"{real.path} and {generated.path} hold the same images")
    sizes = [set(side.record.get("sizes", ())) for side in (real, generated)]
    if all(sizes) and sizes[0] != sizes[1]:
        warnings.append(f"{real.path} and {generated.path} differ in image sizes: part of any distance is due to that")
    return warnings
