"""The real images' side of every measurement: computed once, checked, and shared by all models."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.checksums import write_sums
from pipeline.core.errors import PipelineError
from pipeline.core.files import ArrayWriter, atomic_folder, read_json, write_json
from pipeline.data.prepared import SPLITS, load_array, map_array
from pipeline.metrics.extractors.base import Extractor, features_of
from pipeline.metrics.frechet import Gaussian, Moments, frechet_distance
from pipeline.metrics.further import further_extractors, further_metrics, named
from pipeline.metrics.gaussian_file import load_gaussian, save_gaussian
from pipeline.metrics.modes import pixels_of
from pipeline.metrics.registry import measure
from pipeline.metrics.types import NEIGHBOURS, Comparison, FeatureSet
from pipeline.params import MetricsParams

# CIFAR-10's 50,000 training and 10,000 test images, 32 x 32 RGB, as `prepare` writes them; the distances between the
# two that are known: FID by pytorch-fid, FD-DINOv2 from Stein et al. 2023 (arXiv:2306.04675), table 11.
CIFAR10_SHA256 = "9048fcbac9c08a64d57a7c5a5a66750a974ad4eab380914df129f7e223d823df"
CIFAR10_FLOOR, CIFAR10_TOLERANCE = 3.151, 0.005
KNOWN = {"fid": (CIFAR10_FLOOR, CIFAR10_TOLERANCE), "fd_dinov2_vitl14": (31.07, 0.1)}


@dataclass(frozen=True)
class Reference:
    """The training split under an extractor, the held-out test split, and the floor: the distance between the two."""

    train: FeatureSet
    test: FeatureSet
    floor: dict[str, Any]

    @property
    def gaussian(self) -> Gaussian:
        return self.train.gaussian

    def of_class(self, label: int) -> "Reference":
        """The same of one class: its training and its held-out images, with their own floor (see `floor`).

        Raises:
            PipelineError: fewer than 2 training images are of this class.
        """
        train, test = (_of_class(features, label) for features in (self.train, self.test))
        if len(train) < 2:
            raise PipelineError(f"class {label} has {len(train)} training images: name another in generate.labels")
        return Reference(train, test, {**self.floor, "metrics": {}})

    def distance(self, features: np.ndarray) -> float:
        """The Fréchet distance of features (N, D) to the training split's."""
        return frechet_distance(self.gaussian, Gaussian.from_features(features))

    def against(self, generated: FeatureSet, extractor: Extractor, params: MetricsParams) -> Comparison:
        """The comparison of generated images with the training split."""
        return _comparison(self.train, generated, self.test if len(self.test) else None, extractor, params)


def measure_reference(
    prepared: Path, description: dict[str, Any], extractor: Extractor, params: MetricsParams, out: Path
) -> dict[str, Any]:
    """Write features and statistics of both splits to the folder `out`, and floor.json, which is returned.

    Those of each further extractor lie in a subfolder of its name; what it measured stands in floor.json too, see
    `pipeline.metrics.further.named`.

    Raises:
        PipelineError: a self-check failed: the numbers of this extractor on this machine cannot be trusted.
    """
    with atomic_folder(out) as folder:
        floor = _measure(prepared, description, extractor, params, folder)
        for name, other in further_extractors(params, extractor.device):
            if isinstance(other, str):
                continue
            (folder / name).mkdir()
            other = replace(other, shared=extractor.shared)
            found = _measure(prepared, description, other, params, folder / name, further_metrics())
            write_json(folder / name / "floor.json", found)
            for kind in ("metrics", "sampling_error"):
                floor[kind] |= named(found[kind], other)
        write_json(folder / "floor.json", floor)
        write_sums(folder)
    return floor


def _measure(
    prepared: Path,
    description: dict[str, Any],
    extractor: Extractor,
    params: MetricsParams,
    folder: Path,
    names: Collection[str] | None = None,
) -> dict[str, Any]:
    """Write one extractor's features and statistics of both splits to `folder`; returns its floor.json."""
    train, test = (_measure_split(split, prepared, description, extractor, params, folder) for split in SPLITS)
    save_gaussian(folder / "statistics.npz", train.gaussian)
    if len(train) > NEIGHBOURS:
        np.save(folder / "neighbours.npy", train.neighbour_distances)
    comparison = _comparison(train, test, None, extractor, params)
    if train.labels is not None and (names is None or "class_votes" in names):
        name = description.get("name")
        real, held_out = (pixels_of(map_array(prepared / f"{split}.npy"), name) for split in SPLITS)
        comparison = replace(comparison, pixels=(real, held_out))
    found = measure(comparison, names)
    value = found.values[extractor.metric]
    return {
        "metric": extractor.metric,
        "value": value,
        "train_images": len(train),
        "test_images": len(test),
        "data": description.get("name"),
        "data_sha256": description["sha256"],
        "extractor": extractor.protocol,
        "metrics": found.values,
        "sampling_error": found.errors,
        "self_check": self_check(train.gaussian, value, extractor.metric, description["sha256"]),
    }


def self_check(real: Gaussian, floor: float, metric: str, data_sha256: str) -> dict[str, Any]:
    """What was checked before any score: real images against themselves, and the one floor that is known.

    Raises:
        PipelineError: a check failed.
    """
    identity = frechet_distance(real, real)
    if abs(identity) > 1e-9 * real.trace:
        raise PipelineError(
            f"self-check failed: the training images are {identity:.3g} from themselves: reinstall numpy, or report it"
        )
    if found := check_known_value(floor, metric, data_sha256):
        known_value = f"passed: {found}"
    else:
        known_value = "not checked: only distances between all of CIFAR-10's images are known: " + ", ".join(
            f"{name} {value}" for name, (value, _) in KNOWN.items()
        )
    return {"identity": float(f"{identity:.1e}"), "known_value": known_value}


def check_known_value(floor: float, metric: str, data_sha256: str) -> str | None:
    """What was found, where the floor of this data under this metric is known; None where it is not.

    Raises:
        PipelineError: the floor is not the known one.
    """
    if metric not in KNOWN or data_sha256 != CIFAR10_SHA256:
        return None
    title, (known, tolerance) = "FID" if metric == "fid" else metric, KNOWN[metric]
    if abs(floor - known) > tolerance:
        raise PipelineError(
            f"self-check failed: CIFAR-10's test images have {title} {floor:.4f} to its training images, which must be "
            f"{known} ± {tolerance}: no {title} of this machine is comparable; reinstall torch, or set "
            "runtime.device: cpu"
        )
    return f"{title} {floor:.4f} between CIFAR-10's training and test images, {known} is known"


def load_reference(folder: Path, extractor: Extractor, data_sha256: str | None = None) -> Reference:
    """What `measure_reference` wrote; features are mapped, not read.

    Args:
        data_sha256: of the prepared data that it has to be about; None = of any.

    Raises:
        PipelineError: it is missing or damaged, or was measured under another extractor, or on other data.
    """
    floor = read_json(folder / "floor.json")
    if not isinstance(floor, dict) or floor.get("extractor") != extractor.protocol:
        raise PipelineError(f"{folder} was measured with another extractor: run `dvc repro`, which measures it again")
    if data_sha256 is not None and floor.get("data_sha256") != data_sha256:
        raise PipelineError(f"{folder} was measured on other data than the prepared: run `dvc repro`, which mends it")
    sets = {}
    for split in SPLITS:
        shape = (floor[f"{split}_images"], extractor.dim)
        labels = folder / f"{split}_labels.npy"
        sets[split] = FeatureSet(
            load_array(folder / f"{split}_features.npy", np.float32, shape),
            load_array(labels, np.int64, shape[:1]) if labels.exists() else None,
            load_gaussian(folder / "statistics.npz") if split == "train" else None,
            _neighbours(folder / "neighbours.npy", shape[0]) if split == "train" else None,
            extractor.device,
        )
    return Reference(sets["train"], sets["test"], floor)


def _measure_split(
    split: str,
    prepared: Path,
    description: dict[str, Any],
    extractor: Extractor,
    params: MetricsParams,
    folder: Path,
) -> FeatureSet:
    """Extract one split's features, into a file and into a Gaussian in one pass."""
    images = map_array(prepared / f"{split}.npy")
    path, moments = folder / f"{split}_features.npy", Moments()
    with ArrayWriter(path, (extractor.dim,), np.float32) as rows:
        for features in features_of(extractor, images, params.batch_size, split):
            rows.append(features)
            moments.add(features)
    labels = None
    if description["classes"]:
        labels = map_array(prepared / f"{split}_labels.npy")
        np.save(folder / f"{split}_labels.npy", labels)
    features = np.load(path, mmap_mode="r", allow_pickle=False)
    return FeatureSet(features, labels, Gaussian.from_moments(moments), None, extractor.device)


def _of_class(images: FeatureSet, label: int) -> FeatureSet:
    rows = np.flatnonzero(images.labels == label) if images.labels is not None else np.zeros(0, np.int64)
    return FeatureSet(images.features[rows], np.full(len(rows), label), device=images.device)


def _neighbours(path: Path, count: int) -> np.ndarray | None:
    return load_array(path, np.float32, (count, NEIGHBOURS)) if count > NEIGHBOURS else None


def _comparison(
    real: FeatureSet, generated: FeatureSet, held_out: FeatureSet | None, extractor: Extractor, params: MetricsParams
) -> Comparison:
    return Comparison(
        real,
        generated,
        held_out,
        extractor.metric,
        extractor.head,
        params.bootstrap,
        params.infinity,
    )
