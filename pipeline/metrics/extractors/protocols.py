"""Inception under another resize than pytorch-fid's: the same network and weights, other numbers by the name of FID."""

import dataclasses
from collections.abc import Callable

from torch import Tensor

from pipeline.metrics.extractors.base import Extractor

VALUE_RANGE = "(x - 128) / 128"


def under_protocol(inception: Extractor, name: str, resize: str, resized: Callable[[Tensor], Tensor]) -> Extractor:
    """`inception` as the extractor `inception_<name>`, whose distance is `fid_<name>`.

    Args:
        resize: what the protocol says of the resize.
        resized: float32 images (N, 3, H, W) in 0..255 to (N, 3, 299, 299) of the same range.
    """
    return dataclasses.replace(
        inception,
        name=f"inception_{name}",
        metric=f"{inception.metric}_{name}",
        protocol={**inception.protocol, "extractor": f"inception_{name}", "resize": resize, "value_range": VALUE_RANGE},
        resize=lambda images: (resized(images) - 128) / 128,
    )
