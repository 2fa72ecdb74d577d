"""How close generated images are to real ones.

    frechet           the distance between two Gaussians
    features  fast    extractors, images -> feature vectors; the same features in less time
    neighbours        nearest neighbours, block by block
    sets              what a metric is given, and what it gives back
    fid kid inception_score prdc memorisation classes      one metric each, or several of one kind
    registry          METRICS, and all of them at once
    record            what every number's protocol says, the code version too
    reference         the pipeline's real side: measured once, and checked
    arrays  images  statistics  command                    anyone's two sets: `python -m pipeline.metrics A B`
    doctor  explain   checks of this installation, and of one number against a published one

A metric is a function Comparison -> {name: Estimate}. All are computed from the same features, in one pass over the
images. To add one, write such a function in a file of its own, and one entry in METRICS.
"""

from pipeline.metrics.features import (
    EXTRACTORS,
    Extractor,
    extract,
    features_of,
    in_batches,
    load_extractor,
    sources_of,
)
from pipeline.metrics.frechet import Gaussian, Moments, frechet_distance
from pipeline.metrics.memorisation import closest_pairs
from pipeline.metrics.protocol import protocol_of
from pipeline.metrics.reference import Reference, load_reference, measure_reference
from pipeline.metrics.registry import METRICS, Measurement, measure
from pipeline.metrics.types import Comparison, Estimate, FeatureSet, NotAvailable

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
    "extract",
    "features_of",
    "frechet_distance",
    "in_batches",
    "load_extractor",
    "load_reference",
    "measure",
    "measure_reference",
    "protocol_of",
    "sources_of",
]
