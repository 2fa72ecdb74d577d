"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193) as dgm-eval measures by it (Stein et al. 2023, arXiv:2306.04675).

The features are the normalised class token; images are resized to 224 by Pillow's bicubic, whatever their proportions.
The position embedding of the weights is for 37 x 37 patches, and is interpolated to 16 x 16 as DINOv2's own code does
for networks without registers. timm's loader does it otherwise, and gives other features.
"""

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.vit import (
    VisionTransformer,
    load_transformer,
    normalised,
    pillow_bicubic,
    require_size,
)
from pipeline.metrics.extractors.weights import State, WeightsFile
from pipeline.params import MetricsParams

SIZE, PATCHES = 224, 16
OFFSET = 0.1  # patches: DINOv2's code adds it to the new number, against errors of rounding, and so shifts the result
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPS = 1e-6
LAYERS = {  # the names of the weights' file, and those of `VisionTransformer`
    "patch_embed.proj.": "patches.",
    r"blocks\.(\d+)\.attn\.qkv\.": r"layers.\1.self_attn.in_proj_",
    r"blocks\.(\d+)\.attn\.proj\.": r"layers.\1.self_attn.out_proj.",
    r"blocks\.(\d+)\.mlp\.fc1\.": r"layers.\1.linear1.",
    r"blocks\.(\d+)\.mlp\.fc2\.": r"layers.\1.linear2.",
    r"blocks\.(\d+)\.norm": r"layers.\1.norm",
    r"norm\.": "after.",
}
SCALED = {"ls1": "self_attn.out_proj", "ls2": "linear2"}  # LayerScale, and the linear layer whose outputs it scales


def load_dinov2(
    name: str, width: int, layers: int, sha256: str, params: MetricsParams, device: torch.device
) -> Extractor:
    """The extractor `dinov2_<name>` of so many features and layers, whose weights must have this sha256.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    extractor, file = f"dinov2_{name}", f"dinov2_{name}_pretrain.pth"
    url = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{name}/{file}"
    path = Path(params.weights) if params.weights else Path(torch.hub.get_dir()) / "checkpoints" / file
    weights_file = WeightsFile(
        extractor, path, sha256, f"fetch it from {url} on a machine with network and put it there"
    )

    def build(found: State) -> VisionTransformer:
        renamed = translated(found)
        require_size(renamed, width, layers)
        return VisionTransformer(renamed, gelu, EPS)

    def resize(images: Tensor) -> Tensor:
        return normalised(pillow_bicubic(images, SIZE), MEAN, DEVIATION)

    ranged = "ImageNet's mean 0 and deviation 1"
    protocol = {"input_size": SIZE, "resize": "PIL bicubic, uint8", "value_range": ranged}
    return load_transformer(weights_file, build, width, protocol, resize, params, device)


def translated(weights: State) -> dict[str, Tensor]:
    """The weights of DINOv2's file by the names of `VisionTransformer`, LayerScale multiplied into them.

    Raises:
        LookupError: one is lacking.
    """
    found = {
        "class_token": weights["cls_token"][0, 0].float(),
        "positions": interpolated(weights["pos_embed"][0].float(), PATCHES),
    }
    own = {name: value.float() for name, value in weights.items() if re.match("patch_embed|blocks|norm", name)}
    for name, value in own.items():
        if ".ls" not in name:
            pattern = next(pattern for pattern in LAYERS if re.match(pattern, name))
            found[re.sub(f"^{pattern}", LAYERS[pattern], name)] = value
    for name, scale in own.items():
        if ".ls" in name:
            _, block, kind, _ = name.split(".")
            for part, by in (("weight", scale[:, None]), ("bias", scale)):
                place = f"layers.{block}.{SCALED[kind]}.{part}"
                found[place] = found[place] * by
    return found


def interpolated(positions: Tensor, patches: int) -> Tensor:
    """The position embedding (1 + p * p, D) for `patches` x `patches` patches: (1 + patches * patches, D).

    Bicubic without antialias, by the factor (patches + 0.1) / p; that of the class token, the first, stays.
    """
    side = round((len(positions) - 1) ** 0.5)
    if side == patches:
        return positions
    grid = positions[1:].T.reshape(1, -1, side, side)  # (p * p, D) -> (1, D, p, p)
    found = F.interpolate(grid, scale_factor=(patches + OFFSET) / side, mode="bicubic")
    return torch.cat([positions[:1], found[0].flatten(1).T])


def gelu(values: Tensor) -> Tensor:
    """The exact function, not its approximation by a tanh."""
    return F.gelu(values)
