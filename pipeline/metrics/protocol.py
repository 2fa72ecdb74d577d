"""The protocol: what a number must say of how it was measured."""

from typing import Any

from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.registry import metric_versions

RANKED = "fid"  # the metric by which models are ranked: the Fréchet distance, whatever the extractor calls it


def protocol_of(extractor: Extractor) -> dict[str, Any]:
    """What every number says, whatever the two sets: the extractor's own protocol, quantisation, and the code.

    Two distances compare only where all of it agrees. Of the code that is the extractor's and the distance's own: what
    computes the other metrics has versions beside their values, see `pipeline.metrics.registry.metric_versions`.
    """
    return {
        **extractor.protocol,
        "quantisation": "uint8",
        "extractor_version": extractor.version,
        "distance_version": metric_versions(extractor, [RANKED])[RANKED],
    }
