"""Weights for the 2015 Inception network that nobody has to download: seeded, never trained, and scaled.

Features of random weights vanish or explode with depth; here batch norm's running statistics are those of a seeded
batch, so that every layer's output has about unit scale. Two programs given this file can be compared with each other;
what they measure with it is no FID.

    python -m benchmarks.seeded_inception FILE
"""

import sys
from pathlib import Path

import torch
from torch import nn

from pipeline.metrics.extractors.inception import SIZE, inception_2015


def write_weights(path: Path) -> Path:
    """Write the state dict to `path`, the same one for the same version of torch, and return the path."""
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = inception_2015()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # the running statistics become those of this one batch
        network.train()(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


if __name__ == "__main__":
    print(write_weights(Path(sys.argv[1])))
