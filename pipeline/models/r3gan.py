"""R3GAN (Huang, Gokaslan, Kuleshov, Tompkin 2024, arXiv:2501.05441, section 4): residual networks without norms.

A stage is two residual blocks at one resolution; the first is at 4 to 7 pixels, each other one at twice the side. At
32x32x3 with width 768 and latents of 64 the conditional pair has the published 20,781,952 and 21,280,512 parameters.
Both networks initialise themselves (fixup: every block starts as the identity), and G's images are not bounded: what
leaves [-1, 1] is clipped where images are written.
"""

import math

import torch
from torch import Tensor, nn

from pipeline.models.layers import Resample, one_hot, resolution_schedule

BLOCKS = 2  # of a stage
GROUP = 16  # channels of a group of the grouped convolutions
EXPANSION = 2  # of a block's channels within it
FULL_WIDTH = 5  # stages from the smallest on that are `width` wide; each larger one has half as many channels as before
SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through a leaky ReLU


def _widths(width: int, stages: int) -> list[int]:
    """Channels of the stages from the smallest resolution to the largest."""
    return [max(width >> max(0, stage - FULL_WIDTH + 1), 1) for stage in range(stages)]


def _drawn(layer: nn.Module, gain: float) -> nn.Module:
    """The layer with weights from N(0, gain^2 / inputs), and biases of 0."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)
    return layer


class Block(nn.Module):
    """x + conv1x1(act(grouped conv3x3(act(conv1x1(x))))), twice as wide within; `blocks` is how many a network has."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        inner, gain = EXPANSION * channels, GAIN * blocks**-0.25
        self.residual = nn.Sequential(
            _drawn(nn.Conv2d(channels, inner, 1), gain),
            nn.LeakyReLU(SLOPE),
            _drawn(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // math.gcd(inner, GROUP)), gain),
            nn.LeakyReLU(SLOPE),
            _drawn(nn.Conv2d(inner, channels, 1, bias=False), 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = x + self.residual(x)
        return maps


def _change(inputs: int, outputs: int) -> list[nn.Module]:
    return [_drawn(nn.Conv2d(inputs, outputs, 1, bias=False), 1.0)] if inputs != outputs else []


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, S, S), not bounded; the labels are ignored unless `n_classes` is above 0.

    The first map is a learnt basis of one map a channel, scaled by linear functions of the latents, beside which stands
    an embedding of the label as long as they are.
    """

    own_init = True

    def __init__(self, image_shape: tuple[int, int, int], width: int, latent_dim: int, n_classes: int = 0) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        widths = _widths(width, doublings + 1)
        self.n_classes, inputs = n_classes, latent_dim * (2 if n_classes else 1)
        if n_classes:
            self.embedding = _drawn(nn.Linear(n_classes, latent_dim, bias=False), 1.0)
        self.basis = nn.Parameter(torch.randn(widths[0], side, side))
        self.scale = _drawn(nn.Linear(inputs, widths[0], bias=False), 1.0)
        layers: list[nn.Module] = []
        for stage, channels in enumerate(widths):
            if stage:
                layers += [*_change(widths[stage - 1], channels), Resample(up=True)]
            layers += [Block(channels, BLOCKS * len(widths)) for _ in range(BLOCKS)]
        self.layers = nn.Sequential(*layers, _drawn(nn.Conv2d(widths[-1], image_shape[0], 1, bias=False), 1.0))

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        if self.n_classes:
            latents = torch.cat([latents, self.embedding(one_hot(labels, self.n_classes, latents.dtype))], dim=1)
        images: Tensor = self.layers(self.basis * self.scale(latents)[:, :, None, None])  # (N, W) -> (N, W, side, side)
        return images


class Discriminator(nn.Module):
    """Images (N, C, S, S) to logits (N,): G's stages in reverse, then one depthwise convolution over all positions.

    With `n_classes` above 0 the logit is <embedding(label), features>, else a linear function of the features.
    """

    own_init = True

    def __init__(self, image_shape: tuple[int, int, int], width: int, n_classes: int = 0) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        widths = _widths(width, doublings + 1)[::-1]
        layers: list[nn.Module] = [_drawn(nn.Conv2d(image_shape[0], widths[0], 1, bias=False), 1.0)]
        for stage, channels in enumerate(widths):
            if stage:
                layers += [Resample(up=False), *_change(widths[stage - 1], channels)]
            layers += [Block(channels, BLOCKS * len(widths)) for _ in range(BLOCKS)]
        last = widths[-1]
        pool = _drawn(nn.Conv2d(last, last, side, groups=last, bias=False), 1.0)
        self.layers = nn.Sequential(*layers, pool, nn.Flatten())
        self.head = _drawn(nn.Linear(last, last if n_classes else 1, bias=False), 1.0)
        self.n_classes = n_classes
        if n_classes:
            self.embedding = _drawn(nn.Linear(n_classes, last, bias=False), 1 / math.sqrt(last))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features: Tensor = self.head(self.layers(images))
        if self.n_classes:
            features = features * self.embedding(one_hot(labels, self.n_classes, features.dtype))
        return features.sum(dim=1)
