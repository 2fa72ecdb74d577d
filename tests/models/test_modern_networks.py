"""R3GAN, BigGAN, StyleGAN2 and the projected discriminator: published sizes, layers by hand, what is random in them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import check
from pipeline.core.randomness import Draws
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import train_step
from pipeline.models import GAN, build_gan, projected, r3gan, stylegan2
from pipeline.models.biggan import ModulatedBatchNorm
from pipeline.models.layers import Blur, Resample
from pipeline.models.summary import count_parameters
from tests.gan.states import bits, equal, start
from tests.networks import randomise
from tests.recipes import image_set, tiny_budget, tiny_params, tiny_recipe


def gan(network: str, shape: tuple[int, int, int] = (3, 32, 32), **changes: Any) -> GAN:
    recipe = tiny_recipe(**{"width_g": 8, "width_d": 8, "latent_dim": 6, "norm_d": "none"} | changes, network=network)
    return build_gan(recipe, shape, 10, seed=0)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sizes(network: str, **changes: Any) -> tuple[int, int]:
    with torch.device("meta"):
        pair = gan(network, **changes)
    return count_parameters(pair.generator), count_parameters(pair.discriminator)


# R3GAN.


@pytest.mark.parametrize(
    ("network", "width", "expected"),
    [
        ("r3gan_conditional", 768, (20_781_952, 21_280_512)),
        ("r3gan", 768, (20_732_160, 20_683_776)),
        ("r3gan", 64, (285_888, 281_856)),
    ],
)
def test_r3gan_has_the_published_parameters(network: str, width: int, expected: tuple[int, int]) -> None:
    assert sizes(network, width_g=width, width_d=width, latent_dim=64) == expected
    assert count_parameters(r3gan.Block(768, 8)) == 2_583_552


def test_a_block_of_r3gan_by_hand() -> None:
    block = randomise(r3gan.Block(16, 4))
    one, _, two, _, three = block.residual
    assert (two.groups, two.in_channels) == (2, 32)  # groups of 16 channels, twice as many channels within
    x, act = drawn(2, 16, 5, 5), lambda maps: F.leaky_relu(maps, 0.2)
    inner = act(torch.einsum("oc,nchw->nohw", one.weight[:, :, 0, 0], x) + one.bias[:, None, None])
    halves = [F.conv2d(inner[:, i : i + 16], two.weight[i : i + 16], padding=1) for i in (0, 16)]
    inner = act(torch.cat(halves, dim=1) + two.bias[:, None, None])
    expected = x + torch.einsum("oc,nchw->nohw", three.weight[:, :, 0, 0], inner)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_r3gan_starts_as_fixup_wants_it() -> None:
    block, x = r3gan.Block(64, 16), drawn(2, 64, 4, 4)
    assert torch.equal(block(x), x)
    # gain sqrt(2 / 1.04) * 16 ** -1/4 over the root of the inputs: 64, and 16 * 9 in a group
    for place, inputs in ((0, 64), (2, 144)):
        spread = block.residual[place].weight.std().item()
        assert spread == pytest.approx(math.sqrt(2 / 1.04) / 2 / math.sqrt(inputs), rel=0.05)
    pair = gan("r3gan", width_g=64, width_d=64)
    assert pair.generator.basis.std().item() == pytest.approx(1, rel=0.05)
    assert all((p == 0).all() for n, p in pair.generator.named_parameters() if n.endswith("bias"))
    # of 10 classes: gain 1 in G, and in D one over the root of its 64 features
    both = gan("r3gan_conditional", width_g=64, width_d=64, latent_dim=64)
    for network, gain in ((both.generator, 1.0), (both.discriminator, 1 / 8)):
        assert network.embedding.weight.std().item() == pytest.approx(gain / math.sqrt(10), rel=0.1)


@pytest.mark.parametrize(("size", "stages"), [(16, 3), (28, 3), (32, 4), (64, 5), (128, 6)])
def test_r3gan_has_two_blocks_a_stage(size: int, stages: int) -> None:
    pair = gan("r3gan", (1, size, size))
    for part in (pair.generator, pair.discriminator):
        blocks = [m for m in part.modules() if isinstance(m, r3gan.Block)]
        assert len(blocks) == 2 * stages
        widths = {m.residual[0].in_channels for m in blocks}
        assert widths == ({8, 4} if size == 128 else {8})


def test_resampling_by_hand() -> None:
    x = drawn(2, 3, 6, 6)
    # inside, doubling with [1, 3, 3, 1] is bilinear interpolation; at the edge zeros come in
    bilinear = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    up = Resample(up=True)(x)
    torch.testing.assert_close(up[:, :, 1:-1, 1:-1], bilinear[:, :, 1:-1, 1:-1])
    torch.testing.assert_close(up[:, :, 0, 1:-1], bilinear[:, :, 0, 1:-1] * 0.75)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    down = Resample(up=False)(x)
    assert down.shape == (2, 3, 3, 3)
    torch.testing.assert_close(down[1, 2, 1, 1], (x[1, 2, 1:5, 1:5] * taps[:, None] * taps).sum())
    torch.testing.assert_close(Blur()(x)[1, 2, 3, 3], (x[1, 2, 1:5, 1:5] * taps[:, None] * taps).sum())
    assert Blur()(x).shape == (2, 3, 7, 7)


# BigGAN.


def test_sizes_of_biggan_by_hand() -> None:
    z, embedding, w = 80, 128, 384  # four parts of 20
    norms = 2 * 2 * w * (embedding + 20)
    block = norms + 2 * (w * w * 9 + w) + (w * w + w)
    attention = 2 * w * w // 8 + 2 * w * w // 2 + 1
    first, last = 20 * w * 16 + w * 16, 2 * w + w * 3 * 9 + 3
    g, d = sizes("biggan", width_g=w, width_d=192, latent_dim=z)
    assert g == 10 * embedding + first + 3 * block + attention + last == 9_416_196
    assert d == sizes("sagan_conditional", width_g=8, width_d=192)[1]


def test_each_part_of_the_latents_reaches_its_own_norms() -> None:
    pair = gan("biggan", latent_dim=8)  # parts of 2
    seen: list[Tensor] = []
    for module in pair.generator.modules():
        if isinstance(module, ModulatedBatchNorm):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    latents, labels = drawn(3, 8), torch.tensor([1, 5, 1])
    pair.generator(latents, labels)
    for place in range(3):
        for norm in (2 * place, 2 * place + 1):
            assert torch.equal(seen[norm][:, 128:], latents[:, 2 * place + 2 : 2 * place + 4])
            assert torch.equal(seen[norm][:, :128], pair.generator.embedding(labels))


def test_a_modulated_norm_by_hand() -> None:
    norm, x, condition = randomise(ModulatedBatchNorm(3, 2)), drawn(4, 3, 2, 2), drawn(4, 2, seed=1)
    normalised = F.batch_norm(x, None, None, training=True)
    scale, shift = 1 + condition @ norm.scale.weight.T, condition @ norm.shift.weight.T
    torch.testing.assert_close(norm(x, condition), normalised * scale[:, :, None, None] + shift[:, :, None, None])


# StyleGAN2.


def test_a_styled_convolution_by_hand() -> None:
    layer = randomise(stylegan2.StyledConv(5, 4, 6, 8))
    x, w = drawn(3, 5, 8, 8), drawn(3, 6, seed=1)
    styles = w @ layer.style.weight.T / math.sqrt(6) + layer.style.bias
    images = []
    for image, style in zip(x, styles, strict=True):  # a convolution of each image by weights of its own
        weight = layer.weight * style[None, :, None, None] / math.sqrt(5 * 9)
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        images.append(F.conv2d(image[None], weight, padding=1))
    maps = torch.cat(images) + layer.strength * layer.noise + layer.bias[:, None, None]
    expected = F.leaky_relu(maps, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x, w, None), expected, rtol=1e-3, atol=1e-4)


def test_scaled_weights_by_hand() -> None:
    linear, conv = stylegan2.Linear(16, 400, bias=2.0, rate=0.01), stylegan2.Conv(16, 40, 3)
    assert linear.weight.std().item() == pytest.approx(100, rel=0.05) and (linear.bias == 200).all()
    x = drawn(2, 16)
    torch.testing.assert_close(linear(x), x @ (linear.weight * 0.01 / 4).T + 2)
    maps = drawn(1, 16, 6, 6)
    torch.testing.assert_close(conv(maps), F.conv2d(maps, conv.weight / 12, padding=1))
    down = stylegan2.Conv(16, 4, 3, down=True)
    assert down(maps).shape == (1, 4, 3, 3)


def test_the_mapping_learns_at_a_hundredth_of_the_rate() -> None:
    mapping = gan("stylegan2", latent_dim=64).generator.mapping
    assert [layer.rate for layer in mapping] == [0.01, 0.01]
    assert all(layer.weight.std().item() == pytest.approx(100, rel=0.05) for layer in mapping)


def test_the_logit_of_a_label_by_hand() -> None:
    d, seen = randomise(gan("stylegan2_conditional").discriminator), []
    d.head.register_forward_hook(lambda _, inputs, features: seen.append(features))
    labels = torch.tensor([2, 0, 9])
    logits = d(drawn(3, 3, 32, 32), labels)
    of_label = d.embedding.weight[:, labels].T / math.sqrt(10) + d.embedding.bias
    torch.testing.assert_close(logits, (seen[0] * of_label).sum(dim=1) / math.sqrt(8))


def test_noise_is_drawn_while_training_and_fixed_after() -> None:
    g = randomise(gan("stylegan2").generator)
    latents, labels = drawn(2, 6), torch.zeros(2, dtype=torch.int64)

    def images(seed: int | None) -> Tensor:
        g.draws = None if seed is None else Draws(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return g(latents, labels)

    g.train()
    assert torch.equal(images(1), images(1)) and not torch.equal(images(1), images(2))
    assert not torch.equal(images(1), images(None))
    fixed = images(None)
    g.eval()
    assert torch.equal(images(1), images(2)) and torch.equal(images(1), fixed)


def test_styles_are_mixed_from_a_layer_on() -> None:
    g = stylegan2.Generator((1, 16, 16), 4, 6, mixing=1.0)
    latents, labels = drawn(200, 6), torch.zeros(200, dtype=torch.int64)
    plain = g.styles(latents, labels)
    assert all(torch.equal(plain[:, 0], plain[:, layer]) for layer in range(5))
    g.draws = Draws(torch.Generator().manual_seed(5))  # not that of the latents
    changed = (g.styles(latents, labels) != plain).any(dim=2)  # (N, L)
    assert not changed[:, 0].any() and changed[:, -1].all()
    assert (changed[:, 1:].int() >= changed[:, :-1].int()).all()  # once mixed, to the end
    starts = changed.int().argmax(dim=1).bincount(minlength=5)
    assert (starts[1:] > 25).all()  # about 50 each
    g.mixing = 0.5
    g.draws = Draws(torch.Generator().manual_seed(1))
    share = (g.styles(latents, labels) != plain).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.15)
    g.eval()
    assert torch.equal(g.styles(latents, labels), plain)


def test_the_spread_of_a_minibatch_by_hand() -> None:
    d = gan("stylegan2", minibatch_std=2, batch_size=4).discriminator
    x = drawn(4, 3, 2, 2)
    found = d._spread(x)
    for i in range(4):
        pair = x[[i % 2, i % 2 + 2]]
        expected = ((pair[0] - pair[1]).abs() / 2).mean()  # of two values, half their difference
        torch.testing.assert_close(found[i], expected.expand(1, 2, 2), rtol=1e-4, atol=1e-5)
    same = drawn(1, 3, 32, 32).expand(4, -1, -1, -1)
    assert d._spread(same[:, :, :2, :2]).abs().max() < 2e-4
    assert d.last.in_channels == 9 and gan("stylegan2").discriminator.last.in_channels == 8


def test_the_step_names_the_noise() -> None:
    """Two runs of one seed agree bit for bit, another seed or step draws otherwise."""
    recipe = tiny_recipe(network="stylegan2", loss="bce", minibatch_std=4)
    states = []
    for _ in range(2):
        torch.manual_seed(len(states))
        state = start(recipe)
        with torch.no_grad():
            for name, parameter in state.gan.generator.named_parameters():
                if name.endswith("strength"):
                    parameter.fill_(1.0)
        train_step(state, image_set(), LOSSES["bce"], recipe, tiny_budget())
        states.append(bits(state))
        drawn_so_far = state.gan.generator.draws.rand(1)
    assert equal(*states)
    state.step = 1
    train_step(state, image_set(), LOSSES["bce"], recipe, tiny_budget())
    assert not torch.equal(state.gan.generator.draws.rand(1), drawn_so_far)


# The projected discriminator.


def test_the_pretrained_network_is_frozen_and_stays_outside() -> None:
    d = gan("projected", (1, 16, 16), norm_d="spectral").discriminator
    names = set(d.state_dict()) | {name for name, _ in d.named_parameters()}
    assert all(name.startswith(("small.", "across_", "down_")) for name in names)
    assert {name for name, p in d.named_parameters()} == {n for n, _ in d.small.named_parameters(prefix="small")}
    frozen = d._frozen[0]
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    images = drawn(2, 1, 16, 16).requires_grad_()
    d.train().requires_grad_(True)
    d(images, torch.zeros(2, dtype=torch.int64)).sum().backward()
    assert images.grad.abs().sum() > 0  # G learns through it
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    assert not any(p.requires_grad for p in frozen.parameters()) and not any(m.training for m in frozen.modules())
    d.to("meta")
    assert {p.device.type for p in frozen.parameters()} == {"meta"}
    assert next(projected._pretrained().parameters()).device.type == "cpu"  # that of others is not moved


def test_the_random_mixing_keeps_the_variance() -> None:
    """N(0, 1 / inputs): 1x1 across channels, 3x3 down to the next finer features."""
    d = gan("projected", (1, 16, 16)).discriminator
    across = [getattr(d, f"across_{place}").std().item() * math.sqrt(inputs)
              for place, inputs in enumerate((24, 40, 112, 320))]  # fmt: skip
    down = [getattr(d, f"down_{place}").std().item() * math.sqrt(9 * inputs)
            for place, inputs in enumerate((128, 256, 512))]  # fmt: skip
    assert across + down == pytest.approx([1.0] * 7, rel=0.1)


def test_features_are_the_stages_of_the_pretrained_network() -> None:
    d, images = gan("projected", (3, 32, 32)).discriminator, drawn(2, 3, 32, 32)
    with torch.no_grad():
        features = d.features(images)
        large = F.interpolate(images, size=(224, 224), mode="bilinear")
        last = d._frozen[0]._swish(d._frozen[0]._bn1(d._frozen[0]._conv_head(features[-1])))
        torch.testing.assert_close(last, d._frozen[0].extract_features(large))
    assert [tuple(maps.shape[1:]) for maps in features] == [(24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)]
    sides = []
    for small in d.small:
        small.layers[-1].register_forward_hook(lambda _, inputs, logits: sides.append(logits.shape[2]))
    d(images, torch.zeros(2, dtype=torch.int64))
    assert sides == [4, 4, 4, 4]


def test_its_samples_are_never_ranked_by_the_features_that_taught_them() -> None:
    toy = {"network": "projected", "norm_d": "spectral"}
    ours = {"metrics.extractor": "efficientnet_lite0"}
    assert list(check.problems(tiny_params(ours, toy=toy))) == [
        "metrics.extractor: must not be efficientnet_lite0 with the network projected (models.toy), whose D is built "
        "on its features: measure these samples by other extractors"
    ]
    assert list(check.problems(tiny_params({"metrics.extractor": "inception"}, toy=toy))) == []
    beside = {"metrics.extractor": "inception", "metrics.further_extractors": ["efficientnet_lite0"]}
    (fault,) = check.problems(tiny_params(beside, toy=toy))
    assert fault.startswith("metrics.further_extractors: must not name efficientnet_lite0 with the network projected")


@pytest.mark.parametrize("network", ["r3gan", "stylegan2"])
def test_networks_that_scale_themselves_refuse_spectral_norm(network: str) -> None:
    toy = {"network": network, "norm_d": "spectral", "spectral_norm_g": True}
    assert list(check.problems(tiny_params(toy=toy))) == [
        f"models.toy.norm_d: must be none with the network {network}, which takes no spectral norm",
        f"models.toy.spectral_norm_g: must be false with the network {network}, which takes no spectral norm",
    ]
    assert isinstance(gan(network).generator, nn.Module)
