"""Extractors: networks whose features the metrics compare.

Only the 2015 Inception network gives a FID, and under each resize another one: `fid`, `fid_tf` and so on. Any other
extractor's distance has its own name, `fd_<extractor>`, and is never ranked with one.

    base                 what an extractor is, and how images pass through it
    weights              files of weights, which must be the known ones
    fast                 the same features in less time
    inception            the network of every published FID, with pytorch-fid's resize
    inception_tf inception_clean inception_torchmetrics        the same with others' resizes
    protocols            what these three have in common
    efficientnet_lite0   small, and its weights come with a package
    dinov2_vitl14 dinov2_vitb14 dinov2_vits14      FD-DINOv2, and smaller networks of the same kind
    clip_vitl14_336      CMMD's network
    dinov2  vit          what DINOv2's have in common; the network of these and CLIP's

To add an extractor, write a function that returns an `Extractor` in a file of its own, and one entry in EXTRACTORS.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.core.errors import PipelineError, suggest
from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.clip_vitl14_336 import load_clip_vitl14_336
from pipeline.metrics.extractors.dinov2_vitb14 import load_dinov2_vitb14
from pipeline.metrics.extractors.dinov2_vitl14 import load_dinov2_vitl14
from pipeline.metrics.extractors.dinov2_vits14 import load_dinov2_vits14
from pipeline.metrics.extractors.efficientnet_lite0 import load_efficientnet_lite0
from pipeline.metrics.extractors.inception import load_inception
from pipeline.metrics.extractors.inception_clean import load_inception_clean
from pipeline.metrics.extractors.inception_tf import load_inception_tf
from pipeline.metrics.extractors.inception_torchmetrics import load_inception_torchmetrics
from pipeline.metrics.versions import sources, version_of
from pipeline.params import MetricsParams

EXTRACTORS: dict[str, Callable[[MetricsParams, torch.device], Extractor]] = {
    "inception": load_inception,
    "inception_tf": load_inception_tf,
    "inception_clean": load_inception_clean,
    "inception_torchmetrics": load_inception_torchmetrics,
    "efficientnet_lite0": load_efficientnet_lite0,
    "dinov2_vitl14": load_dinov2_vitl14,
    "dinov2_vitb14": load_dinov2_vitb14,
    "dinov2_vits14": load_dinov2_vits14,
    "clip_vitl14_336": load_clip_vitl14_336,
}


def load_extractor(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor that params.yaml names, on `device`.

    Raises:
        PipelineError: the name is unknown, or its weights are missing or are not the known ones.
    """
    load = _named(params.extractor)
    return dataclasses.replace(load(params, device), version=version_of(load))


def sources_of(extractor: str) -> list[Path]:
    """The files whose code turns images into the features of an extractor: its own, and those that it imports.

    Raises:
        PipelineError: the name is unknown.
    """
    return sources(_named(extractor))


def _named(name: str) -> Callable[[MetricsParams, torch.device], Extractor]:
    if name not in EXTRACTORS:
        problem = f"unknown name {name!r}; {suggest(name, EXTRACTORS)}"
        raise PipelineError(f"metrics.extractor: {problem}", field="metrics.extractor", problem=problem)
    return EXTRACTORS[name]
