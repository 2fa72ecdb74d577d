"""Penalties against hand arithmetic and finite differences, on every network; and the clipping of weights."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.core.randomness import Draws
from pipeline.gan.penalties import PENALTIES, Critic, Update, clip_weights, input_gradients
from pipeline.models.layers import SelfAttention, normalise_spectrally

SHAPE = (2, 4, 4)
LABELS = torch.tensor([0, 1, 1, 0])


def pixels(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NAMES = [name for name, penalty in PENALTIES.items() if penalty.value is not None and not penalty.needs_styles]


def penalty_of(name: str, critic: Critic, real: Tensor, labels: Tensor, fake: Tensor, seed: int = 0) -> Tensor:
    entry = PENALTIES[name]
    assert entry.value is not None
    draws = Draws(torch.Generator().manual_seed(seed), real.device)
    own = {key: one.to(real) for key, one in entry.own().items()}

    def generator(latents: Tensor, labels: Tensor) -> Tensor:
        return fake * (1 + latents.sum(dim=1).view(-1, 1, 1, 1))

    said: dict[str, Tensor] = {}
    with parametrize.cached():
        if not entry.needs_independent_logits:
            said = {"real_logits": critic(real, labels), "fake_logits": critic(fake, labels.flip(0))}
        images = {"real_images": real, "fake_images": fake, "latents": real.new_zeros(len(real), 2)}
        return entry.value(
            Update(generator, critic, real, labels, fake, labels.flip(0), draws, **images, **said, own=own)
        )


def value(name: str, critic: Critic, real: Tensor | None = None, fake: Tensor | None = None, seed: int = 0) -> Tensor:
    real, fake = pixels(0) if real is None else real, pixels(1) if fake is None else fake
    return penalty_of(name, critic, real, LABELS, fake, seed)


def linear(norm: float) -> Critic:
    """<w, image> + 7 + label, with a w of the given norm: a critic of one slope everywhere."""
    weights = torch.arange(1.0, 33.0, dtype=torch.float64).view(SHAPE)
    weights = weights * norm / weights.norm()
    return lambda images, labels: (images * weights).sum(dim=(1, 2, 3)) + 7 + labels


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 3.0])
def test_a_linear_critic_by_hand(norm: float) -> None:
    critic = linear(norm)
    assert value("gradient", critic).item() == pytest.approx((norm - 1) ** 2, abs=1e-12)
    assert value("dragan", critic).item() == pytest.approx((norm - 1) ** 2, abs=1e-12)
    assert value("r1", critic).item() == pytest.approx(norm**2 / 2, abs=1e-12)
    assert value("r2", critic).item() == pytest.approx(norm**2 / 2, abs=1e-12)
    assert value("r1_r2", critic).item() == pytest.approx(norm**2, abs=1e-12)


def test_a_quadratic_critic_by_hand() -> None:
    # D(x) = |x|^2 / 2 has the gradient x: R1 is half the mean squared norm of real images
    def critic(images: Tensor, labels: Tensor) -> Tensor:
        return images.square().sum(dim=(1, 2, 3)) / 2

    norms = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    real = pixels(0) / pixels(0).flatten(1).norm(dim=1).view(-1, 1, 1, 1) * norms.view(-1, 1, 1, 1)
    assert value("r1", critic, real).item() == pytest.approx((1 + 4 + 9 + 36) / 8, rel=1e-12)
    # R2 is the same of fakes, and R1 + R2 the sum
    other = pixels(1) / pixels(1).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert value("r2", critic, real, other).item() == pytest.approx(1 / 2, rel=1e-12)
    assert value("r1_r2", critic, real, other).item() == pytest.approx(50 / 8 + 1 / 2, rel=1e-12)
    # with fakes = real the interpolates are the real images, wherever they are drawn
    assert value("gradient", critic, real, real).item() == pytest.approx((0 + 1 + 4 + 25) / 4, rel=1e-12)
    # with black fakes they are u * real, of norm u * |real|
    place = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(5)).flatten().double()
    expected = (place * norms - 1).square().mean().item()
    assert value("gradient", critic, real, torch.zeros_like(real), seed=5).item() == pytest.approx(expected, rel=1e-6)


def test_interpolates_lie_uniformly_between_pairs_with_the_label_of_the_real_one() -> None:
    seen = []

    def critic(images: Tensor, labels: Tensor) -> Tensor:
        seen.append((images.detach(), labels))
        return images.sum(dim=(1, 2, 3))

    count = 4000
    real, labels = torch.ones(count, *SHAPE), torch.arange(count)
    fake = -torch.ones(count, *SHAPE) * torch.linspace(1, 2, count).view(-1, 1, 1, 1)
    penalty_of("gradient", critic, real, labels, fake)
    ((images, given),) = seen
    assert torch.equal(given, labels)
    place = (images - fake) / (real - fake)
    assert torch.allclose(place, place[:, :1, :1, :1].expand_as(place), atol=1e-5)  # one point per pair
    place = place[:, 0, 0, 0]
    assert place.min() > -1e-6 and place.max() < 1 + 1e-6
    assert place.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / count))
    assert place.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_the_draws_are_the_generators() -> None:
    def critic(images: Tensor, labels: Tensor) -> Tensor:
        return images.pow(3).sum(dim=(1, 2, 3))

    torch.manual_seed(1)
    first = value("gradient", critic, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first, value("gradient", critic, seed=3))
    assert not torch.equal(first, value("gradient", critic, seed=4))


class Net(nn.Module):
    """What discriminators are made of: a stem, ReLUs, attention, pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.LeakyReLU(0.2), SelfAttention(8), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.layers(images).sum(dim=(2, 3))).squeeze(1)


def network(spectral: bool) -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    nn.init.constant_(net.layers[2].gamma, 0.5)
    if spectral:
        normalise_spectrally(net)
    return net.double()


def naive(name: str, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, seed: int) -> float:
    """The penalty by central differences of one pixel after another."""
    source = torch.Generator().manual_seed(seed)
    noise = torch.rand(real.shape, generator=source).double() * real.std() / 2 if name == "dragan" else 0
    places = torch.rand(4, 1, 1, 1, generator=source).double()
    points = {
        "gradient": places * real + (1 - places) * fake, "dragan": real + places * noise, "r1": real, "r2": fake
    }[name]  # fmt: skip
    slopes = torch.zeros_like(points)
    for place in range(points[0].numel()):
        step = torch.zeros_like(points)
        step.view(4, -1)[:, place] = 1e-6
        slopes.view(4, -1)[:, place] = (critic(points + step) - critic(points - step)) / 2e-6
    squares = slopes.square().sum(dim=(1, 2, 3))
    return ((squares.sqrt() - 1).square() if name in ("gradient", "dragan") else squares / 2).mean().item()


@pytest.mark.parametrize("name", ["gradient", "dragan", "r1", "r2"])
@pytest.mark.parametrize("spectral", [False, True])
def test_value_and_gradient_by_finite_differences(name: str, spectral: bool) -> None:
    net = network(spectral).eval()  # in evaluation mode the singular vectors stand still, so differences can be taken
    found = value(name, net)
    with torch.no_grad():
        assert found.item() == pytest.approx(naive(name, lambda x: net(x, LABELS), pixels(0), pixels(1), 0), rel=1e-4)
    parameters = [p for p in net.parameters() if p.ndim > 1]
    gradients = torch.autograd.grad(found, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        place = gradient.abs().flatten().argmax()
        assert gradient.abs().max() > 1e-6
        with torch.no_grad():
            around = []
            for step in (1e-5, -1e-5):
                parameter.view(-1)[place] += step
                with torch.enable_grad():
                    around.append(value(name, net).item())
                parameter.view(-1)[place] -= step
        slope = (around[0] - around[1]) / 2e-5
        assert gradient.flatten()[place].item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("name", ["gradient", "r1"])
def test_through_power_iteration_in_training_mode(name: str) -> None:
    net = network(spectral=True)
    with parametrize.cached():
        logits = net(pixels(0), LABELS)
        total = logits.mean() + value(name, net)
    total.backward()
    for parameter in net.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_a_flat_critic_has_finite_gradients() -> None:
    # the norm's slope at 0 is infinite; a dead critic must not turn into NaN
    weight = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    found = value("gradient", lambda images, labels: (images * weight).sum(dim=(1, 2, 3)))
    found.backward()
    assert found.item() == 1
    assert weight.grad.isfinite().all()


def test_input_gradients_are_each_images_own() -> None:
    scale = torch.tensor([1.0, -2.0, 3.0, 0.0], dtype=torch.float64)
    found = input_gradients(lambda images, labels: images.sum(dim=(1, 2, 3)) * scale, pixels(0), LABELS)
    assert found.shape == (4, 32)
    assert torch.equal(found.detach(), scale[:, None].expand(4, 32))


@pytest.mark.parametrize("name", NAMES)
def test_every_penalty_is_a_scalar_on_any_device(name: str) -> None:
    net = network(spectral=True)
    assert value(name, net).shape == ()
    assert value(name, net).item() >= 0 or name == "zcr_g"
    on_meta = value(name, net.to("meta"), pixels(0).to("meta"), pixels(1).to("meta"))
    assert (on_meta.shape, on_meta.device.type) == ((), "meta")


@pytest.mark.parametrize("name", NAMES)
def test_a_penalty_asks_nothing_of_the_images(name: str) -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def critic(images: Tensor, labels: Tensor) -> Tensor:
        return weight * images.pow(3).sum(dim=(1, 2, 3))

    asked = (False,) if PENALTIES[name].of == "generator" else (False, True)  # G's is a function of G's images
    for wanted in asked if PENALTIES[name].needs_independent_logits else (False,):
        real, fake = pixels(0).requires_grad_(wanted), pixels(1).requires_grad_(wanted)
        (value(name, critic, real, fake) + weight).backward()
        assert real.requires_grad == fake.requires_grad == wanted
        assert real.grad is None and fake.grad is None


def test_what_penalties_say_of_themselves() -> None:
    assert {name for name, penalty in PENALTIES.items() if penalty.value is None} == {"none"}
    assert {name for name, penalty in PENALTIES.items() if penalty.enforces_lipschitz} == {"gradient"}
    gradients = {"gradient", "dragan", "r1", "r2", "r1_r2"}
    assert {name for name, penalty in PENALTIES.items() if penalty.needs_independent_logits} == gradients
    assert {name for name, penalty in PENALTIES.items() if penalty.of == "generator"} == {"zcr_g", "path_length"}
    assert {name for name, penalty in PENALTIES.items() if penalty.own()} == {"lecam", "path_length"}
    assert {name for name, penalty in PENALTIES.items() if penalty.needs_styles} == {"path_length"}
    assert {name: penalty.every for name, penalty in PENALTIES.items() if penalty.every != 1} == {"path_length": 4}


def test_clip_weights_by_hand() -> None:
    net = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-0.5, 0.05, 0.11]]))
        net[0].bias.fill_(-2.0)
        net[1].running_mean.fill_(5.0)
    clip_weights(net, 0.1)
    assert net[0].weight.tolist() == [pytest.approx([-0.1, 0.05, 0.1])]
    assert net[0].bias.tolist() == pytest.approx([-0.1])
    assert net[1].weight.tolist() == pytest.approx([0.1])
    assert net[1].running_mean.item() == 5  # a statistic, not a weight
    assert all(parameter.requires_grad for parameter in net.parameters())
