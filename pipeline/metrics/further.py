"""Further extractors of one run, beside the one that ranks: each has its own reference, floor and names."""

from collections.abc import Collection, Iterator

import torch

from pipeline.metrics.extractors import load_extractor
from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.weights import WeightsNotFound
from pipeline.metrics.registry import METRICS
from pipeline.metrics.types import kernel_name
from pipeline.params import MetricsParams

OF_CLASSES = ("classes", "class_votes")  # they are measured by the first extractor only


def further_extractors(metrics: MetricsParams, device: torch.device) -> Iterator[tuple[str, Extractor | str]]:
    """Each of `metrics.further_extractors` by its name, loaded when it is its turn, or why it is not available.

    Their weights are looked for in their default places.

    Raises:
        PipelineError: a name is unknown, or weights are not the known ones.
    """
    for name in metrics.further_extractors:
        own = metrics.model_copy(update={"extractor": name, "weights": None})
        try:
            yield name, load_extractor(own, device)
        except WeightsNotFound as missing:
            yield name, missing.problem + ": " + missing.remedy


def further_metrics() -> list[str]:
    """The entries of METRICS that further extractors measure."""
    return [name for name in METRICS if name not in OF_CLASSES]


def distance_name(extractor: str) -> str:
    """What the Fréchet distance under an extractor with its known weights is called.

    >>> distance_name("inception"), distance_name("inception_tf"), distance_name("dinov2_vits14")
    ('fid', 'fid_tf', 'fd_dinov2_vits14')
    """
    return f"fid{extractor.removeprefix('inception')}" if extractor.startswith("inception") else f"fd_{extractor}"


def named(values: dict[str, float], extractor: Extractor) -> dict[str, float]:
    """A further extractor's values by names that are its own: `fd_net` stays, `recall` becomes `net/recall`."""
    own = (extractor.metric, kernel_name(extractor.metric))
    return {key if _is_own(key, own) else f"{extractor.name}/{key}": value for key, value in values.items()}


def _is_own(key: str, names: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}_") for name in names)
