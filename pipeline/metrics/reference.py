"""The real images' side of every distance: computed once, shared by all models."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.files import ArrayWriter, atomic_folder, read_json, write_json
from pipeline.metrics.features import Extractor, in_batches
from pipeline.metrics.frechet import Gaussian, Moments, frechet_distance
from pipeline.progress import progress


@dataclass(frozen=True)
class Reference:
    """The training split under an extractor, and the floor: its distance to the held-out test split."""

    gaussian: Gaussian
    floor: dict[str, Any]

    def distance(self, features: np.ndarray) -> float:
        """The Fréchet distance of features (N, D) to the training split's."""
        return frechet_distance(self.gaussian, Gaussian.from_features(features))


def measure_reference(prepared: Path, description: dict[str, Any], extractor: Extractor, batch: int, out: Path) -> None:
    """Write statistics.npz and features.npy of the training split, and floor.json, to the folder `out`."""
    with atomic_folder(out) as folder:
        gaussians = {}
        for split, path in [("train", folder / "features.npy"), ("test", None)]:
            images = np.load(prepared / f"{split}.npy", mmap_mode="r", allow_pickle=False)
            batches = progress(in_batches(images, batch), f"features of {split}", -(-len(images) // batch), "batches")
            gaussians[split] = _fit(extractor, batches, path)
        gaussians["train"].save(folder / "statistics.npz")
        floor = {
            "metric": extractor.metric,
            "value": frechet_distance(gaussians["train"], gaussians["test"]),
            "train_images": gaussians["train"].count,
            "test_images": gaussians["test"].count,
            "data_sha256": description["sha256"],
            "extractor": extractor.protocol,
        }
        write_json(folder / "floor.json", floor)


def load_reference(folder: Path, extractor: Extractor) -> Reference:
    """What `measure_reference` wrote.

    Raises:
        PipelineError: it is missing or damaged, or was measured under another extractor.
    """
    floor = read_json(folder / "floor.json")
    if not isinstance(floor, dict) or floor.get("extractor") != extractor.protocol:
        raise PipelineError(f"{folder} was measured with another extractor: run `dvc repro`, which measures it again")
    return Reference(Gaussian.load(folder / "statistics.npz"), floor)


def _fit(extractor: Extractor, batches: Iterable[Any], path: Path | None) -> Gaussian:
    """The Gaussian of all batches' features, which are also written to `path`."""
    moments = Moments()
    if path is None:
        for images in batches:
            moments.add(extractor(images).numpy())
        return Gaussian.from_moments(moments)
    with ArrayWriter(path, (extractor.dim,), np.float32) as rows:
        for images in batches:
            features = extractor(images).numpy()
            rows.append(features)
            moments.add(features)
    return Gaussian.from_moments(moments)
