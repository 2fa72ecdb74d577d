"""BigGAN for small images (Brock, Donahue, Simonyan 2019, arXiv:1809.11096, appendix B), conditional.

The latents come in parts: the first makes the first map, each other one sets, together with an embedding of the label
that all blocks share, the scales and shifts of one block's batch norms. D is SAGAN's with projection. A recipe gives
both spectral norm and orthogonal initialisation. At 32 pixels latents of 80 are four parts of 20; G has three blocks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.layers import LatentToFeatureMap, SelfAttention, UpsampledConv, resolution_schedule
from pipeline.models.resnet import attention_side

EMBEDDING = 128  # length of the label's shared embedding


class ModulatedBatchNorm(nn.Module):
    """Batch norm with the scale 1 + a linear function of a condition (N, K), and such a shift."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Linear(condition, channels, bias=False)
        self.shift = nn.Linear(condition, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        normalised = self.norm(x)
        scale, shift = 1 + self.scale(condition), self.shift(condition)
        maps: Tensor = normalised * scale[:, :, None, None] + shift[:, :, None, None]
        return maps


class Block(nn.Module):
    """Residual block that doubles the resolution: norm-ReLU-up-conv-norm-ReLU-conv, 1x1 shortcut."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ModulatedBatchNorm(channels, condition) for _ in range(2)])
        self.residual = nn.ModuleList([UpsampledConv(channels, channels), nn.Conv2d(channels, channels, 3, padding=1)])
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        inner = self.residual[0](F.relu(self.norms[0](x, condition)))
        inner = F.relu(self.norms[1](inner, condition))
        # A 1x1 convolution and nearest upsampling commute; this order costs a quarter.
        maps: Tensor = self.residual[1](inner) + F.interpolate(self.shortcut(x), scale_factor=2)
        return maps


class Generator(nn.Module):
    """Latents (N, Z) and labels (N,) to images (N, C, S, S) in [-1, 1]; Z has a part for each block and one more."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, latent_dim: int, n_classes: int) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        self.parts = doublings + 1
        sizes = [len(part) for part in torch.arange(latent_dim, device="cpu").tensor_split(self.parts)]
        self.embedding = nn.Embedding(n_classes, EMBEDDING)
        self.first = LatentToFeatureMap(sizes[0], width, side)
        self.blocks = nn.ModuleList([Block(width, EMBEDDING + size) for size in sizes[1:]])
        wanted = attention_side(image_shape[1])
        self.attention_after = [side * 2 ** (place + 1) for place in range(doublings)].index(wanted)
        self.attention = SelfAttention(width)
        self.last = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, image_shape[0], 3, padding=1), nn.Tanh()
        )

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        first, *rest = latents.tensor_split(self.parts, dim=1)
        maps, label = self.first(first), self.embedding(labels)
        for place, (block, part) in enumerate(zip(self.blocks, rest, strict=True)):
            maps = block(maps, torch.cat([label, part], dim=1))
            if place == self.attention_after:
                maps = self.attention(maps)
        images: Tensor = self.last(maps)
        return images
