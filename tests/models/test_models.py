"""Networks: shapes and ranges over the registry, published sizes, blocks against hand-written ones, initialisation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from pipeline.core.errors import PipelineError
from pipeline.gan.cost import step_cost
from pipeline.models import GAN, NETWORKS, biggan, build_gan, dcgan
from pipeline.models.build import Network, construct
from pipeline.models.layers import (
    BATCH_NORM,
    WEIGHTED,
    DiscriminatorBlock,
    GeneratorBlock,
    PooledConv,
    SelfAttention,
    UpsampledConv,
    channel_schedule,
    initialise,
    resolution_schedule,
)
from pipeline.models.summary import count_parameters, inputs_of, summarise
from pipeline.models.unet import SOLVERS
from pipeline.params import Recipe, load
from tests.networks import ADVERSARIAL, CONDITIONAL, randomise
from tests.recipes import ROOT, tiny_recipe


def recipe_of(**changes: Any) -> Recipe:
    small = {"loss": "hinge", "width_g": 8, "width_d": 8, "latent_dim": 6, "norm_d": "spectral", "beta1": 0.0}
    scaled = (
        {"norm_d": "none"} if changes.get("network") in NETWORKS and not NETWORKS[changes["network"]].spectral else {}
    )
    return tiny_recipe(**small | {"ema_decay": None, "flip": False, "dequantise": False} | scaled | changes)


def gan(shape: tuple[int, int, int] = (3, 16, 16), seed: int = 0, **changes: Any) -> GAN:
    return build_gan(recipe_of(**changes), shape, 10, seed)


def state(pair: GAN) -> dict[str, Tensor]:
    networks = {"g": pair.generator, "d": pair.discriminator}
    return {f"{key}.{name}": t for key, network in networks.items() for name, t in network.state_dict().items()}


SPECTRAL = [name for name, entry in NETWORKS.items() if entry.spectral]
CASES = [(n, s, c) for n in ADVERSARIAL for s in (16, 28, 32, 48, 64, 128) for c in (1, 3)]


@pytest.mark.parametrize(("network", "size", "channels"), CASES)
def test_shapes_and_ranges(network: str, size: int, channels: int) -> None:
    width = 2 if size == 128 else 4
    pair = gan((channels, size, size), network=network, width_g=width, width_d=width)
    latents, labels = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)) * 5, torch.tensor([0, 9, 4])
    with torch.no_grad():
        images = pair.generator(latents, labels)
        logits = pair.discriminator(images, labels)
    assert images.shape == (3, channels, size, size)
    assert images.dtype == logits.dtype == torch.float32
    assert images.min() < images.max()
    assert images.isfinite().all() and (not NETWORKS[network].bounded or images.abs().max() <= 1)
    assert (images[0] != images[1]).any()  # the latents matter
    assert logits.shape == (3,)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_each_logit_is_of_its_own_image(network: str) -> None:
    discriminator = gan(network=network).discriminator.eval()
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    order, labels = torch.tensor([2, 0, 3, 1]), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        logits, permuted = discriminator(images, labels), discriminator(images[order], labels)
        single = torch.cat([discriminator(images[i : i + 1], labels[:1]) for i in range(4)])
    assert len(set(logits.tolist())) == 4
    torch.testing.assert_close(permuted, logits[order], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(single, logits, rtol=1e-6, atol=1e-6)


def test_published_sizes() -> None:
    # SNGAN's ResNet at 32x32x3 (Miyato et al. 2018, table 4) and DCGAN at 64x64, as public implementations count them
    paper = gan((3, 32, 32), network="resnet", width_g=256, width_d=128, latent_dim=128)
    assert count_parameters(paper.generator) == 4_276_739
    assert count_parameters(paper.discriminator) == 1_053_825
    wide = {"network": "dcgan", "width_g": 64, "width_d": 64, "latent_dim": 100, "norm_d": "none"}
    assert count_parameters(gan((1, 64, 64), **wide).generator) == 3_574_656
    assert count_parameters(gan((3, 64, 64), **wide).discriminator) == 2_763_776


def test_sizes_of_the_cnn_by_hand() -> None:
    # RECIPES: linear to 4x4x512, transposed 4x4 convolutions 256-128-64, 3x3 to the image; D mirrored, with biases
    pair = gan((3, 32, 32), network="cnn", width_g=64, width_d=64, latent_dim=128, norm_d="none")
    first, norms = 128 * 8192 + 8192, 2 * (512 + 256 + 128 + 64)
    ups = (512 * 256 * 16 + 256) + (256 * 128 * 16 + 128) + (128 * 64 * 16 + 64)
    assert count_parameters(pair.generator) == first + norms + ups + (64 * 3 * 9 + 3) == 3_813_379
    same = (3 * 64 * 9 + 64) + (128 * 128 * 9 + 128) + (256 * 256 * 9 + 256) + (512 * 512 * 9 + 512)
    downs = (64 * 128 * 16 + 128) + (128 * 256 * 16 + 256) + (256 * 512 * 16 + 512)
    assert count_parameters(pair.discriminator) == same + downs + (4 * 4 * 512 + 1) == 5_860_865


def test_sizes_of_the_mlp_by_hand() -> None:
    pair = gan((1, 28, 28), network="mlp", width_g=128, width_d=512, latent_dim=100, norm_d="none")
    linear = (100 * 128 + 128) + (128 * 256 + 256) + (256 * 512 + 512) + (512 * 1024 + 1024) + (1024 * 784 + 784)
    assert count_parameters(pair.generator) == linear + 2 * (256 + 512 + 1024) == 1_510_032
    assert count_parameters(pair.discriminator) == (784 * 512 + 512) + (512 * 256 + 256) + (256 + 1) == 533_505


def test_the_cnn_equals_the_papers_order() -> None:
    pair = gan((3, 16, 16), network="cnn", norm_d="none")
    g, d = randomise(pair.generator).layers, randomise(pair.discriminator).layers
    latents = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, dtype=torch.int64)

    def normed(x: Tensor, norm: nn.Module) -> Tensor:
        return F.relu(F.batch_norm(x, None, None, norm.weight, norm.bias, training=True))

    h = normed(F.linear(latents, g[0].linear.weight, g[0].linear.bias).reshape(3, 32, 4, 4), g[1])
    h = normed(F.conv_transpose2d(h, g[3].weight, g[3].bias, stride=2, padding=1), g[4])
    h = normed(F.conv_transpose2d(h, g[6].weight, g[6].bias, stride=2, padding=1), g[7])
    assert h.shape == (3, 8, 16, 16)
    images = torch.tanh(F.conv2d(h, g[9].weight, g[9].bias, padding=1))
    torch.testing.assert_close(pair.generator(latents, labels), images, rtol=1e-4, atol=1e-5)

    h = F.leaky_relu(F.conv2d(images, d[0].weight, d[0].bias, padding=1), 0.1)
    for wide, same in ((2, 4), (6, 8)):
        h = F.leaky_relu(F.conv2d(h, d[wide].weight, d[wide].bias, stride=2, padding=1), 0.1)
        h = F.leaky_relu(F.conv2d(h, d[same].weight, d[same].bias, padding=1), 0.1)
    assert h.shape == (3, 32, 4, 4)
    logits = h.flatten(1) @ d[-1].weight[0] + d[-1].bias
    torch.testing.assert_close(pair.discriminator(images, labels), logits, rtol=1e-4, atol=1e-3)


def test_the_mlp_equals_its_formula() -> None:
    pair = gan((1, 16, 16), network="mlp", norm_d="none")
    g, d = randomise(pair.generator).layers, randomise(pair.discriminator).layers
    latents = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, dtype=torch.int64)
    h = F.leaky_relu(F.linear(latents, g[0].weight, g[0].bias), 0.2)  # no batch norm in the first layer
    for linear, norm in ((2, 3), (5, 6), (8, 9)):
        h = F.linear(h, g[linear].weight, g[linear].bias)
        h = F.leaky_relu(F.batch_norm(h, None, None, g[norm].weight, g[norm].bias, training=True), 0.2)
    images = torch.tanh(F.linear(h, g[11].weight, g[11].bias)).reshape(3, 1, 16, 16)
    torch.testing.assert_close(pair.generator(latents, labels), images, rtol=1e-4, atol=1e-5)
    h = images.reshape(3, 256)
    for index in (0, 2):
        h = F.leaky_relu(F.linear(h, d[index].weight, d[index].bias), 0.2)
    assert h.shape == (3, 4)  # half of D's width
    logits = h @ d[4].weight[0] + d[4].bias
    torch.testing.assert_close(pair.discriminator(images, labels), logits, rtol=1e-4, atol=1e-4)


def test_names_that_checkpoints_know() -> None:
    """A changed name would make every stored generator useless."""
    names = list(gan((1, 16, 16), network="dcgan").generator.state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norm1, norm2 = ([f"layers.{place}.{name}" for name in norm] for place in (1, 4))
    assert names == ["layers.0.weight", *norm1, "layers.3.weight", *norm2, "layers.6.weight"]
    names = list(gan((1, 16, 16), network="sagan", norm_d="none").generator.state_dict())

    def block(place: int) -> list[str]:
        within = [f"0.{name}" for name in norm] + ["3.weight", "3.bias"]
        within += [f"4.{name}" for name in norm] + ["6.weight", "6.bias"]
        rest = [f"layers.{place}.shortcut.{name}" for name in ("weight", "bias")]
        return [f"layers.{place}.residual.{name}" for name in within] + rest

    attention = [
        f"layers.2.{name}" for name in ("gamma", "query.weight", "key.weight", "value.weight", "output.weight")
    ]
    last = [f"layers.4.{name}" for name in norm] + ["layers.6.weight", "layers.6.bias"]
    assert names == ["layers.0.linear.weight", "layers.0.linear.bias", *block(1), *attention, *block(3), *last]


def test_batch_norm_in_dcgans_discriminator_spares_first_and_last() -> None:
    plain, batch = (gan((3, 32, 32), network="dcgan", norm_d=norm).discriminator for norm in ("none", "batch"))
    norms = [module.num_features for module in batch.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == [16, 32]  # channels 8, 16, 32: none after the first
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_weights_are_a_function_of_the_seed_alone(network: str) -> None:
    before = torch.manual_seed(1).get_state()
    first = state(gan(network=network, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = state(gan(network=network, seed=3)), state(gan(network=network, seed=4))
    assert first.keys() == second.keys() == other.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = [name for name, tensor in first.items() if name.endswith(("weight", "original")) and tensor.ndim > 1]
    drawn = [name for name in drawn if first[name].any()]  # fixup starts some at 0
    assert len(drawn) >= 4
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def matrices(network: nn.Module) -> dict[str, Tensor]:
    """Every weight as the matrix (outputs, rest) whose largest singular value spectral norm divides by."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, WEIGHTED):
            weight = module.weight.detach()
            found[name] = (weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight).flatten(1)
    return found


@pytest.mark.parametrize("network", SPECTRAL)
def test_spectral_norm_makes_every_largest_singular_value_one(network: str) -> None:
    # A few steps away from the start, so that the power iteration of training, not the one at birth, has to find it.
    pair = gan(network=network, norm_d="spectral", spectral_norm_g=True)
    labels = torch.zeros(2, dtype=torch.int64)
    for part in (randomise(pair.generator, 1), randomise(pair.discriminator, 2)):
        shape = (2, 6) if part is pair.generator else (2, 3, 16, 16)
        part.train()
        with torch.no_grad():
            for _ in range(50):
                part(torch.zeros(shape), labels)
        part.eval()
        weights = matrices(part)
        assert len(weights) >= 2
        for name, matrix in weights.items():
            assert torch.linalg.svdvals(matrix)[0].item() == pytest.approx(1, abs=0.05), name
        assert all(parametrize.is_parametrized(m, "weight") for m in part.modules() if isinstance(m, WEIGHTED))


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_without_spectral_norm_weights_are_plain(network: str) -> None:
    pair = gan(network=network, norm_d="none", spectral_norm_g=False)
    assert not any(
        parametrize.is_parametrized(m) for part in (pair.generator, pair.discriminator) for m in part.modules()
    )
    half = gan(network=network, norm_d="spectral" if network in SPECTRAL else "none", spectral_norm_g=False)
    assert not any(map(parametrize.is_parametrized, half.generator.modules()))


def test_attention_starts_as_the_identity() -> None:
    layer, x = SelfAttention(16), torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    assert layer.gamma.item() == 0
    assert torch.equal(layer(x), x)


def test_attention_equals_its_formula() -> None:
    layer = randomise(SelfAttention(16))
    with torch.no_grad():
        layer.gamma.fill_(-0.7)
    x = torch.randn(2, 16, 6, 4, generator=torch.Generator().manual_seed(1))
    query, key, value, output = (
        conv.weight[:, :, 0, 0] for conv in (layer.query, layer.key, layer.value, layer.output)
    )
    assert query.shape == key.shape == (2, 16)
    assert value.shape == (8, 16)

    def pooled(weight: Tensor) -> Tensor:  # (N, C, 6, 4) -> (N, O, 3, 2)
        return torch.einsum("oc,nchw->nohw", weight, x).reshape(2, -1, 3, 2, 2, 2).amax(dim=(3, 5))

    scores = torch.einsum("oc,nchw,noij->nhwij", query, x, pooled(key))
    weights = scores.exp() / scores.exp().sum(dim=(3, 4), keepdim=True)
    attended = torch.einsum("nhwij,noij->nohw", weights, pooled(value))
    expected = x - 0.7 * torch.einsum("co,nohw->nchw", output, attended)
    assert (expected - x).abs().mean() > 0.1
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "side"), [(16, 8), (28, 14), (32, 16), (48, 24), (64, 32), (128, 32)])
def test_where_sagan_attends(size: int, side: int) -> None:
    pair, seen = gan((3, size, size), network="sagan", width_g=4, width_d=4), list[tuple[str, tuple[int, ...]]]()
    for part in (pair.generator, pair.discriminator):
        for module in part.modules():
            if isinstance(module, GeneratorBlock | DiscriminatorBlock | SelfAttention):
                module.register_forward_hook(lambda m, _, out: seen.append((type(m).__name__, tuple(out.shape[2:]))))
    labels = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        pair.discriminator(pair.generator(torch.zeros(1, 6), labels), labels)
    in_g = [entry for entry in seen if entry[0] != "DiscriminatorBlock"]
    places = [index for index, (name, _) in enumerate(seen) if name == "SelfAttention"]
    assert [seen[place][1] for place in places] == [(side, side)] * 2
    assert [seen[place - 1][0] for place in places] == ["GeneratorBlock", "DiscriminatorBlock"]
    assert [seen[place - 1][1] for place in places] == [(side, side)] * 2
    if size == 32:  # after G's second block and D's first (Zhang et al. 2019, as public implementations place it)
        assert [name for name, _ in in_g[:3]] == ["GeneratorBlock", "GeneratorBlock", "SelfAttention"]
        d = [name for name, _ in seen[in_g.index(("GeneratorBlock", (32, 32))) + 1 :]]
        assert d == ["DiscriminatorBlock", "SelfAttention"] + ["DiscriminatorBlock"] * 3


def test_resnet_has_no_attention() -> None:
    pair = gan((3, 32, 32), network="resnet")
    assert not any(
        isinstance(m, SelfAttention) for part in (pair.generator, pair.discriminator) for m in part.modules()
    )


def test_generator_block_equals_the_papers_order() -> None:
    block = randomise(GeneratorBlock(5, 7))
    norm1, _, _, conv1, norm2, _, conv2 = block.residual
    x = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    kept, labels = x.clone(), torch.zeros(3, dtype=torch.int64)
    h = F.relu(F.batch_norm(x, None, None, norm1.weight, norm1.bias, training=True))
    h = F.conv2d(h.repeat_interleave(2, 2).repeat_interleave(2, 3), conv1.weight, conv1.bias, padding=1)
    h = F.relu(F.batch_norm(h, None, None, norm2.weight, norm2.bias, training=True))
    h = F.conv2d(h, conv2.weight, conv2.bias, padding=1)
    shortcut = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block.train()(x, labels), h + shortcut, rtol=1e-4, atol=1e-4)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("inputs", "down", "first"), [(3, True, True), (5, True, False), (5, False, False), (3, False, False)]
)
def test_discriminator_block_equals_the_papers_order(inputs: int, down: bool, first: bool) -> None:
    block = randomise(DiscriminatorBlock(inputs, 5, down, first))
    conv1, conv2 = [m for m in block.residual if isinstance(m, nn.Conv2d)]
    x = torch.randn(2, inputs, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    h = F.conv2d(x if first else F.relu(x), conv1.weight, conv1.bias, padding=1)
    h = F.conv2d(F.relu(h), conv2.weight, conv2.bias, padding=1)
    shortcut = x
    if down or inputs != 5:
        (project,) = [m for m in block.shortcut if isinstance(m, nn.Conv2d)]
        shortcut = F.conv2d(x, project.weight, project.bias)
    if down:
        h, shortcut = F.avg_pool2d(h, 2), F.avg_pool2d(shortcut, 2)
    torch.testing.assert_close(block(x), h + shortcut, rtol=1e-4, atol=1e-4)
    assert torch.equal(x, kept)  # an in-place ReLU would have rectified it, for the shortcut too


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_nothing_works_in_place(network: str) -> None:
    pair = gan(network=network, norm_d="batch" if NETWORKS[network].batch_norm_d else "none")
    for part, x in ((pair.generator, torch.randn(2, 6)), (pair.discriminator, torch.randn(2, 3, 16, 16))):
        assert not any(getattr(module, "inplace", False) for module in part.modules())
        assert network.startswith("stylegan2") or any(isinstance(m, nn.ReLU | nn.LeakyReLU) for m in part.modules())
        kept = x.clone()
        part(x, torch.zeros(2, dtype=torch.int64))
        assert torch.equal(x, kept)


@pytest.mark.parametrize("network", ["resnet", "sagan"])
def test_the_residual_discriminator_sums_over_positions(network: str) -> None:
    discriminator, seen = gan(network=network, norm_d="none").discriminator, list[Tensor]()
    discriminator.layers.register_forward_hook(lambda *call: seen.append(call[2]))
    logits = discriminator(torch.rand(2, 3, 16, 16) * 2 - 1, torch.zeros(2, dtype=torch.int64))
    assert (seen[0] >= 0).all()  # the ReLU stands before the sum
    expected = torch.einsum("nchw,oc->n", seen[0], discriminator.head.weight) + discriminator.head.bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def weighted(pair: GAN) -> list[nn.Module]:
    return [m for part in (pair.generator, pair.discriminator) for m in part.modules() if isinstance(m, WEIGHTED)]


@pytest.mark.parametrize("network", SPECTRAL)  # the others initialise themselves
def test_normal_init(network: str) -> None:
    pair = gan(network=network, init="normal", norm_d="none", width_g=32, width_d=32)
    for module in weighted(pair):
        weight = module.weight.detach()
        spread = 5 / math.sqrt(2 * weight.numel())  # five standard errors of a standard deviation, relative
        assert weight.std(correction=0).item() == pytest.approx(0.02, rel=min(spread, 0.6)), module
        assert abs(weight.mean().item()) < 5 * 0.02 / math.sqrt(weight.numel())
    norms = [m.weight.detach() for m in pair.generator.modules() if isinstance(m, BATCH_NORM) and m.affine]
    if not norms:  # a network without batch norm
        return
    scales = torch.cat(norms)
    assert scales.mean().item() == pytest.approx(1, abs=5 * 0.02 / math.sqrt(len(scales)))
    assert scales.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * len(scales)))


@pytest.mark.parametrize("network", SPECTRAL)  # the others initialise themselves
def test_xavier_init_and_its_gain(network: str) -> None:
    pair = gan((3, 32, 32), network=network, init="xavier", norm_d="none", width_g=32, width_d=32)
    parts = (pair.generator, pair.discriminator)
    kinds = GeneratorBlock | DiscriminatorBlock | biggan.Block
    blocks = [m for part in parts for m in part.modules() if isinstance(m, kinds)]
    residual = {id(conv) for block in blocks for conv in block.modules() if getattr(conv, "kernel_size", 0) == (3, 3)}
    assert len(residual) == 2 * len(blocks)
    tested = 0
    for module in weighted(pair):
        weight = module.weight.detach()
        if weight.numel() >= 1000:
            fans = (weight.shape[0] + weight.shape[1]) * math.prod(weight.shape[2:])
            bound = math.sqrt(2 if id(module) in residual else 1) * math.sqrt(6 / fans)
            assert 0.97 * bound < weight.abs().max().item() <= bound * 1.0001, module
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            tested += 1
    assert tested >= 2


def test_orthogonal_init() -> None:
    for module in weighted(gan(network="resnet", init="orthogonal", norm_d="none")):
        matrix = module.weight.detach().flatten(1)
        matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheme", ["normal", "xavier", "orthogonal"])
def test_biases_start_at_zero(scheme: str) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 2), nn.Embedding(3, 4))
    randomise(network)
    embedding = network[3].weight.detach().clone()
    initialise(network, scheme)
    assert all((module.bias == 0).all() for module in network[:3])
    assert not torch.equal(network[3].weight, embedding)


def test_pyramid() -> None:
    assert channel_schedule(64, 4) == [512, 256, 128, 64]
    assert channel_schedule(3, 6) == [24, 24, 24, 12, 6, 3]
    assert channel_schedule(5, 1) == [5]


def test_plan() -> None:
    sizes = {8: (4, 1), 10: (5, 1), 12: (6, 1), 14: (7, 1), 16: (4, 2), 20: (5, 2), 28: (7, 2), 32: (4, 3), 48: (6, 3),
             64: (4, 4), 96: (6, 4), 128: (4, 5), 224: (7, 5), 1024: (4, 8)}  # fmt: skip
    assert {size: resolution_schedule(size) for size in sizes} == sizes
    assert all(side * 2**doublings == size for size, (side, doublings) in sizes.items())
    for size in (1, 4, 5, 6, 7, 9, 17, 18, 22, 31, 33, 36, 100):
        with pytest.raises(ValueError, match=rf"must be 4, 5, 6 or 7 times a power of two .*, got {size}$"):
            resolution_schedule(size)


def test_what_cannot_be_built_is_said_in_a_sentence() -> None:
    with pytest.raises(PipelineError, match=r"^network: unknown name 'dcgn'; did you mean 'dcgan'\? Choices: .*resnet"):
        gan(network="dcgn")
    for network in ("dcgan", "cnn", "resnet", "sagan"):
        with pytest.raises(PipelineError, match=r"^data.image_size: must be .* got 18$"):
            gan((1, 18, 18), network=network)
    with pytest.raises(PipelineError, match=r"^data.image_size: must be at least 16 .*attention, got 8$"):
        gan((1, 8, 8), network="sagan")


@pytest.mark.parametrize("network", CONDITIONAL)
@pytest.mark.parametrize("n_classes", [0, 1])
def test_conditional_networks_need_classes(network: str, n_classes: int) -> None:
    sentence = (
        rf"^network: {network} needs images labelled with at least 2 classes, got {n_classes}; "
        r"label them or choose a network that needs no labels$"
    )
    with pytest.raises(PipelineError, match=sentence):
        build_gan(recipe_of(network=network), (3, 16, 16), n_classes, 0)
    assert build_gan(recipe_of(network=network), (3, 16, 16), 2, 0).generator is not None


@pytest.mark.parametrize("n_classes", [0, 1, 10])
@pytest.mark.parametrize("network", sorted(set(ADVERSARIAL) - set(CONDITIONAL)))
def test_other_networks_are_the_same_for_any_number_of_classes(network: str, n_classes: int) -> None:
    first, second = (build_gan(recipe_of(network=network), (1, 16, 16), n, 3) for n in (n_classes, 5))
    assert state(first).keys() == state(second).keys()
    assert all(torch.equal(tensor, state(second)[name]) for name, tensor in state(first).items())


def test_who_is_told_the_number_of_classes() -> None:
    told: list[dict[str, Any]] = []

    def builder(*_: Any, **extra: Any) -> nn.Module:
        told.append(extra)
        return nn.Linear(1, 1)

    recipe = recipe_of(norm_d="batch")
    for entry in (
        Network(builder, builder),
        Network(builder, builder, conditional=True),
        Network(builder, builder, batch_norm_d=True, conditional=True),
    ):
        construct(entry, recipe, (1, 16, 16), 7, 0)
    classes = {"n_classes": 7}
    assert told == [{}, {}, classes, classes, classes, classes | {"batch_norm": True}]


def test_the_entry_says_what_it_adds_to_its_files() -> None:
    """The fingerprint of a run has it, so that a changed entry is another network."""
    assert len({NETWORKS[name].arguments() for name in ("resnet", "sagan", "projection", "sagan_conditional")}) == 4
    plain = NETWORKS["dcgan"]
    assert Network(plain.generator, plain.discriminator).arguments() != plain.arguments()
    other = Network(plain.generator, dcgan.ConditionalDiscriminator, batch_norm_d=True)
    assert other.arguments() != plain.arguments()  # another class of the same file


@pytest.mark.parametrize("name", load(ROOT / "params.yaml").models)
def test_every_recipe_can_be_described_and_its_cost_told(name: str) -> None:
    """Those too whose D sees several images at once: the multiply-adds are those of one image."""
    recipe, shape = load(ROOT / "params.yaml").models[name], (1, 16, 16)
    gan, (to_g, to_d) = build_gan(recipe, shape, 10, seed=0), inputs_of(recipe, shape)
    assert len(to_d[0]) == recipe.group
    rows = [summarise(gan.generator, to_g), summarise(gan.discriminator, to_d)]
    g, d = (sum(row.multiply_adds for row in of) for of in rows)
    if NETWORKS[recipe.network].flow:  # forwards and back, of one of the sampler's evaluations
        evaluations = recipe.sampling_steps * SOLVERS[recipe.solver].evaluations
        assert d == 0 and step_cost(recipe, shape, 10) == 3 * recipe.batch_size * g // evaluations
    else:
        assert g > 0 and d > 0 and step_cost(recipe, shape, 10) > (g + d) * recipe.batch_size


def upsampled(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)


def pooled(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.avg_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=1), 2)


@pytest.mark.parametrize(("kind", "apart"), [(UpsampledConv, upsampled), (PooledConv, pooled)])
def test_a_convolution_merged_with_scaling_equals_the_two(
    kind: type[UpsampledConv] | type[PooledConv], apart: Callable[[nn.Conv2d, Tensor], Tensor]
) -> None:
    """Also its gradients, and theirs, which gradient penalties take."""
    torch.manual_seed(0)
    layer, x = kind(5, 7).double(), torch.randn(2, 5, 6, 8, dtype=torch.float64, requires_grad=True)
    found = []
    for call in (layer, partial(apart, layer), layer.apart):
        out = call(x)
        (first,) = torch.autograd.grad((out**2).sum(), x, create_graph=True)
        found.append([out, first, *torch.autograd.grad((first**2).sum(), [x, *layer.parameters()])])
    for merged, expected, two in zip(*found, strict=True):
        assert merged.shape == expected.shape
        assert torch.allclose(merged, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(two, expected)


@pytest.mark.parametrize(
    ("kind", "shape", "positions"), [(UpsampledConv, (12, 16), 12 * 16), (PooledConv, (3, 4), 6 * 8)]
)
def test_elsewhere_than_on_a_cpu_the_two_are_apart(
    kind: type[UpsampledConv] | type[PooledConv], shape: tuple[int, int], positions: int
) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        out = kind(5, 7)(torch.empty(2, 5, 6, 8))
    assert out.shape == (2, 7, *shape)
    assert counter.get_total_flops() == 2 * 2 * 5 * 7 * 9 * positions


def test_saved_generators_keep_the_names_of_their_weights() -> None:
    block, other = GeneratorBlock(3, 5), DiscriminatorBlock(3, 5, down=True)
    weights = {name.removesuffix(".weight") for name in block.state_dict() if name.endswith(".weight")}
    assert weights == {"residual.0", "residual.3", "residual.4", "residual.6", "shortcut"}
    weights = {name.removesuffix(".weight") for name in other.state_dict() if name.endswith(".weight")}
    assert weights == {"residual.1", "residual.3", "shortcut.1"}
