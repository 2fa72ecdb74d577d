"""Why a number differs from a published one: the fields of its protocol that do, and the number under each of them.

    python -m pipeline.metrics doctor --explain train50k-50k --experiment dcgan-0

Each field that differs is changed by itself, everything else as it was, and the distance measured anew, where the
images, weights or generators at hand allow it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from pipeline import layout
from pipeline.checkpoint import load_generator
from pipeline.data import load_description
from pipeline.devices import choose_device
from pipeline.errors import PipelineError
from pipeline.files import read_json
from pipeline.metrics.features import INCEPTION_SHA256, Extractor, extract, in_batches, load_extractor
from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.params import Params, suggest
from pipeline.progress import progress
from pipeline.sampling import sample

_FID = {
    "extractor": "inception",
    "weights_sha256": INCEPTION_SHA256,
    "input_size": 299,
    "resize": "bilinear, no antialias",
    "quantisation": "uint8",
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    # the usual one for GANs on CIFAR-10
    "train50k-50k": {**_FID, "real_split": "train", "real_images": 50_000, "generated_images": 50_000},
    "test10k-10k": {**_FID, "real_split": "test", "real_images": 10_000, "generated_images": 10_000},
    # Miyato et al. 2018 (arXiv:1802.05957), appendix B.1: 10,000 real and 5,000 generated images
    "sngan": {**_FID, "real_split": "test", "real_images": 10_000, "generated_images": 5_000},
    # Parmar et al. 2022 (arXiv:2104.11222)
    "clean-fid": {
        **_FID, "resize": "bicubic, antialias", "real_split": "train", "real_images": 50_000,
        "generated_images": 50_000,
    },
}  # fmt: skip


class Row(NamedTuple):
    """A field that differs: what the number has, what the protocol asks for, and the number then, if there is one."""

    field: str
    ours: Any
    theirs: Any
    outcome: str


class _Missing(Exception):
    """What a variant lacks."""


def explain(protocol: str, experiment: str, params: Params) -> tuple[str, float, list[Row]]:
    """The metric and value of an experiment, and how it would change under each field of a named protocol.

    Raises:
        PipelineError: the protocol or the experiment is unknown, or files are missing.
    """
    if protocol not in PROTOCOLS:
        raise PipelineError(f"--explain {protocol}: no such protocol; {suggest(protocol, PROTOCOLS)}")
    known = [path.parent.name for path in sorted(layout.SCORES.glob("*/metrics.json"))]
    if experiment not in known:
        raise PipelineError(f"--experiment {experiment}: not measured here; {suggest(experiment, known)}")
    scores = read_json(layout.SCORES / experiment / "metrics.json")
    case = _Case(params, experiment, load_extractor(params.metrics, choose_device(params.runtime.device)))
    return case.extractor.metric, scores[case.extractor.metric], list(_rows(case, scores["protocol"], protocol))


def _rows(case: "_Case", ours: dict[str, Any], protocol: str) -> Iterator[Row]:
    for field, theirs in PROTOCOLS[protocol].items():
        if str(ours[field]) == str(theirs) or (field == "weights_sha256" and ours[field].startswith(theirs)):
            continue
        try:
            outcome = f"{case.distance(field, theirs):.4f}"
        except (_Missing, PipelineError) as error:
            outcome = f"cannot be computed here: {error}"
        yield Row(field, ours[field], theirs, outcome)
    other = "raw" if ours["generator"] == "ema" else "ema"
    try:
        yield Row("generator", ours["generator"], f"{other} (papers seldom say)", f"{case.sampled(other):.4f}")
    except (_Missing, PipelineError) as error:
        yield Row("generator", ours["generator"], other, f"cannot be computed here: {error}")


@dataclasses.dataclass
class _Case:
    """An experiment's images, and its distance under changed circumstances."""

    params: Params
    name: str
    extractor: Extractor

    def distance(self, field: str, value: Any) -> float:
        """The distance with one field of the protocol changed to `value`."""
        change: Callable[[Any], float] | None = {
            "extractor": self._extractor,
            "resize": self._resized,
            "real_split": lambda split: self._measure(self._real(split), self._generated()),
            "real_images": lambda count: self._measure(_first(self._real("train"), count), self._generated()),
            "generated_images": lambda count: self._measure(self._real("train"), _first(self._generated(), count)),
        }.get(field)
        if change is None:
            raise _Missing("it comes with the extractor")
        return change(value)

    def sampled(self, weights: str) -> float:
        """The distance of as many samples of the generator's other weights."""
        generator, info = load_generator(layout.RUNS / self.name, weights)
        generate, count = self.params.generate, len(self._generated())
        batches = sample(
            generator.to(self.extractor.device),
            count,
            generate.seed,
            generate.batch_size,
            info["recipe"]["latent_dim"],
            info["n_classes"],
        )
        return self._measure(self._real("train"), torch.cat(list(batches)).numpy())

    def _extractor(self, name: str) -> float:
        params = self.params.metrics.model_copy(update={"extractor": name, "weights": None})
        return self._measure(self._real("train"), self._generated(), load_extractor(params, self.extractor.device))

    def _resized(self, resize: str) -> float:
        mode, _, rest = resize.partition(", ")
        size = self.extractor.protocol["input_size"]

        def resized(images: torch.Tensor) -> torch.Tensor:  # the extractor's own resizing then finds nothing to do
            images = F.interpolate(images, (size, size), mode=mode, align_corners=False, antialias=rest == "antialias")
            return self.extractor.resize(images.clamp(0, 255))

        extractor = dataclasses.replace(self.extractor, resize=resized)
        return self._measure(self._real("train"), self._generated(), extractor)

    def _measure(self, real: np.ndarray, generated: np.ndarray, extractor: Extractor | None = None) -> float:
        sides = []
        for images, title in ((real, "real"), (generated, "generated")):
            size = self.params.metrics.batch_size
            batches = progress(in_batches(images, size), f"features: {title}", -(-len(images) // size), "batches")
            features = np.concatenate(list(extract(extractor or self.extractor, batches)))
            sides.append(Gaussian.from_features(features))
        return frechet_distance(*sides)

    def _real(self, split: str) -> np.ndarray:
        load_description(layout.PREPARED)
        return _images(layout.PREPARED / f"{split}.npy")

    def _generated(self) -> np.ndarray:
        return _images(layout.SAMPLES / self.name / "images.npy")


def _images(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        raise PipelineError(f"{path} is missing or damaged: run `dvc repro`, which makes it") from None


def _first(images: np.ndarray, count: int) -> np.ndarray:
    """A seeded choice of `count` images."""
    if count > len(images):
        raise _Missing(f"{len(images):,} images are there")
    return images[np.sort(np.random.default_rng(0).choice(len(images), count, replace=False))]
