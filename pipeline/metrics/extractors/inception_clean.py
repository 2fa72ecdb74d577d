"""The FID of clean-fid's resize (Parmar et al. 2022, arXiv:2104.11222), which StudioGAN also offers."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.inception import SIZE, load_inception
from pipeline.metrics.extractors.protocols import under_protocol
from pipeline.params import MetricsParams

RESIZE = "PIL bicubic of float32 channels, clipped"


def load_inception_clean(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor whose distance is `fid_clean`, see `load_inception`.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    return under_protocol(load_inception(params, device), "clean", RESIZE, resized)


def resized(images: Tensor) -> Tensor:
    """Images (N, C, H, W) of 0..255 to (N, C, 299, 299): Pillow's antialiased bicubic, clipped to 0..255, not rounded.

    On the CPU, whatever the device: torch's antialiased bicubic has other coefficients (a = -0.75, Pillow -0.5).
    """
    channels = images.cpu().numpy().reshape(-1, *images.shape[2:])
    found = [Image.fromarray(channel).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for channel in channels]
    values = np.stack([np.asarray(channel) for channel in found]).clip(0, 255)
    return torch.from_numpy(values).view(*images.shape[:2], SIZE, SIZE).to(images.device)
