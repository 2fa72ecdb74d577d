"""FD-DINOv2 as published: ViT-L/14, weights of 1.2 GB (Stein et al. 2023, arXiv:2306.04675)."""

import torch

from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.dinov2 import load_dinov2
from pipeline.params import MetricsParams

DIM, LAYERS = 1024, 24
SHA256 = "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"


def load_dinov2_vitl14(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor whose distance is `fd_dinov2_vitl14`, 1,024 features.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    return load_dinov2("vitl14", DIM, LAYERS, SHA256, params, device)
