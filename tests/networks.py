"""What the tests of networks share."""

import torch
from torch import nn

from pipeline.models import NETWORKS

ADVERSARIAL = [name for name, entry in NETWORKS.items() if not entry.flow]  # of what a flow has, other tests tell
CONDITIONAL = [name for name in ADVERSARIAL if NETWORKS[name].conditional]


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a value that no initialisation gives, biases included: at first a label need not matter."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.5)
    return module
