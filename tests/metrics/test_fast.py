"""Folding and compiling: the same features, or the unchanged network and a warning."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics.extractors import fast
from pipeline.metrics.extractors.efficientnet_lite0 import EfficientNetFeatures, lightened
from pipeline.metrics.extractors.fast import accelerate, fold_batch_norm


class Net(nn.Module):
    """A convolution with batch norm behind it, one with batch norm that belongs elsewhere, and features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, bias=False)
        self.block = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.batches: list[int] = []
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
                module.running_mean = torch.randn_like(module.bias)
                module.running_var = torch.rand_like(module.bias) + 0.1

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.block(self.second(torch.relu(self.norm(self.first(images))))).mean(dim=(2, 3))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_folding_keeps_the_features_and_removes_batch_norm(net: nn.Module) -> None:
    folded = fold_batch_norm(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) == 2  # the original is as it was
    torch.testing.assert_close(folded(images(5)), net(images(5)), rtol=1e-5, atol=1e-6)


def test_a_fold_that_changes_features_is_not_used(net: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def spoiled(network: nn.Module) -> nn.Module:
        network = fold_batch_norm(network)
        network.first.weight.mul_(1.001)  # type: ignore[union-attr,operator]
        return network

    monkeypatch.setattr(fast, "fold_batch_norm", spoiled)
    assert accelerate(net, 8, compiled=False) is net
    assert capsys.readouterr().err == (
        "warning: folding batch norm changes the features; the network is used as it is\n"
    )


def compiled_by(monkeypatch: pytest.MonkeyPatch, compiler: Callable[[nn.Module], nn.Module]) -> None:
    def stub(network: nn.Module, dynamic: bool) -> nn.Module:
        assert dynamic is False  # one shape: no recompilation in the midst
        return compiler(network)

    monkeypatch.setattr(torch, "compile", stub)


def test_every_batch_of_a_compiled_network_has_one_size(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_by(monkeypatch, copy.deepcopy)
    network = accelerate(net, 8, compiled=True)
    expected = net(images(11))
    network(images(4))  # the first batch sets the size
    inner = network.run
    inner.batches.clear()
    for count in (1, 3, 4, 11):
        torch.testing.assert_close(network(images(11)[:count]), expected[:count], rtol=1e-5, atol=1e-6)
    assert inner.batches == [4] * (1 + 1 + 1 + 3)


@pytest.mark.parametrize(("fault", "warning"), [
    (lambda network: nn.Sequential(network, nn.Hardtanh(-0.1, 0.1)), "the compiled network's features differ"),
    (lambda network: (_ for _ in ()).throw(RuntimeError("no C++ compiler\nmore")), r"cannot be compiled here (no C++"),
])  # fmt: skip
def test_a_compilation_that_fails_leaves_the_network(net, monkeypatch, capsys, fault, warning) -> None:  # type: ignore[no-untyped-def]
    compiled_by(monkeypatch, fault)
    network = accelerate(net, 8, compiled=True)
    torch.testing.assert_close(network(images(5)), net(images(5)), rtol=1e-5, atol=1e-6)
    assert warning in capsys.readouterr().err
    torch.testing.assert_close(network(images(2)), net(images(2)), rtol=1e-5, atol=1e-6)
    assert capsys.readouterr().err == ""  # said once


def test_on_the_meta_device_nothing_is_compared(net: nn.Module) -> None:
    network = net.to("meta")
    assert accelerate(network, 8, compiled=True) is network


@pytest.mark.slow
def test_a_lightened_efficientnet_gives_the_same_bits() -> None:
    """Five of the 49 convolutions halve the image and pad one side more than the other: these stay as they are."""
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    states = EfficientNet.from_name("efficientnet-lite0").state_dict()
    plain = EfficientNetFeatures(states).eval()
    light = lightened(EfficientNetFeatures(states)).eval()
    convolutions = [module for module in light.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 49 and sum(type(module) is nn.Conv2d for module in convolutions) == 44
    assert {module.inplace for module in light.modules() if isinstance(module, nn.ReLU6)} == {True}
    batch = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        for layout in (torch.contiguous_format, torch.channels_last):
            assert torch.equal(
                light(batch.contiguous(memory_format=layout)), plain(batch.contiguous(memory_format=layout))
            )
