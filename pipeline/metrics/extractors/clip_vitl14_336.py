"""CLIP's ViT-L/14 for 336 pixels (Radford et al. 2021, arXiv:2103.00020): the features of CMMD.

As in CMMD (Jayasumana et al. 2024, arXiv:2401.09603): the square at the centre of an image, resized by Pillow's
bicubic, to an embedding of length 1. Beside CMMD they have a Fréchet distance of their own.
"""

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.files import sha256
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

DIM, SIZE = 768, 336
WIDTH, LAYERS, EPS = 1024, 24, 1e-5
FILE = "ViT-L-14-336px.pt"
SHA256 = "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
URL = f"https://openaipublic.azureedge.net/clip/models/{SHA256}/{FILE}"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NAMES = {  # parts of the names of the weights' file, and those of `VisionTransformer`
    "visual.conv1.": "patches.",
    "visual.class_embedding": "class_token",
    "visual.positional_embedding": "positions",
    "visual.ln_pre.": "before.",
    "visual.transformer.resblocks.": "layers.",
    ".attn.": ".self_attn.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".mlp.c_fc.": ".linear1.",
    ".mlp.c_proj.": ".linear2.",
    "visual.ln_post.": "after.",
    "visual.proj": "projection",
}


class ClipFile(WeightsFile):
    """OpenAI's file, a TorchScript archive: code, which only runs if the file is the known one."""

    def load(self, allow_unknown: bool) -> tuple[State, str]:
        """As `WeightsFile.load`. Another file must hold tensors alone, by the same names."""
        if os.path.isfile(self.path) and sha256(self.path) == self.sha256:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
                return torch.jit.load(self.path, map_location="cpu").state_dict(), self.sha256
        return super().load(allow_unknown)


def load_clip_vitl14_336(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor of CMMD, 768 features of length 1; its Fréchet distance is `fd_clip_vitl14_336`.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    name = "clip_vitl14_336"
    path = Path(params.weights) if params.weights else Path(torch.hub.get_dir()) / "checkpoints" / FILE
    file = ClipFile(name, path, SHA256, f"fetch it from {URL} on a machine with network and put it there")
    protocol = {
        "input_size": SIZE,
        "resize": "square at the centre, PIL bicubic, uint8",
        "value_range": "CLIP's mean 0 and deviation 1",
    }
    return load_transformer(file, ClipEmbedding, DIM, protocol, resized, params, device)


class ClipEmbedding(VisionTransformer):
    """Images (N, 3, 336, 336) to embeddings (N, 768) of length 1."""

    def __init__(self, weights: State) -> None:
        renamed = translated(weights)
        require_size(renamed, WIDTH, LAYERS)
        super().__init__(renamed, quick_gelu, EPS)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(super().forward(images))


def translated(weights: State) -> dict[str, Tensor]:
    """The weights of the image side of CLIP's file by the names of `VisionTransformer`, float32."""
    found = {}
    for name, value in weights.items():
        if name.startswith("visual."):
            for old, new in NAMES.items():
                name = name.replace(old, new)
            found[name] = value.float()
    return found


def quick_gelu(values: Tensor) -> Tensor:
    """CLIP's approximation of GELU."""
    return values * torch.sigmoid(1.702 * values)


def resized(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) of 0..255 to the network's input (N, 3, 336, 336)."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[:, :, top : top + side, left : left + side]
    return normalised(pillow_bicubic(square, SIZE), MEAN, DEVIATION)
