"""METRICS by name, all of them at once, and the version of each."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.core.progress import progress
from pipeline.metrics.applicable import NotApplicable
from pipeline.metrics.authenticity import authenticity
from pipeline.metrics.class_votes import class_votes
from pipeline.metrics.classes import classes
from pipeline.metrics.cmmd import cmmd
from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.fid import fid_infinity, frechet_distance_metric
from pipeline.metrics.floor import floor
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.kid import kid
from pipeline.metrics.memorisation import memorisation
from pipeline.metrics.mind import mind
from pipeline.metrics.modes import modes
from pipeline.metrics.prdc import prdc
from pipeline.metrics.rarity import rarity
from pipeline.metrics.types import Comparison, Estimate, NotAvailable
from pipeline.metrics.vendi import vendi
from pipeline.metrics.versions import version_of

METRICS: dict[str, Callable[[Comparison], dict[str, Estimate]]] = {
    "fid": frechet_distance_metric,
    "fid_infinity": fid_infinity,
    "floor": floor,
    "kid": kid,
    "cmmd": cmmd,
    "mind": mind,
    "inception_score": inception_score,
    "prdc": prdc,
    "rarity": rarity,
    "vendi": vendi,
    "memorisation": memorisation,
    "authenticity": authenticity,
    "classes": classes,
    "class_votes": class_votes,
    "modes": modes,
}


@dataclass
class Measurement:
    """What was measured, by name: values, their standard errors of sampling where known, and why others are missing."""

    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    not_available: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As record.json has it: the values flat, the rest beside them."""
        return {**self.values, "sampling_error": self.errors, "not_available": self.not_available}


def measure(comparison: Comparison, names: Collection[str] | None = None) -> Measurement:
    """Every metric in METRICS that applies, or those of `names`.

    Raises:
        PipelineError: a value is not finite.
    """
    found = Measurement()
    asked = list(METRICS if names is None else names)
    for name in progress(asked, f"metrics of {len(comparison.generated):,} images", len(asked), "metrics"):
        try:
            estimates = METRICS[name](comparison)
        except NotAvailable as reason:
            if names is not None or not isinstance(reason, NotApplicable):
                found.not_available[name] = str(reason)
            continue
        for key, (value, error) in estimates.items():
            if not math.isfinite(value):
                raise PipelineError(f"{key} is {value}: the images or the weights are damaged")
            found.values[key] = float(value)
            if error is not None:
                found.errors[key] = float(error)
    return found


def metric_versions(extractor: Extractor, names: Collection[str] | None = None) -> dict[str, str]:
    """The version of each metric in METRICS, or of those of `names`: of its own code and of the extractor's."""
    asked = METRICS if names is None else names
    return {name: version_of(METRICS[name], extractor.version) for name in asked}
