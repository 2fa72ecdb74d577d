"""Further extractors of one run, beside the one that ranks: each has its own reference, floor and names."""

from collections.abc import Iterator

import torch

from pipeline.core.errors import warn
from pipeline.core.metric_names import distance_name, further_name
from pipeline.metrics.extractors import load_extractor
from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.weights import WeightsNotFound
from pipeline.metrics.registry import METRICS
from pipeline.params import MetricsParams

OF_CLASSES = ("classes", "class_votes", "modes")  # they are measured by the first extractor only


def further_extractors(metrics: MetricsParams, device: torch.device) -> Iterator[tuple[str, Extractor | str]]:
    """Each of `metrics.further_extractors` by its name, loaded when it is its turn, or why it is not available.

    Their weights are looked for in their default places. Of one whose weights are missing this warns.

    Raises:
        PipelineError: a name is unknown, or weights are not the known ones.
    """
    for name in metrics.further_extractors:
        own = metrics.model_copy(update={"extractor": name, "weights": None})
        try:
            yield name, load_extractor(own, device)
        except WeightsNotFound as missing:
            reason = f"{missing.problem}: {missing.remedy}"
            warn(f"{distance_name(name)} is not measured: {reason}")
            yield name, reason


def further_metrics() -> list[str]:
    """The entries of METRICS that further extractors measure."""
    return [name for name in METRICS if name not in OF_CLASSES]


def named(values: dict[str, float], extractor: Extractor) -> dict[str, float]:
    """A further extractor's values by names that are its own: `fd_net` stays, `recall` becomes `net/recall`."""
    return {further_name(key, extractor.name, extractor.metric): value for key, value in values.items()}
