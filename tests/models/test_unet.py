"""The U-Net and its solvers: sizes by hand, closed forms of flows whose velocity is known, and what labels change."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import PipelineError
from pipeline.models import build_gan
from pipeline.models.build import NoDiscriminator
from pipeline.models.summary import count_parameters
from pipeline.models.unet import SOLVERS, Attention, Block, Generator, UNet, time_features
from tests.networks import randomise
from tests.recipes import FLOW, tiny_recipe

NORM = nn.GroupNorm


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block(inputs: int, outputs: int, condition: int, attention: bool = False) -> int:
    norms, convs = 2 * inputs + 2 * outputs, 9 * inputs * outputs + outputs + 9 * outputs**2 + outputs
    shortcut = inputs * outputs + outputs if inputs != outputs else 0
    attended = 2 * outputs + 4 * (outputs**2 + outputs) if attention else 0
    return norms + convs + condition * outputs + outputs + shortcut + attended


def test_sizes_by_hand() -> None:
    # DDPM at 32x32x3: 128 channels at 32 pixels, 256 at 16 (with attention), 8 and 4; "35.7 million" (section 4)
    w, k = 128, 512
    time, change = w * k + k + k * k + k, 9 * 256 * 256 + 256
    down = 2 * block(w, w, k) + 9 * w * w + w
    down += block(w, 256, k, True) + block(256, 256, k, True) + 4 * block(256, 256, k) + 2 * change
    middle = block(256, 256, k, True) + block(256, 256, k)
    up = 3 * block(512, 256, k) + 3 * block(512, 256, k) + 2 * block(512, 256, k, True) + block(384, 256, k, True)
    up += 3 * change + block(384, w, k) + 2 * block(256, w, k)
    ends = (3 * w * 9 + w) + 2 * w + (w * 3 * 9 + 3)
    with torch.device("meta"):
        assert count_parameters(UNet((3, 32, 32), w)) == time + down + middle + up + ends == 35_746_307
        assert count_parameters(UNet((3, 32, 32), w, n_classes=10)) == 35_746_307 + 10 * k


def test_sizes_of_the_recipe_for_digits_by_hand() -> None:
    # 16 channels at 16 pixels, 32 at 8 (with attention) and at 4
    w, k = 16, 64
    down = 2 * block(w, w, k) + (9 * w * w + w) + block(w, 32, k, True) + block(32, 32, k, True)
    down += (9 * 32 * 32 + 32) + 2 * block(32, 32, k)
    up = 3 * block(64, 32, k) + 2 * block(64, 32, k, True) + block(48, 32, k, True) + 2 * (9 * 32 * 32 + 32)
    up += block(48, w, k) + 2 * block(32, w, k)
    rest = (w * k + k + k * k + k) + block(32, 32, k, True) + block(32, 32, k) + (w * 9 + w) + 2 * w + (w * 9 + 1)
    assert count_parameters(UNet((1, 16, 16), w)) == down + up + rest == 408_641


@pytest.mark.parametrize("size", [8, 20, 28, 64])
def test_any_size_that_other_networks_have(size: int) -> None:
    with torch.device("meta"):
        network = Generator((3, size, size), 4, 3 * size**2, steps=2)
        images = network(torch.zeros(2, 3 * size**2), torch.zeros(2, dtype=torch.int64))
    assert images.shape == (2, 3, size, size)
    attending = [module for module in network.velocity.modules() if isinstance(module, Block)]
    assert sum(isinstance(module.attention, Attention) for module in attending) == 6  # 2 down, 1 in the middle, 3 up


def test_sizes_that_it_cannot_have() -> None:
    flow = FLOW | {"latent_dim": 18**2}
    with pytest.raises(PipelineError, match=r"^data.image_size: must be .* got 18$"):
        build_gan(tiny_recipe(**flow), (1, 18, 18), 0, 0)
    with pytest.raises(PipelineError, match=r"^latent_dim: must be 768 with the network unet, .* values, got 256$"):
        build_gan(tiny_recipe(**FLOW), (3, 16, 16), 0, 0)


def test_at_first_nothing_moves_and_there_is_no_discriminator() -> None:
    pair, noise = build_gan(tiny_recipe(**FLOW, solver="midpoint"), (1, 16, 16), 0, 0), drawn(3, 256)
    labels = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(pair.generator(noise, labels), noise.view(3, 1, 16, 16))
    assert isinstance(pair.discriminator, NoDiscriminator) and count_parameters(pair.discriminator) == 0
    assert pair.discriminator(drawn(3, 1, 16, 16), labels).tolist() == [0, 0, 0]


class Known(nn.Module):
    """The velocity factor(t) * (centre - x), and how often it was asked."""

    def __init__(self, centre: float, spread: float) -> None:
        super().__init__()
        self.centre, self.spread, self.asked = centre, spread, 0

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        self.asked += 1
        return self.centre + factor(times.item(), self.spread) * (x - times.item() * self.centre)


def factor(t: float, spread: float) -> float:
    """For noise z from N(0, 1) and data x from N(c, s^2): E[x - z | x_t] = c + factor * (x_t - t c)."""
    return (t * spread**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * spread**2)


def flow_of(velocity: nn.Module, steps: int, solver: str) -> Generator:
    network = Generator((1, 8, 8), 2, 64, steps=steps, solver=solver).double()
    network.velocity = velocity
    return network


@pytest.mark.parametrize("solver", SOLVERS)
def test_data_of_one_point_are_reached_in_any_number_of_steps(solver: str) -> None:
    # Then every path is a straight line, which either method follows exactly.
    noise, labels = drawn(5, 64).double(), torch.zeros(5, dtype=torch.int64)
    for steps in (1, 3, 10):
        images = flow_of(Known(0.7, 0.0), steps, solver)(noise, labels)
        torch.testing.assert_close(images, torch.full_like(images, 0.7), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_gaussian_data_step_by_step(steps: int) -> None:
    centre, spread, h = 0.3, 0.5, 1 / steps
    noise, labels = drawn(5, 64).double(), torch.zeros(5, dtype=torch.int64)
    euler, midpoint = 1.0, 1.0  # what is left of the noise about t * centre
    for k in range(steps):
        here, halfway = factor(k * h, spread), factor((k + 0.5) * h, spread)
        euler *= 1 + h * here
        midpoint *= 1 + h * halfway * (1 + h / 2 * here)
    for solver, left in (("euler", euler), ("midpoint", midpoint)):
        velocity = Known(centre, spread)
        images = flow_of(velocity, steps, solver)(noise, labels)
        torch.testing.assert_close(images.flatten(1), centre + left * noise, rtol=1e-12, atol=1e-12)
        assert velocity.asked == steps * SOLVERS[solver].evaluations


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 3)])
def test_more_steps_come_nearer_to_the_exact_flow(solver: str, order: int) -> None:
    # The exact flow carries z to centre + spread * z. In it the midpoint rule's errors of second order cancel out.
    noise, labels = drawn(5, 64).double(), torch.zeros(5, dtype=torch.int64)
    exact = 0.3 + 0.5 * noise
    errors = [
        (flow_of(Known(0.3, 0.5), steps, solver)(noise, labels).flatten(1) - exact).abs().max().item()
        for steps in (100, 200)
    ]
    assert errors[1] < 0.02 and errors[0] / errors[1] == pytest.approx(2**order, rel=0.05)


def test_a_norm_has_four_channels_a_group_or_more() -> None:
    groups = {norm.num_channels: norm.num_groups for norm in UNet((1, 16, 16), 16).modules() if isinstance(norm, NORM)}
    assert groups == {16: 4, 32: 8, 48: 4, 64: 16}  # else they would take out what the time adds to each channel
    with torch.device("meta"):
        wide = {n.num_channels: n.num_groups for n in UNet((3, 16, 16), 128).modules() if isinstance(n, NORM)}
        odd = {norm.num_groups for norm in UNet((1, 8, 8), 9).modules() if isinstance(norm, NORM)}
    assert set(wide.values()) == {32} and odd == {1}


def test_times_as_features() -> None:
    found = time_features(torch.tensor([0.0, 0.001]), 2)
    expected = [[0, 0, 1, 1], [math.sin(1), math.sin(1e-4), math.cos(1), math.cos(1e-4)]]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-7)


def test_attention_is_that_of_torch() -> None:
    layer, x = randomise(Attention(6)), drawn(2, 6, 4, 4, seed=1)
    assert isinstance(layer, Attention)
    normed = layer.norm(x)
    query, key, value = (part(normed).flatten(2).mT for part in (layer.query, layer.key, layer.value))
    attended = F.scaled_dot_product_attention(query, key, value).mT.unflatten(2, (4, 4))
    torch.testing.assert_close(layer(x), x + layer.output(attended), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [0, 4])
def test_a_velocity_is_of_its_own_image_and_label_and_time(classes: int) -> None:
    network = randomise(UNet((1, 16, 16), 4, classes)).eval()
    x, times, labels = drawn(4, 1, 16, 16), torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        whole = network(x, times, labels)
        single = torch.cat([network(x[i : i + 1], times[i : i + 1], labels[i : i + 1]) for i in range(4)])
        at_once = network(x, torch.tensor([0.4]), labels)
        others = network(x, times, torch.tensor([0, 1, 3, 3]))
    torch.testing.assert_close(single, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(at_once[1:3], whole[1:3], rtol=1e-4, atol=1e-4)
    assert (at_once[0] - whole[0]).abs().max() > 1e-3
    changed = (others - whole).flatten(1).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [False, False, bool(classes), False]
