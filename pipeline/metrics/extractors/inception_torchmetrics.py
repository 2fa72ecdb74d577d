"""The FID of torchmetrics since 1.8: bilinear and antialiased."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.inception import SIZE, load_inception
from pipeline.metrics.extractors.protocols import under_protocol
from pipeline.params import MetricsParams

RESIZE = "bilinear, antialias"


def load_inception_torchmetrics(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor whose distance is `fid_torchmetrics`, see `load_inception`.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    return under_protocol(load_inception(params, device), "torchmetrics", RESIZE, resized)


def resized(images: Tensor) -> Tensor:
    """Images (N, C, H, W) to (N, C, 299, 299), averaged where they shrink."""
    return F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
