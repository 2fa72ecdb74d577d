"""Weights for pytorch-fid's Inception that nobody has to download: seeded, never trained, and scaled.

Features of random weights vanish or explode with depth; here batch norm's running statistics are those of a seeded
batch, so that every layer's output has about unit scale. Two programs given this file can be compared with each other;
what they measure with it is no FID.

    python -m benchmarks.seeded_inception FILE
"""

import sys
from pathlib import Path
from unittest import mock

import torch
from torch import nn


def write_weights(path: Path) -> Path:
    """Write the state dict to `path`, the same one for the same version of torch, and return the path."""
    from pytorch_fid import inception

    with torch.random.fork_rng(devices=[]), mock.patch.object(nn.Module, "load_state_dict", lambda *_, **__: None):
        torch.manual_seed(0)
        with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: {}):
            network = inception.fid_inception_v3()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the running statistics become those of the one batch below
    images = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad(), mock.patch.object(inception, "fid_inception_v3", lambda: network):
        inception.InceptionV3([3], normalize_input=False).train()(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


if __name__ == "__main__":
    print(write_weights(Path(sys.argv[1])))
