"""How close generated images are to real ones.

    features   extractors: images -> feature vectors
    frechet    the distance between the Gaussians fitted to two sets of features
    reference  the real side, measured once: statistics, features, and the floor

A metric is a pure function (real features, generated features) -> float; METRICS names them. All are computed from
the same features in one pass.
"""

from collections.abc import Callable

from pipeline.metrics.features import EXTRACTORS, Extractor, extract, in_batches, load_extractor
from pipeline.metrics.frechet import Gaussian, Moments, frechet_distance
from pipeline.metrics.reference import Reference, load_reference, measure_reference

METRICS: dict[str, Callable[[Gaussian, Gaussian], float]] = {"frechet": frechet_distance}

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "Extractor",
    "Gaussian",
    "Moments",
    "Reference",
    "extract",
    "frechet_distance",
    "in_batches",
    "load_extractor",
    "load_reference",
    "measure_reference",
]
