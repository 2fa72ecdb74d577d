"""Why a number differs from a published one: the fields of its protocol that do, and the number under each of them.

    python -m pipeline.metrics doctor --explain train50k-50k --experiment dcgan-0

Each field that differs is changed by itself, everything else as it was, and the distance measured again, where the
images, weights or generators at hand allow it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.core import paths
from pipeline.core.checksums import verify_checksums
from pipeline.core.devices import choose_device
from pipeline.core.errors import PipelineError, suggest
from pipeline.core.files import read_json
from pipeline.data.prepared import load_array, load_description
from pipeline.evaluate.stated import ALIASES, RESIZES
from pipeline.gan.checkpoint import load_generator
from pipeline.metrics.extractors import inception, load_extractor
from pipeline.metrics.extractors.base import Extractor, features_of
from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.reference import Reference, load_reference
from pipeline.params import Params
from pipeline.sampling.images import sample

_FID = {
    "extractor": "inception",
    "weights_sha256": inception.SHA256,
    "input_size": inception.SIZE,
    "quantisation": "uint8",
}
_ALL = {"real_split": "train", "real_images": 50_000, "generated_images": 50_000}
PROTOCOLS: dict[str, dict[str, Any]] = {
    # the usual one for GANs on CIFAR-10
    "train50k-50k": {**_FID, **_ALL},
    "test10k-10k": {**_FID, "real_split": "test", "real_images": 10_000, "generated_images": 10_000},
    # Miyato et al. 2018 (arXiv:1802.05957), appendix B.1: 10,000 real and 5,000 generated images
    "sngan": {**_FID, "real_split": "test", "real_images": 10_000, "generated_images": 5_000},
    # the resizes that go by the name of FID
    **{name: {**_FID, **_ALL, "extractor": extractor} for name, extractor in RESIZES.items()},
}


class ProtocolDifference(NamedTuple):
    """A field that differs: what the number has, what the protocol asks for, and the number then, if there is one."""

    field: str
    ours: Any
    theirs: Any
    outcome: str


class _Missing(Exception):
    """What a variant lacks."""


def explain(protocol: str, experiment: str, params: Params) -> tuple[str, float, list[ProtocolDifference]]:
    """The metric and value of an experiment, and how it would change under each field of a named protocol.

    Raises:
        PipelineError: the protocol or the experiment is unknown, or files are missing.
    """
    protocol = ALIASES.get(protocol, protocol)
    if protocol not in PROTOCOLS:
        raise PipelineError(f"--explain {protocol}: no such protocol; {suggest(protocol, [*PROTOCOLS, *ALIASES])}")
    known = [path.parent.name for path in sorted(paths.SCORES.glob("*/record.json"))]
    if experiment not in known:
        raise PipelineError(f"--experiment {experiment}: not measured here; {suggest(experiment, known)}")
    for folder in (paths.PREPARED, paths.REFERENCE, paths.SAMPLES / experiment, paths.SCORES / experiment):
        verify_checksums(folder, partial=True)
    scores = read_json(paths.SCORES / experiment / "record.json")
    extractor = load_extractor(params.metrics, choose_device(params.runtime.device))
    description, ours = load_description(paths.PREPARED), scores["protocol"]
    shape = (ours["generated_images"], *description["image_shape"])
    whole = reference = load_reference(paths.REFERENCE, extractor)
    real = load_array(paths.PREPARED / "train.npy", np.uint8, (description["train"], *shape[1:]))
    if ours["real_split"] != "train":  # "train, class 3"
        label = int(ours["labels"].removeprefix("class "))
        reference, real = whole.of_class(label), real[whole.train.labels == label]
    generated = load_array(paths.SAMPLES / experiment / "images.npy", np.uint8, shape)
    case = _Case(params, experiment, extractor, whole, reference, real, generated)
    return extractor.metric, scores[extractor.metric], list(_rows(case, ours, protocol))


def _rows(case: "_Case", ours: dict[str, Any], protocol: str) -> Iterator[ProtocolDifference]:
    for field, theirs in PROTOCOLS[protocol].items():
        if str(ours[field]) == str(theirs):
            continue
        try:
            outcome = f"{case.distance(field, theirs):.4f}"
        except (_Missing, PipelineError) as error:
            outcome = f"cannot be computed here: {error}"
        yield ProtocolDifference(field, ours[field], theirs, outcome)
    other = "raw" if ours["generator"] == "ema" else "ema"
    asked = f"{other} (papers seldom say)"
    try:
        yield ProtocolDifference("generator", ours["generator"], asked, f"{case.sampled(other):.4f}")
    except (_Missing, PipelineError) as error:
        yield ProtocolDifference("generator", ours["generator"], other, f"cannot be computed here: {error}")


@dataclasses.dataclass
class _Case:
    """An experiment's images uint8 (N, C, S, S), real and generated, and its distance under changed circumstances.

    whole: the reference, of which `reference` is what the experiment was measured against: all of it, or one class.
    """

    params: Params
    name: str
    extractor: Extractor
    whole: Reference
    reference: Reference
    real: np.ndarray
    generated: np.ndarray

    def distance(self, field: str, value: Any) -> float:
        """The distance with one field of the protocol changed to `value`."""
        change: Callable[[Any], float] | None = {
            "extractor": self._other_extractor,
            "real_split": lambda split: _distance(getattr(self.whole, split).features, self._features),
            "real_images": lambda count: _distance(_chosen(self.reference.train.features, count), self._features),
            "generated_images": lambda count: self.reference.distance(_chosen(self._features, count)),
        }.get(field)
        if change is None:
            raise _Missing("it comes with the extractor")
        return change(value)

    def sampled(self, weights: str) -> float:
        """The distance of as many samples of the generator's other weights."""
        generator, info = load_generator(paths.RUNS / self.name, weights)
        batches = sample(
            generator.to(self.extractor.device),
            torch.from_numpy(load_array(paths.SAMPLES / self.name / "labels.npy", np.int64, (len(self.generated),))),
            self.params.generate.seed,
            self.params.generate.batch_size,
            info["recipe"]["latent_dim"],
        )
        return self.reference.distance(self._extracted(self.extractor, torch.cat(list(batches)).numpy()))

    @functools.cached_property
    def _features(self) -> np.ndarray:
        return self._extracted(self.extractor, self.generated)

    def _other_extractor(self, name: str) -> float:
        params = self.params.metrics.model_copy(update={"extractor": name, "weights": None})
        return self._under(load_extractor(params, self.extractor.device))

    def _under(self, extractor: Extractor) -> float:
        return _distance(*(self._extracted(extractor, images) for images in (self.real, self.generated)))

    def _extracted(self, extractor: Extractor, images: np.ndarray) -> np.ndarray:
        title = "real images" if images is self.real else "generated images"
        return np.concatenate(list(features_of(extractor, images, self.params.metrics.batch_size, title)))


def _distance(real: np.ndarray, generated: np.ndarray) -> float:
    return frechet_distance(Gaussian.from_features(real), Gaussian.from_features(generated))


def _chosen(rows: np.ndarray, count: int) -> np.ndarray:
    """A seeded choice of `count` rows."""
    if count > len(rows):
        raise _Missing(f"{len(rows):,} images are there")
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), count, replace=False))]
