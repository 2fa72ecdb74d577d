"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), with the plain D that StyleGAN2-ADA has for CIFAR-10.

G maps latents to styles w, one for each layer, and every convolution's weights are scaled by a style and normalised.
All weights are drawn from N(0, 1) and scaled when they are used (equalised learning rate), so a recipe's `init` has no
effect. The images of the resolutions add up; they are not bounded.

While it trains, G draws noise, and where `mixing` is above 0 a second latent for the layers from a random one on. It
takes both from its attribute `draws`, which the training step sets anew before each call. Without one
and in evaluation mode the noise is a fixed one, so that a sample is a function of its latents.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.randomness import Draws
from pipeline.models.layers import Blur, Resample, one_hot, resolution_schedule

FULL_WIDTH = 64  # pixels, up to which maps have all channels; each doubling beyond halves them
MAPPING_RATE = 0.01  # the mapping's learning rate, as a share of that of other weights
SLOPE = 0.2


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE) * math.sqrt(2)


def _channels(width: int, side: int) -> int:
    return max(width * FULL_WIDTH // max(side, FULL_WIDTH), 1)


class Linear(nn.Linear):
    """A linear layer whose weights from N(0, 1) are scaled when they are used; all learn `rate` times as fast."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__(inputs, outputs)
        self.gain, self.rate = rate / math.sqrt(inputs), rate
        nn.init.normal_(self.weight, 0.0, 1 / rate)
        nn.init.constant_(self.bias, bias / rate)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias * self.rate)


class Conv(nn.Conv2d):
    """A convolution in the same way; `down` halves the resolution after a blur."""

    def __init__(self, inputs: int, outputs: int, size: int, down: bool = False) -> None:
        super().__init__(inputs, outputs, size, stride=2 if down else 1, padding=0 if down else size // 2)
        self.gain = 1 / math.sqrt(inputs * size**2)
        self.blur = Blur() if down else nn.Identity()
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.blur(x), self.weight * self.gain, self.bias, self.stride, self.padding)


class StyledConv(nn.Module):
    """A convolution whose input channels are scaled by a style (N, W), and normalised unless it makes the image."""

    def __init__(self, inputs: int, outputs: int, style: int, side: int, image: bool = False) -> None:
        super().__init__()
        self.noise: Tensor
        self.style, self.image = Linear(style, inputs, bias=1.0), image
        size = 1 if image else 3
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if not image:
            self.strength = nn.Parameter(torch.zeros(()))
            self.register_buffer("noise", torch.randn(side, side))

    def forward(self, x: Tensor, w: Tensor, draws: Draws | None) -> Tensor:
        scale = self.style(w) / math.sqrt(self.weight[0].numel())
        maps = F.conv2d(x * scale[:, :, None, None], self.weight, padding=self.weight.shape[2] // 2)
        if self.image:
            return maps + self.bias[:, None, None]
        # The norm of each output's scaled weights: sum over inputs of scale^2 times the kernel's sum of squares.
        norms = (scale.square() @ self.weight.square().sum(dim=(2, 3)).T + 1e-8).rsqrt()
        shape = (len(x), 1, *x.shape[2:])
        noise = self.noise if draws is None else draws.randn(*shape)
        return _act(maps * norms[:, :, None, None] + self.strength * noise + self.bias[:, None, None])


class Generator(nn.Module):
    """Latents (N, Z) to images (N, C, S, S), not bounded; the labels are ignored unless `n_classes` is above 0."""

    own_init = True

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        width: int,
        latent_dim: int,
        n_classes: int = 0,
        depth: int = 2,
        mixing: float = 0.0,
    ) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        sides = [side * 2**power for power in range(doublings + 1)]
        channels = [_channels(width, one) for one in sides]
        self.draws: Draws | None = None
        self.n_classes, self.mixing = n_classes, mixing
        if n_classes:
            self.embedding = Linear(n_classes, latent_dim)
        sizes = [latent_dim * (2 if n_classes else 1)] + [latent_dim] * depth
        self.mapping = nn.ModuleList([Linear(sizes[i], latent_dim, rate=MAPPING_RATE) for i in range(depth)])
        self.first = nn.Parameter(torch.randn(channels[0], side, side))
        self.layers, self.images = nn.ModuleList(), nn.ModuleList()
        for place, one in enumerate(sides):
            before = channels[max(place - 1, 0)]
            self.layers.extend([StyledConv(before, channels[place], latent_dim, one)] if place else [])
            self.layers.append(StyledConv(channels[place], channels[place], latent_dim, one))
            self.images.append(StyledConv(channels[place], image_shape[0], latent_dim, one, image=True))
        self.up = Resample(up=True)

    def styles(self, latents: Tensor, labels: Tensor) -> Tensor:
        """The style of each convolution, float (N, L, W)."""
        draws = self.draws if self.training else None
        w = self._map(latents, labels)[:, None].expand(-1, len(self.layers), -1)
        if not self.mixing or draws is None:
            return w
        device, count = latents.device, len(latents)
        other = self._map(draws.randn(*latents.shape), labels)
        from_layer = draws.randint(1, len(self.layers), (count, 1))
        mixed = draws.rand(count, 1) < self.mixing
        later = mixed & (torch.arange(len(self.layers), device=device) >= from_layer)  # (N, L)
        return torch.where(later[:, :, None], other[:, None], w)

    def synthesise(self, styles: Tensor) -> Tensor:
        """Images (N, C, S, S) of styles (N, L, W)."""
        draws = self.draws if self.training else None
        x, image = self.first.repeat(len(styles), 1, 1, 1), torch.zeros(())
        for place, layer in enumerate(self.layers):
            x = layer(self.up(x) if place % 2 else x, styles[:, place], draws)
            if place % 2 == 0:
                own = self.images[place // 2](x, styles[:, place], draws)
                image = self.up(image) + own if place else own
        return image

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return self.synthesise(self.styles(latents, labels))

    def _map(self, latents: Tensor, labels: Tensor) -> Tensor:
        parts = [latents]
        if self.n_classes:
            parts.append(self.embedding(one_hot(labels, self.n_classes, latents.dtype)))
        w = torch.cat([part * (part.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt() for part in parts], dim=1)
        for layer in self.mapping:
            w = _act(layer(w))
        return w


class Discriminator(nn.Module):
    """Images (N, C, S, S) to logits (N,); with `n_classes` above 0, <a function of the label, features>.

    minibatch_std: images in a group, of which the mean standard deviation is one more feature map; 0 = none. The group
    of image i has every image j with j = i modulo N / group, so a logit then depends on other images.
    """

    own_init = True

    def __init__(
        self, image_shape: tuple[int, int, int], width: int, n_classes: int = 0, minibatch_std: int = 0
    ) -> None:
        super().__init__()
        side, doublings = resolution_schedule(image_shape[1])
        channels = [_channels(width, side * 2**power) for power in reversed(range(doublings + 1))]
        self.first, self.group, self.n_classes = Conv(image_shape[0], channels[0], 1), minibatch_std, n_classes
        self.layers, last = nn.ModuleList(), channels[-1]
        for inputs, outputs in pairwise(channels):
            self.layers.extend([Conv(inputs, inputs, 3), Conv(inputs, outputs, 3, down=True)])
        self.last = Conv(last + bool(minibatch_std), last, 3)
        self.linear = Linear(last * side**2, last)
        self.head = Linear(last, last if n_classes else 1)
        if n_classes:
            self.embedding = Linear(n_classes, last)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = _act(self.first(images))
        for layer in self.layers:
            x = _act(layer(x))
        if self.group:
            x = torch.cat([x, self._spread(x)], dim=1)
        features: Tensor = self.head(_act(self.linear(_act(self.last(x)).flatten(1))))
        if self.n_classes:
            label = self.embedding(one_hot(labels, self.n_classes, features.dtype))
            features = features * label / math.sqrt(features.shape[1])
        logits: Tensor = features.sum(dim=1)
        return logits

    def _spread(self, x: Tensor) -> Tensor:
        groups = x.unflatten(0, (self.group, -1))  # (G, N/G, C, H, W)
        spread = (groups.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (N/G,)
        maps: Tensor = spread.repeat(self.group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return maps
