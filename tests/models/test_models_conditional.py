"""Conditional networks: what a label changes, batch norm and projection against hand-written ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pipeline.models import GAN, NETWORKS, build_gan, dcgan
from pipeline.models.layers import ConditionalBatchNorm, GeneratorBlock, LabelledSequential, SelfAttention, one_hot
from tests.networks import ADVERSARIAL, CONDITIONAL, randomise
from tests.recipes import tiny_recipe

SMALL = {"width_g": 8, "width_d": 8, "latent_dim": 6, "norm_d": "spectral"}
SHAPE, CLASSES = (3, 16, 16), 4


def gan(network: str, seed: int = 0, **changes: Any) -> GAN:
    scaled = {} if NETWORKS[network].spectral else {"norm_d": "none"}
    return build_gan(tiny_recipe(**SMALL | {"network": network} | scaled | changes), SHAPE, CLASSES, seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("network", ADVERSARIAL)
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_labels_change_conditional_networks_and_no_others(network: str, norm: str) -> None:
    if norm == "spectral" and not NETWORKS[network].spectral:
        norm = "none"
    pair, conditional = gan(network, norm_d=norm), NETWORKS[network].conditional
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 2, 2, 0])
    for part, x in ((pair.generator, drawn(4, 6)), (pair.discriminator, drawn(4, *SHAPE).tanh())):
        randomise(part).eval()
        with torch.no_grad():
            outputs, others = part(x, first), part(x, second)
        changed = (outputs - others).flatten(1 if outputs.ndim > 1 else 0).abs()
        changed = changed.amax(dim=1) if changed.ndim > 1 else changed
        least = 1e-3 if NETWORKS[network].spectral else 1e-8  # StyleGAN2's mapping has weights of 0.01
        assert [bool(value > least) for value in changed] == [False, conditional, False, conditional]
        assert torch.equal(outputs[[0, 2]], others[[0, 2]])  # a label is of its own sample alone


@pytest.mark.parametrize("network", CONDITIONAL)
def test_every_class_reaches_the_output(network: str) -> None:
    pair, labels = gan(network), torch.arange(CLASSES)
    for part, x in ((pair.generator, drawn(1, 6)), (pair.discriminator, drawn(1, *SHAPE).tanh())):
        randomise(part).eval()
        with torch.no_grad():
            outputs = part(x.expand(CLASSES, *x.shape[1:]), labels).flatten()
        rows = outputs.view(CLASSES, -1)
        assert len({tuple(row.tolist()) for row in rows}) == CLASSES


def test_one_hot() -> None:
    expected = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    found = one_hot(torch.tensor([2, 0]), 3, torch.float32)
    assert torch.equal(found, expected) and found.dtype == torch.float32
    assert one_hot(torch.tensor([2, 0]), 3, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("init", ["normal", "xavier", "orthogonal"])
def test_conditional_batch_norm_starts_as_plain_whatever_is_done_to_weights(init: str) -> None:
    generator = gan("projection", init=init, spectral_norm_g=True).generator
    norms = [module for module in generator.modules() if isinstance(module, ConditionalBatchNorm)]
    assert len(norms) == 4  # two in each of two blocks
    for norm in norms:
        assert torch.equal(norm.scale, torch.ones(CLASSES, 8)) and torch.equal(norm.shift, torch.zeros(CLASSES, 8))
        assert not parametrize.is_parametrized(norm)
        assert norm.norm.weight is None and norm.norm.bias is None
    plain = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
    assert len(plain) == 1 and plain[0] is generator.layers[3]  # the last one, before the image


def test_conditional_batch_norm_with_one_class_equals_plain_batch_norm() -> None:
    conditional, plain = ConditionalBatchNorm(5, 1), nn.BatchNorm2d(5)
    scale, shift = drawn(5, seed=1), drawn(5, seed=2)
    with torch.no_grad():
        conditional.scale.copy_(scale[None])
        conditional.shift.copy_(shift[None])
        plain.weight.copy_(scale)
        plain.bias.copy_(shift)
    labels = torch.zeros(6, dtype=torch.int64)
    for step in range(3):  # trained mode: statistics of the batch, running ones updated
        x = drawn(6, 5, 4, 4, seed=10 + step) * 3 + 2
        told, expected = conditional(x, labels), plain(x)
        torch.testing.assert_close(told, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(conditional.norm.running_mean, plain.running_mean)
        assert torch.equal(conditional.norm.running_var, plain.running_var)
        weights = drawn(6, 5, 4, 4, seed=20 + step)
        conditional.zero_grad()
        plain.zero_grad()
        (told * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(conditional.scale.grad[0], plain.weight.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(conditional.shift.grad[0], plain.bias.grad, rtol=1e-4, atol=1e-4)
    conditional.eval(), plain.eval()
    before = conditional.norm.running_mean.clone()
    told, expected = conditional(x, labels), plain(x)
    torch.testing.assert_close(told, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(conditional.norm.running_mean, before)
    assert (told - conditional.train()(x, labels)).abs().max() > 0.1  # so that the modes differ


def test_conditional_batch_norm_equals_its_formula() -> None:
    layer, x, labels = randomise(ConditionalBatchNorm(3, 4)), drawn(5, 3, 2, 4), torch.tensor([3, 0, 3, 2, 1])
    normalised = (x - x.mean(dim=(0, 2, 3), keepdim=True)) / (
        x.var(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    rows = [normalised[i] * layer.scale[y, :, None, None] + layer.shift[y, :, None, None] for i, y in enumerate(labels)]
    torch.testing.assert_close(layer(x, labels), torch.stack(rows), rtol=1e-5, atol=1e-5)


def test_labels_go_to_those_that_take_them() -> None:
    norm = randomise(ConditionalBatchNorm(3, 4)).eval()
    layers = LabelledSequential([nn.ReLU(), norm, nn.Conv2d(3, 2, 1)])
    x, labels = drawn(2, 3, 4, 4), torch.tensor([1, 3])
    assert torch.equal(layers(x, labels), layers[2](norm(x.relu(), labels)))
    assert list(layers.state_dict()) == list(nn.Sequential(*layers).state_dict())


@pytest.mark.parametrize("conditional", [False, True])
def test_a_generator_block_leaves_its_input_to_the_shortcut(conditional: bool) -> None:
    block = randomise(GeneratorBlock(3, 5, CLASSES if conditional else 0)).eval()
    x, labels = drawn(2, 3, 4, 4), torch.tensor([1, 3])
    kept = x.clone()
    norm1, _, _, conv1, norm2, _, conv2 = block.residual

    def normed(norm: nn.Module, h: Tensor) -> Tensor:
        return F.relu(norm(h, labels) if conditional else norm(h))

    h = normed(norm1, x).repeat_interleave(2, 2).repeat_interleave(2, 3)
    h = F.conv2d(h, conv1.weight, conv1.bias, padding=1)
    expected = conv2(normed(norm2, h)) + block.shortcut(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(block(x, labels), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, kept)
    if conditional:
        assert isinstance(norm1, ConditionalBatchNorm) and isinstance(norm2, ConditionalBatchNorm)


@pytest.mark.parametrize("network", ["projection", "sagan_conditional"])
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_projection_adds_the_inner_product_to_the_head(network: str, norm: str) -> None:
    discriminator = randomise(gan(network, norm_d=norm).discriminator).eval()
    seen, images, labels = list[Tensor](), drawn(5, *SHAPE).tanh(), torch.tensor([3, 0, 1, 3, 2])
    discriminator.layers.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        logits = discriminator(images, labels)
    h = seen[0].sum(dim=(2, 3)).double()
    weight, bias = discriminator.head.weight[0].detach().double(), discriminator.head.bias.item()
    table = discriminator.embedding.weight.detach().double()
    expected = [float(h[i] @ weight) + bias + float(h[i] @ table[y]) for i, y in enumerate(labels)]
    assert logits.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert table.shape == (CLASSES, 8)
    assert parametrize.is_parametrized(discriminator.embedding, "weight") == (norm == "spectral")
    plain = gan("sagan" if "sagan" in network else "resnet", norm_d=norm).discriminator
    names = set(discriminator.state_dict()) - set(plain.state_dict())
    assert names and all(name.startswith("embedding.") for name in names)


def test_sagan_conditional_attends() -> None:
    for network, expected in (("projection", 0), ("sagan_conditional", 1)):
        pair = gan(network)
        for part in (pair.generator, pair.discriminator):
            assert sum(isinstance(module, SelfAttention) for module in part.modules()) == expected


def test_conditional_dcgan_is_dcgan_on_labelled_inputs() -> None:
    pair = gan("dcgan_conditional", norm_d="batch")
    g, d = dcgan.Generator(SHAPE, 8, 6 + CLASSES), dcgan.Discriminator((3 + CLASSES, 16, 16), 8, batch_norm=True)
    g.load_state_dict(randomise(pair.generator).state_dict())
    d.load_state_dict(randomise(pair.discriminator).state_dict())
    latents, images, labels = drawn(3, 6), drawn(3, *SHAPE).tanh(), torch.tensor([3, 0, 1])
    rows, maps = torch.zeros(3, CLASSES), torch.zeros(3, CLASSES, 16, 16)
    for index, label in enumerate(labels):
        rows[index, label] = 1
        maps[index, label] = 1
    assert torch.equal(pair.generator(latents, labels), g(torch.cat([latents, rows], 1), labels))
    assert torch.equal(pair.discriminator(images, labels), d(torch.cat([images, maps], 1), labels))


def test_what_labels_cost() -> None:
    def sizes(network: str) -> tuple[int, int]:
        pair = gan(network, norm_d="none")
        return tuple(sum(p.numel() for p in part.parameters()) for part in (pair.generator, pair.discriminator))

    more = {
        name: [a - b for a, b in zip(sizes(name), sizes(plain), strict=True)]
        for name, plain in [("projection", "resnet"), ("sagan_conditional", "sagan"), ("dcgan_conditional", "dcgan")]
    }
    norms = 4 * 2 * 8 * (CLASSES - 1)  # four norms of 8 channels: a scale and a shift for each class, not for one
    assert more["projection"] == more["sagan_conditional"] == [norms, CLASSES * 8]
    # G: K more inputs of a 4x4 kernel to 16 channels; D: K more of one to 8
    assert more["dcgan_conditional"] == [CLASSES * 16 * 16, CLASSES * 16 * 8]
