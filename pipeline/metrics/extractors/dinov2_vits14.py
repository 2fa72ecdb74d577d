"""DINOv2's ViT-S/14, weights of 88 MB: no published FD-DINOv2, but the smallest of its networks."""

import torch

from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.dinov2 import load_dinov2
from pipeline.params import MetricsParams

DIM, LAYERS = 384, 12
SHA256 = "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"


def load_dinov2_vits14(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor whose distance is `fd_dinov2_vits14`, 384 features.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    return load_dinov2("vits14", DIM, LAYERS, SHA256, params, device)
