"""ResNet GAN of SNGAN (Miyato et al. 2018, arXiv:1802.05957, table 4), and with attention, SAGAN's.

At 32x32x3 with widths 256 and 128 these are the paper's networks: 4,276,739 parameters in G, 1,053,825 in D. Other
sizes have more or fewer blocks of the same width.

The conditional pair (Miyato and Koyama 2018, arXiv:1802.05637) has conditional batch norm in G's blocks, a plain one at
their end, and the projection discriminator.
"""

from torch import Tensor, nn

from pipeline.models.layers import (
    DiscriminatorBlock,
    GeneratorBlock,
    LabelledSequential,
    LatentToFeatureMap,
    SelfAttention,
    resolution_schedule,
)

LARGEST_ATTENTION = 32  # pixels; attention costs side**4


def attention_side(image_size: int) -> int:
    """Where SAGAN attends: the largest feature map below the image's size, but no larger than 32 (16 for CIFAR-10)."""
    if resolution_schedule(image_size)[1] < 2:
        raise ValueError(f"must be at least 16 for a network with attention, got {image_size}")
    side = image_size // 2
    while side > LARGEST_ATTENTION:
        side //= 2
    return side


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, S, S) in [-1, 1]; the labels are ignored unless `n_classes` is above 0."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        width: int,
        latent_dim: int,
        n_classes: int = 0,
        attention: bool = False,
    ) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        layers: list[nn.Module] = [LatentToFeatureMap(latent_dim, width, side)]
        for _ in range(doublings):
            layers.append(GeneratorBlock(width, width, n_classes))
            side *= 2
            if attention and side == attention_side(image_shape[1]):
                layers.append(SelfAttention(width))
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, image_shape[0], 3, padding=1), nn.Tanh()]
        self.layers = LabelledSequential(layers)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.layers(latents, labels)
        return images


class Discriminator(nn.Module):
    """Images (N, C, S, S) in [-1, 1] to logits (N,); the labels are ignored.

    Blocks halve the resolution until twice the generator's first map is left, two more keep it; then ReLU, the sum
    over positions and a linear layer.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int, attention: bool = False) -> None:
        super().__init__()
        channels, side, _ = image_shape
        _, doublings = resolution_schedule(side)
        layers: list[nn.Module] = []
        for index in range(doublings + 1):
            down = index < doublings - 1
            layers.append(DiscriminatorBlock(width if index else channels, width, down, first=index == 0))
            side //= 2 if down else 1
            if attention and down and side == attention_side(image_shape[1]):
                layers.append(SelfAttention(width))
        self.layers = nn.Sequential(*layers, nn.ReLU())
        self.head = nn.Linear(width, 1)

    def features(self, images: Tensor) -> Tensor:
        """What the logit is a linear function of: float (N, C)."""
        features: Tensor = self.layers(images).sum(dim=(2, 3))  # (N, C, H, W) -> (N, C)
        return features

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images)).squeeze(1)
        return logits


class ProjectionDiscriminator(Discriminator):
    """Images (N, C, S, S) in [-1, 1] and labels (N,) to logits (N,): head(h) + <embedding(y), h> (equation 3)."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, n_classes: int, attention: bool = False) -> None:
        super().__init__(image_shape, width, attention)
        self.embedding = nn.Embedding(n_classes, width)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(images)
        logits: Tensor = self.head(features).squeeze(1) + (self.embedding(labels) * features).sum(dim=1)
        return logits
