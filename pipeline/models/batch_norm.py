"""Batch norm over the images of all ranks: torch's own takes no CPU tensors, and has no second derivative."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.core.world import World


class SynchronisedBatchNorm(_BatchNorm):
    """A batch norm's weights and statistics, normalising (N, C, ...) by the mean and variance of all ranks' images."""

    def __init__(self, norm: _BatchNorm, world: World) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.load_state_dict(norm.state_dict())  # shapes and names are the same
        self._parameters, self._buffers, self.training = norm._parameters, norm._buffers, norm.training
        self.world = world

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float() if input.dtype == torch.bfloat16 else input
        dims = [0, *range(2, x.dim())]
        mean = x.mean(dims)  # (C,)
        spread = (x - self._broad(mean, x)).square().mean(dims)
        means, spreads = self.world.each(torch.stack([mean, spread])).unbind(dim=1)  # (ranks, C) each
        mean = means.mean(dim=0)
        variance = (spreads + (means - mean).square()).mean(dim=0)  # all ranks have the same number of images
        self._remember(mean.detach(), variance.detach(), self.world.size * x.numel() // x.shape[1])
        normalised = (x - self._broad(mean, x)) * self._broad((variance + self.eps).rsqrt(), x)
        if self.affine:
            normalised = normalised * self._broad(self.weight, x) + self._broad(self.bias, x)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked.add_(1)

    @staticmethod
    def _broad(values: Tensor, x: Tensor) -> Tensor:
        return values.view(1, -1, *[1] * (x.dim() - 2))


def synchronise(network: nn.Module, world: World) -> None:
    """Have every batch norm of `network` look at all ranks' images. Names and tensors stay the same ones."""
    if world.size == 1:
        return
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, SynchronisedBatchNorm(child, world))
