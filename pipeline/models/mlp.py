"""The first GAN (Goodfellow et al. 2014, arXiv:1406.2661): linear layers, in the sizes usual for MNIST.

At widths 128 and 512, G's layers have 128, 256, 512 and 1024 units and D's 512 and 256; other widths scale them all.
Batch norm stands in G from the second layer on, as is customary. Any image size will do.
"""

import math
from itertools import pairwise

from torch import Tensor, nn


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, S, S) in [-1, 1]; the labels are ignored. `width`: units of the first layer."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, latent_dim: int) -> None:
        super().__init__()
        units = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [nn.Linear(latent_dim, width), nn.LeakyReLU(0.2)]
        for inputs, outputs in pairwise(units):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(units[-1], math.prod(image_shape)), nn.Tanh())
        self.image_shape = image_shape

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.layers(latents).view(-1, *self.image_shape)  # (N, C * S * S) -> (N, C, S, S)
        return images


class Discriminator(nn.Module):
    """Images (N, C, S, S) in [-1, 1] to logits (N,); the labels are ignored. `width`: units of the first layer."""

    def __init__(self, image_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        units = [math.prod(image_shape), width, max(width // 2, 1)]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(units):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(units[-1], 1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.layers(images.flatten(1)).squeeze(1)  # (N, 1) -> (N,)
        return logits
