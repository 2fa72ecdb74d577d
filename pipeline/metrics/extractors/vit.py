"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) whose weights DINOv2 and CLIP have.

Its size is read off the weights, which have the names below; each extractor gives its file's names to these:

    patches.weight  patches.bias        of the convolution that makes a token of each patch; the bias may be lacking
    class_token  positions              (D,) and (1 + P, D)
    before.*                            a layer norm of the tokens; may be lacking
    layers.<n>.*                        as torch.nn.TransformerEncoderLayer names them
    after.*  projection                 a layer norm of the class token, and a matrix (D, E); the latter may be lacking
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.metrics.extractors.base import Extractor, frozen
from pipeline.metrics.extractors.weights import State, WeightsFile
from pipeline.params import MetricsParams

HEAD = 64  # dimensions of an attention head, in all sizes of both networks


class VisionTransformer(nn.Module):
    """Images (N, 3, S, S) to the class token after the last layer, (N, D), or its projection (N, E).

    activation: of the layers; not torch's own function, which would take a path that rounds otherwise on CUDA.
    eps: of the layer norms.
    """

    class_token: Tensor
    positions: Tensor
    projection: Tensor | None

    def __init__(self, weights: State, activation: Callable[[Tensor], Tensor], eps: float) -> None:
        super().__init__()
        width, patch = len(weights["class_token"]), weights["patches.weight"].shape[-1]
        with torch.device("meta"):  # no numbers are drawn that the weights replace
            self.patches = nn.Conv2d(3, width, patch, patch, bias="patches.bias" in weights)
            self.before: nn.Module = nn.LayerNorm(width, eps) if "before.weight" in weights else nn.Identity()
            self.layers = nn.Sequential(
                *(
                    nn.TransformerEncoderLayer(
                        width, width // HEAD, 4 * width, 0, activation, eps, batch_first=True, norm_first=True
                    )
                    for _ in range(depth(weights))
                )
            )
            self.after = nn.LayerNorm(width, eps)
        for name in ("class_token", "positions", "projection"):
            value = nn.Parameter(torch.empty_like(weights[name], device="meta")) if name in weights else None
            self.register_parameter(name, value)
        self.load_state_dict(weights, assign=True)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)  # (N, D, h, w) -> (N, P, D)
        tokens = torch.cat([self.class_token.expand(len(images), 1, -1), patches], dim=1) + self.positions
        found: Tensor = self.after(self.layers(self.before(tokens))[:, 0])
        return found if self.projection is None else found @ self.projection


def depth(weights: State) -> int:
    """The number of layers."""
    return len({name.split(".")[1] for name in weights if name.startswith("layers.")})


def require_size(weights: State, width: int, layers: int) -> None:
    """Raise RuntimeError where the weights are those of a smaller or larger network."""
    found = len(weights["class_token"]), depth(weights)
    if found != (width, layers):
        raise RuntimeError(f"width {found[0]} and {found[1]} layers, not {width} and {layers}")


def load_transformer(
    file: WeightsFile,
    build: Callable[[State], VisionTransformer],
    dim: int,
    protocol: Mapping[str, Any],
    resize: Callable[[Tensor], Tensor],
    params: MetricsParams,
    device: torch.device,
) -> Extractor:
    """The extractor of so many features whose network `build` makes of the weights in `file`.

    Args:
        protocol: its input_size, resize and value_range.

    Raises:
        PipelineError: the weights are missing or are not the known ones.
    """
    weights, digest = file.load(params.unknown_weights == "allow")
    network = frozen_transformer(file.build(build, weights), device, protocol["input_size"], params.compile)
    whole = {"extractor": file.extractor, **protocol, "weights_sha256": digest, "precision": "fp32"}
    metric = file.metric(f"fd_{file.extractor}", digest)
    return Extractor(file.extractor, metric, dim, network, device, whole, resize=resize)


def frozen_transformer(network: nn.Module, device: torch.device, size: int, compiled: bool) -> nn.Module:
    """As `frozen`, which folds batch norm in a copy, and compares: there is none here, and weights are a gigabyte."""
    if compiled:
        return frozen(network, device, size, compiled)
    return network.eval().requires_grad_(False).to(device)


def pillow_bicubic(images: Tensor, size: int) -> Tensor:
    """Images (N, 3, H, W) of 0..255 to (N, 3, size, size) of 0..1: Pillow's antialiased bicubic, rounded to uint8.

    On the CPU, whatever the device. The proportions of the sides are not kept.
    """
    pictures = images.to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
    resized = [Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC) for picture in pictures]
    values = torch.from_numpy(np.stack([np.asarray(picture) for picture in resized]))
    return values.permute(0, 3, 1, 2).to(images.device).float() / 255


def normalised(images: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Images (N, 3, S, S) less the mean of each channel, over its deviation."""
    means, deviations = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, deviation))
    return (images - means) / deviations
