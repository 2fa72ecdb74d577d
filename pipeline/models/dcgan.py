"""DCGAN (Radford et al. 2016, arXiv:1511.06434, figure 1): strided convolutions, batch norm, no biases.

`width` is the number of channels at half the image's size; it doubles with every halving, up to 8 times.

The conditional pair receives the label as a one-hot vector (Mirza and Osindero 2014, arXiv:1411.1784): beside the
latents in G, and in D as one constant map a class beside the image's channels. One-hot rather than embedded, since
neither a small initialisation nor spectral normalisation of an embedding can then mute the label. The maps make D's
first layer dearer by the number of classes: for hundreds of classes take the network `projection`.
"""

import torch
from torch import Tensor, nn

from pipeline.models.layers import channel_schedule, one_hot, resolution_schedule


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, S, S) in [-1, 1]; the labels are ignored."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, latent_dim: int) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        maps = channel_schedule(width, doublings)
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, maps[0], side, bias=False)]
        for inputs, outputs in zip(maps, [*maps[1:], image_shape[0]], strict=True):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.layers(latents[:, :, None, None])  # (N, Z) -> (N, Z, 1, 1) -> (N, C, S, S)
        return images


class Discriminator(nn.Module):
    """Images (N, C, S, S) in [-1, 1] to logits (N,); the labels are ignored.

    Batch norm (`batch_norm`) stands after every convolution but the first and the last.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int, batch_norm: bool) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        maps = channel_schedule(width, doublings)[::-1]
        layers: list[nn.Module] = []
        for inputs, outputs in zip([image_shape[0], *maps], maps, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs)] if batch_norm and layers[:-1] else []
            layers += [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(maps[-1], 1, side, bias=False))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.layers(images).flatten()  # (N, 1, 1, 1) -> (N,)
        return logits


class ConditionalGenerator(Generator):
    """Latents (N, Z) and labels (N,) to images (N, C, S, S) in [-1, 1]."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, latent_dim: int, n_classes: int) -> None:
        super().__init__(image_shape, width, latent_dim + n_classes)
        self.n_classes = n_classes

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        label_onehot = one_hot(labels, self.n_classes, latents.dtype)
        return super().forward(torch.cat([latents, label_onehot], dim=1), labels)  # (N, Z + K)


class ConditionalDiscriminator(Discriminator):
    """Images (N, C, S, S) in [-1, 1] and labels (N,) to logits (N,)."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, n_classes: int, batch_norm: bool) -> None:
        channels, height, side = image_shape
        super().__init__((channels + n_classes, height, side), width, batch_norm)
        self.n_classes = n_classes

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        label_onehot = one_hot(labels, self.n_classes, images.dtype)[:, :, None, None]
        maps = label_onehot.expand(-1, -1, *images.shape[2:])  # (N, K) -> (N, K, S, S)
        return super().forward(torch.cat([images, maps], dim=1), labels)
