"""The plain CNN of SNGAN (Miyato et al. 2018, arXiv:1802.05957, table 3), as public implementations build it.

It is the network of SN-DCGAN, of WGAN and of WGAN-GP without residual blocks. `width` is the number of channels at the
image's size; it doubles with every halving, up to 8 times: at 32x32 and width 64, G has 512-256-128-64 channels from
4x4 up, and D as many on the way down. D has no batch norm.
"""

from itertools import pairwise

from torch import Tensor, nn

from pipeline.models.layers import LatentToFeatureMap, channel_schedule, resolution_schedule


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, S, S) in [-1, 1]; the labels are ignored."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, latent_dim: int) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        maps = channel_schedule(width, doublings + 1)
        layers: list[nn.Module] = [LatentToFeatureMap(latent_dim, maps[0], side), nn.BatchNorm2d(maps[0]), nn.ReLU()]
        for inputs, outputs in pairwise(maps):
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, image_shape[0], 3, padding=1), nn.Tanh())

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.layers(latents)
        return images


class Discriminator(nn.Module):
    """Images (N, C, S, S) in [-1, 1] to logits (N,); the labels are ignored.

    A 3x3 convolution, then for every halving a 4x4 one with stride 2 and a 3x3 one, and a linear layer over all
    positions.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        maps = channel_schedule(width, doublings + 1)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(image_shape[0], width, 3, padding=1), nn.LeakyReLU(0.1)]
        for inputs, outputs in pairwise(maps):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
            layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(maps[-1] * side * side, 1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.layers(images).squeeze(1)  # (N, 1) -> (N,)
        return logits
