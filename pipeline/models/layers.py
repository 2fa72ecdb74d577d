"""What the networks share: resolutions, labels, residual blocks, attention, initialisation.

Feature maps are float (N, C, H, W) throughout. No ReLU works in place: at the entry of a residual block that would
rectify the shortcut's input too (one library's own table: SNGAN FID 8.35 with it, 8.12 without).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.bfloat16 import whole_precision
from pipeline.models.spectral_norm import normalise_weight

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)
# (16, 9): 1 where a tap of a 3x3 kernel that is placed on each pixel of a 2x2 meets a tap of the 4x4 kernel.
SUMMED = torch.kron(*[torch.eye(4, 3) + torch.eye(4, 3).roll(1, dims=0)] * 2)
MIRRORED = SUMMED.flip(0)  # for a transposed convolution


def resolution_schedule(image_size: int) -> tuple[int, int]:
    """The smallest feature map's side and how often it is doubled to reach `image_size`.

    The side is 4 where the size allows it, as in DCGAN and SNGAN, else the next that halving leads to: 28 = 7 * 2**2,
    48 = 6 * 2**3 (as SNGAN does for STL-10).

    >>> resolution_schedule(32), resolution_schedule(28), resolution_schedule(48)
    ((4, 3), (7, 2), (6, 3))

    Raises:
        ValueError: the size is not a side of 4 to 7 doubled once or more.
    """
    side, doublings = image_size, 0
    while side % 2 == 0 and side >= 8:
        side, doublings = side // 2, doublings + 1
    if not (4 <= side <= 7 and doublings):
        raise ValueError(f"must be 4, 5, 6 or 7 times a power of two (16, 28, 32, 48, 64, ...), got {image_size}")
    return side, doublings


def channel_schedule(width: int, maps: int) -> list[int]:
    """Channels of so many maps from the smallest to the largest, which has `width`: twice as many at each halving, up
    to 8 times `width`.

    >>> channel_schedule(64, 4), channel_schedule(64, 6)
    ([512, 256, 128, 64], [512, 512, 512, 256, 128, 64])
    """
    return [width * min(2**power, 8) for power in reversed(range(maps))]


def one_hot(labels: Tensor, n_classes: int, dtype: torch.dtype) -> Tensor:
    """Labels (N,) as rows (N, n_classes) that are 1 at the label and 0 elsewhere."""
    return F.one_hot(labels, n_classes).to(dtype)


def mixes_images(network: nn.Module) -> bool:
    """Whether what a network makes of an image depends on the others of its batch, by batch norm."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


class LatentToFeatureMap(nn.Module):
    """Latents (N, Z) to the first feature map (N, C, side, side) by one linear layer."""

    def __init__(self, latent_dim: int, channels: int, side: int) -> None:
        super().__init__()
        self.shape = (channels, side, side)
        self.linear = nn.Linear(latent_dim, math.prod(self.shape))

    def forward(self, latents: Tensor) -> Tensor:
        maps: Tensor = self.linear(latents).view(-1, *self.shape)  # (N, Z) -> (N, C, side, side)
        return maps


class LabelledSequential(nn.ModuleList):
    """Layers in sequence; those that say `takes_labels` are called with the labels (N,) as well."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, labels) if getattr(layer, "takes_labels", False) else layer(x)
        return x


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose scale and shift, one a channel, depend on the label (Dumoulin et al. 2017, arXiv:1610.07629).

    All scales start at 1 and all shifts at 0: at first it is plain batch norm. Like those of plain batch norm they are
    no weights of a layer, and neither `initialise` nor `normalise_spectrally` changes them.
    """

    takes_labels = True

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Parameter(torch.ones(n_classes, channels))
        self.shift = nn.Parameter(torch.zeros(n_classes, channels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        normalised = self.norm(x)
        scale, shift = F.embedding(labels, self.scale), F.embedding(labels, self.shift)  # (K, C) -> (N, C)
        # In the maps' own precision: autocast would go on in float32.
        scale, shift = scale.to(normalised.dtype), shift.to(normalised.dtype)
        maps: Tensor = normalised * scale[:, :, None, None] + shift[:, :, None, None]
        return maps


class UpsampledConv(nn.Conv2d):
    """Nearest upsampling to twice the resolution and a 3x3 convolution: (N, I, H, W) to (N, O, 2H, 2W).

    On a CPU it is one transposed convolution with stride 2, by a 4x4 kernel made of the weights: 4 of 9 products, equal
    to rounding ("fused scaling", Karras et al. 2018, arXiv:1710.10196). Elsewhere that was not measured, and not done.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return self.apart(x)
        kernel = _spread(self.weight.transpose(0, 1), MIRRORED)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)

    def apart(self, x: Tensor) -> Tensor:
        """The same by two operations."""
        return super().forward(F.interpolate(x, scale_factor=2))


class PooledConv(nn.Conv2d):
    """A 3x3 convolution and 2x2 average pooling: (N, I, 2H, 2W) to (N, O, H, W), by one as `UpsampledConv`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return self.apart(x)
        return F.conv2d(x, _spread(self.weight, SUMMED / 4), self.bias, stride=2, padding=1)

    def apart(self, x: Tensor) -> Tensor:
        """The same by two operations."""
        return F.avg_pool2d(super().forward(x), 2)


def _spread(weight: Tensor, summed: Tensor) -> Tensor:
    """Kernels (N, M, 3, 3) to (N, M, 4, 4), channels last in memory: each tap a sum of taps, as `summed` (16, 9) says.

    One matrix product in the weight's precision, since sums, padding and flips are slow on a CPU, and more so backward.
    """
    with whole_precision(weight.device):
        taps = weight.permute(0, 2, 3, 1).flatten(1, 2)  # (N, 9, M)
        spread: Tensor = torch.bmm(summed.to(weight.dtype).expand(len(taps), -1, -1), taps)
    return spread.view(len(taps), 4, 4, -1).permute(0, 3, 1, 2)


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution: BN-ReLU-up-conv-BN-ReLU-conv, 1x1 shortcut (SNGAN, table 3).

    With `n_classes` above 0 both batch norms are conditional on the labels (N,), which are else ignored.
    """

    takes_labels = True

    def __init__(self, inputs: int, outputs: int, n_classes: int = 0) -> None:
        super().__init__()
        self.residual = LabelledSequential(
            [
                ConditionalBatchNorm(inputs, n_classes) if n_classes else nn.BatchNorm2d(inputs),
                nn.ReLU(),
                nn.Identity(),  # keeps the names of the weights behind it, which saved generators have
                UpsampledConv(inputs, outputs),
                ConditionalBatchNorm(outputs, n_classes) if n_classes else nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1),
            ]
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        # A 1x1 convolution and nearest upsampling commute; this order costs a quarter.
        maps: Tensor = self.residual(x, labels) + F.interpolate(self.shortcut(x), scale_factor=2)
        return maps


class DiscriminatorBlock(nn.Module):
    """Residual block: ReLU-conv-ReLU-conv, and average pooling where `down` (SNGAN, table 3).

    The `first` block of a discriminator sees pixels: it has no ReLU in front and pools before its shortcut's
    convolution. A block that keeps resolution and channels has the identity as its shortcut.
    """

    def __init__(self, inputs: int, outputs: int, down: bool, first: bool = False) -> None:
        super().__init__()
        layers = [nn.ReLU(), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        layers.append(PooledConv(outputs, outputs) if down else nn.Conv2d(outputs, outputs, 3, padding=1))
        pool = [nn.AvgPool2d(2)] if down else []
        self.residual = nn.Sequential(*layers[1 if first else 0 :])
        project = [nn.Conv2d(inputs, outputs, 1)] if down or inputs != outputs else []
        # Average pooling and a 1x1 convolution commute as well, so every block may pool first.
        self.shortcut = nn.Sequential(*pool, *project)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.residual(x) + self.shortcut(x)
        return maps


class SelfAttention(nn.Module):
    """Self-attention over positions (SAGAN, section 3), with the memory savings of its official code.

    Query and key have C/8 channels, value C/2; key and value are max-pooled 2x2. The output is scaled by `gamma`,
    which starts at 0: at first the layer is the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, max(channels // 8, 1), 1, bias=False)
        self.key = nn.Conv2d(channels, max(channels // 8, 1), 1, bias=False)
        self.value = nn.Conv2d(channels, max(channels // 2, 1), 1, bias=False)
        self.output = nn.Conv2d(max(channels // 2, 1), channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        query = self.query(x).flatten(2)  # (N, C/8, HW)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (N, C/8, HW/4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (N, C/2, HW/4)
        attention = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # (N, HW, HW/4), rows sum to 1
        attended = (value @ attention.transpose(1, 2)).unflatten(2, (height, width))  # (N, C/2, H, W)
        maps: Tensor = x + self.gamma * self.output(attended)
        return maps


class Resample(nn.Module):
    """Feature maps at twice or half the resolution, by the filter [1, 3, 3, 1] in both directions, zeros outside."""

    kernel: Tensor

    def __init__(self, up: bool) -> None:
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / (4 if up else 8)
        self.register_buffer("kernel", (taps[:, None] * taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = x.flatten(0, 1)[:, None]  # (N, C, H, W) -> (N * C, 1, H, W)
        if self.up:
            maps = F.conv_transpose2d(maps, self.kernel, stride=2, padding=1)
        else:
            maps = F.conv2d(maps, self.kernel, stride=2, padding=1)
        return maps.view(*x.shape[:2], *maps.shape[2:])


class Blur(nn.Module):
    """Maps (N, C, H, W) through the filter [1, 3, 3, 1], one row and column longer: as a 3x3 convolution wants it."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", (taps[:, None] * taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.conv2d(x.flatten(0, 1)[:, None], self.kernel, padding=2)
        return maps.view(*x.shape[:2], *maps.shape[2:])


def initialise(network: nn.Module, scheme: str) -> None:
    """Set every weight by `scheme` and every bias to 0; draws from torch's global generator.

    A network that says `own_init` has initialised itself and stays as it is.

    normal: N(0, 0.02), and N(1, 0.02) for the scale of batch norm (DCGAN). xavier: uniform with gain sqrt(2) in
    residual convolutions and 1 elsewhere (SNGAN's code). orthogonal: (BigGAN).
    """
    if getattr(network, "own_init", False):
        return
    for name, module in network.named_modules():
        if isinstance(module, WEIGHTED):
            if scheme == "normal":
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif scheme == "xavier":
                nn.init.xavier_uniform_(module.weight, math.sqrt(2) if "residual." in name else 1.0)
            else:
                nn.init.orthogonal_(module.weight)
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                nn.init.zeros_(bias)
        elif isinstance(module, BATCH_NORM) and module.affine and scheme == "normal":
            nn.init.normal_(module.weight, 1.0, 0.02)


def normalise_spectrally(network: nn.Module) -> None:
    """Divide every weight by its largest singular value, followed by power iteration (SNGAN, algorithm 1)."""
    for module in list(network.modules()):
        if isinstance(module, WEIGHTED):
            normalise_weight(module)
