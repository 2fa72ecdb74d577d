"""How close generated images are to real ones.

    features   extractors: images -> feature vectors           fast       the same features in less time
    frechet    the distance between two Gaussians              neighbours nearest neighbours, block by block
    sets       what a metric is given and gives back           record     the protocol of a number
    reference  the real side, measured once                    images, statistics, command: anyone's two sets

    registry   METRICS, and all of them at once

A metric is a function Comparison -> {name: Estimate}. All are computed from the same features, in one pass over the
images. To add one, write such a function in a file of its own, and one entry in METRICS.
"""

from pipeline.metrics.features import EXTRACTORS, Extractor, extract, in_batches, load_extractor
from pipeline.metrics.frechet import Gaussian, Moments, frechet_distance
from pipeline.metrics.memorisation import closest_pairs
from pipeline.metrics.record import code_version
from pipeline.metrics.reference import Reference, load_reference, measure_reference
from pipeline.metrics.registry import METRICS, Measurement, measure
from pipeline.metrics.sets import Comparison, Estimate, FeatureSet, NotAvailable

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "Comparison",
    "Estimate",
    "Extractor",
    "FeatureSet",
    "Gaussian",
    "Measurement",
    "Moments",
    "NotAvailable",
    "Reference",
    "closest_pairs",
    "code_version",
    "extract",
    "frechet_distance",
    "in_batches",
    "load_extractor",
    "load_reference",
    "measure",
    "measure_reference",
]
