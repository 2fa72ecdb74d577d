"""The FID of TensorFlow 1's resize: TTUR, StyleGAN, ADM, EDM, R3GAN, torch-fidelity, clean-fid's legacy_tensorflow."""

import torch
from torch import Tensor

from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.inception import SIZE, load_inception
from pipeline.metrics.extractors.protocols import under_protocol
from pipeline.params import MetricsParams

RESIZE = "bilinear, source i * in / out"


def load_inception_tf(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor whose distance is `fid_tf`, see `load_inception`.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    return under_protocol(load_inception(params, device), "tf", RESIZE, resized)


def resized(images: Tensor) -> Tensor:
    """Images (N, C, H, W) to (N, C, 299, 299) as tf.image.resize_bilinear of TensorFlow 1 resizes them.

    Pixel i of the result lies at i * in / out of the source, not at (i + 0.5) * in / out - 0.5; the last pixel stands
    for what lies beyond it; nothing is averaged where an image shrinks.
    """
    return _along(_along(images, 3), 2)


def _along(images: Tensor, axis: int) -> Tensor:
    size = images.shape[axis]
    places = torch.arange(SIZE, device=images.device) * torch.tensor(size / SIZE, dtype=torch.float32)
    lower = places.floor().long()
    upper = (lower + 1).clamp(max=size - 1)
    share = (places - lower).view([SIZE if one == axis else 1 for one in range(4)])
    near, far = (images.index_select(axis, chosen) for chosen in (lower, upper))
    return near + (far - near) * share
