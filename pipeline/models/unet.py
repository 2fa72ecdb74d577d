"""A U-Net that generates by flow matching: no discriminator (Lipman et al. 2023, arXiv:2210.02747).

The network is DDPM's (Ho et al. 2020, arXiv:2006.11239, appendix B; at 32x32x3 with width 128 it has the published
35.7 million parameters), without dropout. It tells the velocity with which an image x_t moves at time t, from noise at
t = 0 to an image at t = 1. `Generator` follows the velocity from its latents, which are the noise, one number for each
value of the image: so it is called as every other generator is. It initialises itself, and its images are not bounded.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.layers import resolution_schedule

BLOCKS = 2  # of a resolution on the way down; one more on the way up
WIDER = 2  # times the channels at all resolutions but the largest
LARGEST_ATTENTION = 16  # pixels: attention is at the largest resolution below the image's that is no larger
GROUPS, LEAST = 32, 4  # of a group norm; of one channel each it would take the time out again
CYCLES = 1000  # what a time from 0 to 1 is multiplied by, as DDPM's 1,000 steps

Velocity = Callable[[Tensor, float], Tensor]  # images (N, C, S, S), time -> their velocities


def _euler(velocity: Velocity, x: Tensor, time: float, step: float) -> Tensor:
    """One step of Euler's method: one evaluation, an error of the order of step^2."""
    return x + step * velocity(x, time)


def _midpoint(velocity: Velocity, x: Tensor, time: float, step: float) -> Tensor:
    """One step of the midpoint rule: two evaluations, an error of the order of step^3.

    Heun's method would ask for the velocity at t = 1, where there is no noise left that it could remove.
    """
    half = x + step / 2 * velocity(x, time)
    return x + step * velocity(half, time + step / 2)


@dataclass(frozen=True)
class Solver:
    """step: (velocity, images, time, length of the step) -> images; evaluations: of the velocity in it."""

    step: Callable[[Velocity, Tensor, float, float], Tensor]
    evaluations: int


SOLVERS = {"euler": Solver(_euler, 1), "midpoint": Solver(_midpoint, 2)}


def time_features(times: Tensor, count: int) -> Tensor:
    """Times (N,) as sines and cosines (N, 2 * count) of frequencies from CYCLES down to CYCLES / 10,000."""
    frequencies = CYCLES * 10_000 ** (-torch.arange(count, device=times.device, dtype=times.dtype) / max(count - 1, 1))
    angles = times[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _norm(channels: int) -> nn.GroupNorm:
    groups = 1 if channels % LEAST else math.gcd(GROUPS, channels // LEAST)
    return nn.GroupNorm(groups, channels)


class Attention(nn.Module):
    """x + a linear function of self-attention over all positions, one head, after a group norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.query, self.key, self.value, self.output = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (layer(normed).flatten(2) for layer in (self.query, self.key, self.value))  # (N, C, HW)
        weights = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(x.shape[1]), dim=2)  # rows sum to 1
        maps: Tensor = x + self.output((value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))
        return maps


class Block(nn.Module):
    """Residual block: norm-SiLU-conv, a linear function of the condition (N, K) added, norm-SiLU-conv; attention."""

    def __init__(self, inputs: int, outputs: int, condition: int, attention: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.condition = nn.Linear(condition, outputs)
        self.last = nn.Sequential(_norm(outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        inner = self.first(x) + self.condition(condition)[:, :, None, None]
        maps: Tensor = self.attention(self.shortcut(x) + self.last(inner))
        return maps


class UNet(nn.Module):
    """Images (N, C, S, S), times (N,) or (1,) and labels (N,) to velocities (N, C, S, S).

    The labels are ignored unless `n_classes` is above 0. On the way up each block also sees the maps that the way down
    left at its resolution.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int, n_classes: int = 0) -> None:
        super().__init__()
        channels, size, _ = image_shape
        doublings = resolution_schedule(size)[1]
        widths = [width] + [WIDER * width] * doublings
        attends = [level > 0 and size >> level <= LARGEST_ATTENTION for level in range(doublings + 1)]
        attends = [here and not any(attends[:level]) for level, here in enumerate(attends)]  # the largest of them alone
        condition, self.frequencies = 4 * width, (width + 1) // 2
        self.time = nn.Sequential(
            nn.Linear(2 * self.frequencies, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.label = nn.Embedding(n_classes, condition) if n_classes else None
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept = [width]  # channels of the maps that wait for the way up
        for level, wide in enumerate(widths):
            for _ in range(BLOCKS):
                self.down.append(Block(kept[-1], wide, condition, attends[level]))
                kept.append(wide)
            if level < doublings:
                self.down.append(nn.Conv2d(wide, wide, 3, stride=2, padding=1))
                kept.append(wide)
        last = widths[-1]
        self.middle = nn.ModuleList([Block(last, last, condition, attention) for attention in (True, False)])
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(BLOCKS + 1):
                self.up.append(Block(last + kept.pop(), wide, condition, attends[level]))
                last = wide
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(wide, wide, 3, padding=1)))
        self.last = nn.Sequential(_norm(last), nn.SiLU(), nn.Conv2d(last, channels, 3, padding=1))
        self._initialise()

    def _initialise(self) -> None:
        """Xavier everywhere; the last layer of each residual, and of all, is 0: at first nothing moves."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        lasts = [module.last[-1] for module in self.modules() if isinstance(module, Block | UNet)]
        lasts += [module.output for module in self.modules() if isinstance(module, Attention)]
        for layer in lasts:
            assert isinstance(layer, nn.Conv2d)
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        condition = self.time(time_features(times, self.frequencies))
        if self.label is not None:
            condition = condition + self.label(labels)
        condition, maps = F.silu(condition), self.first(x)
        kept = [maps]
        for layer in self.down:
            maps = layer(maps, condition) if isinstance(layer, Block) else layer(maps)
            kept.append(maps)
        for layer in self.middle:
            maps = layer(maps, condition)
        for layer in self.up:
            maps = layer(torch.cat([maps, kept.pop()], 1), condition) if isinstance(layer, Block) else layer(maps)
        velocities: Tensor = self.last(maps)
        return velocities


class Generator(nn.Module):
    """Latents (N, C * S * S), the noise, and labels (N,) to images (N, C, S, S), not bounded.

    velocity: (images, times, labels) -> velocities, what is trained. steps: of equal length, in which `solver`, a name
    of SOLVERS, goes from noise to image.
    """

    own_init = True

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        width: int,
        latent_dim: int,
        n_classes: int = 0,
        steps: int = 1,
        solver: str = "euler",
    ) -> None:
        super().__init__()
        assert latent_dim == math.prod(image_shape), "the latents are the noise"
        self.shape, self.steps, self.solve = image_shape, steps, SOLVERS[solver].step
        self.velocity = UNet(image_shape, width, n_classes)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        x = latents.view(-1, *self.shape)
        for step in range(self.steps):
            x = self.solve(lambda x, time: self.velocity(x, x.new_full((1,), time), labels), x,
                           step / self.steps, 1 / self.steps)  # fmt: skip
        return x
