"""DINOv2's ViT-B/14, weights of 346 MB: no published FD-DINOv2, but a smaller network; FLD's features."""

import torch

from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.dinov2 import load_dinov2
from pipeline.params import MetricsParams

DIM, LAYERS = 768, 12
SHA256 = "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"


def load_dinov2_vitb14(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor whose distance is `fd_dinov2_vitb14`, 768 features.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    return load_dinov2("vitb14", DIM, LAYERS, SHA256, params, device)
