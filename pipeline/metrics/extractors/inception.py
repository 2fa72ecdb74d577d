"""The network of every published FID: TensorFlow's Inception of 2015 (Heusel et al. 2017, arXiv:1706.08500)."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.metrics.extractors.base import Extractor, frozen
from pipeline.metrics.extractors.weights import State, WeightsFile
from pipeline.params import MetricsParams

DIM, SIZE = 2048, 299
FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
RESIZE = "bilinear, no antialias"


def load_inception(params: MetricsParams, device: torch.device) -> Extractor:
    """The extractor whose distance is the FID, 2,048 features, with class weights for the Inception Score.

    Raises:
        PipelineError: its weights are missing or are not the known ones.
    """
    path = Path(params.weights) if params.weights else Path(torch.hub.get_dir()) / "checkpoints" / FILE
    file = WeightsFile("inception", path, SHA256, f"fetch it from {URL} on a machine with network and put it there")
    weights, digest = file.load(params.unknown_weights == "allow")
    network = file.build(InceptionFeatures, weights)
    protocol = {
        "extractor": "inception",
        "input_size": SIZE,
        "resize": RESIZE,
        "value_range": "2 * x / 255 - 1",
        "weights_sha256": digest,
        "precision": "fp32",
    }
    return Extractor(
        "inception",
        file.metric("fid", digest),
        DIM,
        frozen(network, device, SIZE, params.compile),
        device,
        protocol,
        weights["fc.weight"].float().numpy(),  # the TF network multiplies by these, without its bias, for logits
        _resize,
    )


def _resize(images: Tensor) -> Tensor:
    return 2 * F.interpolate(images / 255, size=(SIZE, SIZE), mode="bilinear", align_corners=False) - 1


class InceptionFeatures(nn.Module):
    """Images (N, 3, 299, 299) in -1..1 to the features (N, 2048) that the network's classes are computed from."""

    def __init__(self, weights: State) -> None:
        super().__init__()
        self.network = inception_2015()
        self.network.load_state_dict(weights)
        self.network.fc = nn.Identity()  # the layer that makes 1,008 logits of the features

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features


def inception_2015() -> nn.Module:
    """TensorFlow's network with random weights: torchvision's Inception v3 but for the blocks that pool otherwise.

    pytorch-fid has these blocks. Its own constructors download weights, unverified, so the network is put together
    here; a test compares the two bit for bit.
    """
    from pytorch_fid import inception as fid
    from torchvision.models import inception_v3

    network: nn.Module = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for name, channels, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        setattr(network, f"Mixed_{name}", fid.FIDInceptionA(channels, pool_features=pooled))
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(network, f"Mixed_{name}", fid.FIDInceptionC(768, channels_7x7=width))
    network.Mixed_7b = fid.FIDInceptionE_1(1280)
    network.Mixed_7c = fid.FIDInceptionE_2(2048)
    return network
