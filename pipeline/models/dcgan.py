"""DCGAN (Radford et al. 2016, arXiv:1511.06434, figure 1): strided convolutions, batch norm, no biases.

`width` is the number of channels at half the image's size; it doubles with every halving, up to 8 times.
"""

from torch import Tensor, nn

from pipeline.models.layers import plan


def _channels(width: int, doublings: int) -> list[int]:
    """Channels of the hidden maps from the smallest to the largest: [512, 256, 128, 64] for width 64 at 64 pixels."""
    return [width * min(2**power, 8) for power in reversed(range(doublings))]


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, S, S) in [-1, 1]; the labels are ignored."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, latent_dim: int) -> None:
        super().__init__()
        side, doublings = plan(image_shape[1])
        maps = _channels(width, doublings)
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, maps[0], side, bias=False)]
        for inputs, outputs in zip(maps, [*maps[1:], image_shape[0]], strict=True):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return self.layers(latents[:, :, None, None])  # (N, Z) -> (N, Z, 1, 1) -> (N, C, S, S)


class Discriminator(nn.Module):
    """Images (N, C, S, S) in [-1, 1] to logits (N,); the labels are ignored.

    Batch norm (`batch_norm`) stands after every convolution but the first and the last.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int, batch_norm: bool) -> None:
        super().__init__()
        side, doublings = plan(image_shape[1])
        maps = _channels(width, doublings)[::-1]
        layers: list[nn.Module] = []
        for inputs, outputs in zip([image_shape[0], *maps], maps, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs)] if batch_norm and layers[:-1] else []
            layers += [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(maps[-1], 1, side, bias=False))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.layers(images).flatten()  # (N, 1, 1, 1) -> (N,)
