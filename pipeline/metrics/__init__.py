"""How close generated images are to real ones: images -> features -> numbers.

    extractors        networks whose features the metrics compare; EXTRACTORS
    frechet           the distance between two Gaussians; `gaussian_file` saves one
    neighbours        nearest neighbours, block by block
    sampling_error    what a number would move by if the same generator made other images
    types             what a metric is given, and what it gives back
    fid floor kid cmmd mind inception_score prdc rarity vendi memorisation authenticity classes class_votes
    modes             one metric each, or several of one kind
    applicable        what a metric raises that is of other features or other data
    registry          METRICS, and all of them at once
    versions          which code a metric or an extractor uses
    protocol          what every number says of how it was measured
    shared            features by several ranks
    further           extractors beside the one that ranks
    reference         the pipeline's real side: measured once, and checked
    npz  precision    arrays from files of any origin; float32 without shortcuts

A metric is a function Comparison -> {name: Estimate}. All are computed from the same features, in one pass over the
images. To add one, write such a function in a file of its own, and one entry in METRICS: the versions and protocols of
the others stay as they are. `python -m pipeline.metrics` is `pipeline.evaluate.cli`.
"""

from pipeline.metrics.extractors import EXTRACTORS, load_extractor, sources_of
from pipeline.metrics.extractors.base import Extractor, extract, features_of, in_batches
from pipeline.metrics.frechet import Gaussian, Moments, frechet_distance
from pipeline.metrics.memorisation import closest_pairs
from pipeline.metrics.modes import pixels_of
from pipeline.metrics.protocol import protocol_of
from pipeline.metrics.reference import Reference, load_reference, measure_reference
from pipeline.metrics.registry import METRICS, Measurement, measure, metric_versions
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
    "metric_versions",
    "pixels_of",
    "protocol_of",
    "sources_of",
]
