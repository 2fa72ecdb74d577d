"""The same features in less time: batch norm folded into convolutions, and compilation. Both are checked before use.

A network that was changed must give the features of the unchanged one on a seeded batch, to 1e-5 of the largest, or to
the rounding of the unchanged one itself, which float64 shows; else the unchanged one is used, and a warning says so.
"""

import copy
import itertools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.core.errors import warn
from pipeline.metrics.precision import full_precision

TOLERANCE = 1e-5  # of the largest feature
ROUNDINGS = 3  # or so many times the network's own error of rounding: both networks have it


def accelerate(network: nn.Module, size: int, compiled: bool) -> nn.Module:
    """The network with batch norm folded and, if `compiled`, compiled; input (N, 3, size, size), about -1..1.

    Whatever fails the check, or cannot be done on this machine, is left out.
    """
    if next(network.parameters()).device.type == "meta":
        return network
    folded = fold_batch_norm(network)
    if not _agrees(folded, network, size, 2):
        warn("folding batch norm changes the features; the network is used as it is")
        folded = network
    return _Compiled(folded, size) if compiled else folded


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in which every batch norm that is registered right after a convolution is folded into it."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (name, module), (next_name, follower) in itertools.pairwise(children):
            if (
                isinstance(module, nn.Conv2d)
                and isinstance(follower, nn.BatchNorm2d)
                and module.out_channels == follower.num_features
            ):
                setattr(parent, name, fuse_conv_bn_eval(module, follower))
                setattr(parent, next_name, nn.Identity())
    return network


class _Compiled(nn.Module):
    """A network compiled at its first batch for that batch's size; a smaller batch is filled up to it."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size, self.batch = network, size, 0
        self.run: Callable[[Tensor], Tensor] = network

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D) of images (N, 3, S, S)."""
        if not self.batch:
            self.batch = len(images)
            self._compile()
        if len(images) > self.batch:
            return torch.cat([self(part) for part in torch.split(images, self.batch)])
        missing = self.batch - len(images)
        filled = torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images
        return self.run(filled.contiguous(memory_format=torch.channels_last))[: len(images)]

    def _compile(self) -> None:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of every CPU-only machine
        try:
            if torch.are_deterministic_algorithms_enabled():
                torch.use_deterministic_algorithms(True, warn_only=True)  # tells the compiler too
            compiled = torch.compile(self.network, dynamic=False)
            if _agrees(compiled, self.network, self.size, self.batch):
                self.run = compiled
            else:
                warn("the compiled network's features differ; it runs uncompiled")
        except Exception as error:  # no C++ compiler, no Triton, an unsupported operation: compilers raise anything
            warn(f"the network cannot be compiled here ({str(error).strip().splitlines()[0][:100]})")


def _agrees(changed: Callable[[Tensor], Tensor], network: nn.Module, size: int, count: int) -> bool:
    """Whether a changed network gives the features of `network`, as the head of this file says."""
    gap = _gap(network, changed, size, count)
    if gap <= TOLERANCE:
        return True
    exact = copy.deepcopy(network).cpu().double()  # not every device has float64
    return gap <= ROUNDINGS * _gap(network, lambda images: exact(images.cpu().double()), size, 2)


def _gap(first: nn.Module, second: Callable[[Tensor], Tensor], size: int, count: int) -> float:
    """The largest difference of features on a seeded batch, as a share of the largest feature."""
    parameter = next(first.parameters())
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = images.to(parameter.device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), full_precision():
        expected, found = first(images).cpu().double(), second(images).cpu().double()
    return float((found - expected).abs().max() / expected.abs().max())
