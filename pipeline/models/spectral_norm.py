"""Spectral normalisation: a weight divided by its largest singular value (SNGAN, Miyato et al. 2018).

Values and names of tensors are those of `torch.nn.utils.parametrizations.spectral_norm`. That one takes the gradient by
twice as many passes over the weight, and copies a weight whose channels lie last in memory: at full width a tenth of a
step on a CPU.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from pipeline.core.bfloat16 import whole_precision

FIRST_ITERATIONS = 15  # of the power iteration, before the first call
EPS = 1e-12  # the least that is divided by


def normalise_weight(module: nn.Module) -> None:
    """Let a layer compute with its weight divided by the weight's largest singular value."""
    assert isinstance(module.weight, Tensor)
    outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight, outputs))


class SpectralNorm(nn.Module):
    """Divides a weight by the largest singular value of its matrix (outputs, rest), in float32 even under autocast.

    That value is followed by one power iteration at each call while training (algorithm 1 of the paper).

    outputs: the dimension of the weight that belongs to the layer's outputs.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        with torch.no_grad():
            matrix = weight.movedim(outputs, 0).flatten(1)
            u, v = (matrix.new_empty(size).normal_() for size in matrix.shape)
            for _ in range(FIRST_ITERATIONS):
                u, v, _ = _iterated(matrix, v)
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad(), whole_precision(weight.device):
            # The rest of the matrix in the order of memory, so that nothing is copied; `_v` is in the weight's order.
            rest = [dim for dim in _memory_order(weight) if dim != self.outputs]
            places = [dim - (dim > self.outputs) for dim in rest]
            sizes = [size for dim, size in enumerate(weight.shape) if dim != self.outputs]
            kept = self._v.view(sizes).permute(places)
            matrix = weight.permute(self.outputs, *rest).flatten(1)
            if self.training:
                u, v, sigma = _iterated(matrix, kept.flatten())
                self._u.copy_(u)
                kept.copy_(v.view(kept.shape))
            else:
                u, v = self._u.clone(), kept.flatten().clone()
                sigma = torch.dot(u, torch.mv(matrix, v))
            v = v.view(kept.shape).permute([places.index(place) for place in range(len(places))])
            u = u.view([-1 if dim == self.outputs else 1 for dim in range(weight.dim())])
        divided: Tensor = _Divided.apply(weight, sigma, u, v.unsqueeze(self.outputs))
        return divided


def _iterated(matrix: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One power iteration of a matrix (R, C) from v (C,): the singular vectors u (R,) and v (C,), and the value."""
    u = torch.mv(matrix, v)
    u = u / torch.linalg.vector_norm(u).clamp_min(EPS)
    v = torch.mv(matrix.T, u)
    sigma = torch.linalg.vector_norm(v).clamp_min(EPS)  # u^T W v, since v is W^T u over its length
    return u, v / sigma, sigma


def _memory_order(tensor: Tensor) -> list[int]:
    """The dimensions of a tensor from the one whose elements lie farthest apart."""
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


class _Divided(torch.autograd.Function):
    """A weight over sigma = u^T W v; u and v, which are constant, in shapes that broadcast to the weight's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, sigma: Tensor, u: Tensor, v: Tensor) -> Tensor:
        divided = weight / sigma
        ctx.save_for_backward(divided, sigma, u, v)
        return divided

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """(G - <G, W / sigma> u v^T) / sigma for a gradient G."""
        divided, sigma, u, v = ctx.saved_tensors
        order = _memory_order(divided)
        share = torch.dot(gradient.permute(order).flatten(), divided.permute(order).flatten())
        return torch.addcmul(gradient, -share * u, v).div_(sigma), None, None, None
