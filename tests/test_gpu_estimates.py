"""What a GPU would need: the formula by hand, and beside what PyTorch performs; docs/gpu.md holds the printed table."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.gpu_estimates import PRESET, Cost, cost_of, main, scoring, span, step_total
from pipeline.data.batches import ImageSet
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import create_state, train_step
from pipeline.params import Params, load

ROOT = Path(__file__).resolve().parent.parent
CIFAR10 = load(PRESET)
TINY = {
    "data.image_size": 4,
    "data.channels": 1,
    "train.report_every": 10,
    "models.gan.width_g": 2,
    "models.gan.width_d": 4,
    "models.gan.latent_dim": 3,
    "models.gan.batch_size": 5,
    "models.gan.n_critic": 2,
}


def tiny(**changes: Any) -> Cost:
    params = CIFAR10.override(TINY | {f"models.gan.{name}": value for name, value in changes.items()})
    return cost_of(params.models["gan"], params)


def test_linear_layers_by_hand() -> None:
    cost = tiny()
    # G has 3-2-4-8-16-16 units, D 16-4-2-1.
    assert cost.g == 3 * 2 + 2 * 4 + 4 * 8 + 8 * 16 + 16 * 16 == 430
    assert cost.d == 16 * 4 + 4 * 2 + 2 * 1 == 74
    # Two updates of D with five fakes each, five real and five fake images forwards and backwards; one of G.
    assert cost.step == 2 * 5 * (430 + 2 * 74 + 2 * 2 * 74) + 5 * (3 * 430 + 2 * 74) == 15_930
    # G: five linear layers, three batch norms, four leaky ReLUs, tanh; D: three linear layers, two leaky ReLUs.
    assert cost.passes == 2 * (13 + 6 * 5) + 3 * 13 + 2 * 5 == 135
    # What these 13 and 5 layers put out, in float32, is kept for G's update.
    g, d = 2 * 2 + 3 * 4 + 3 * 8 + 3 * 16 + 2 * 16, 2 * 4 + 2 * 2 + 1
    assert cost.activations == 5 * 4 * (g + d) == 2660
    # Weights, gradients and Adam's two moments; running mean and variance, three counters; a step a tensor; the losses.
    weights = (8 + 12 + 40 + 144 + 272) + 2 * (4 + 8 + 16) + (68 + 10 + 3)
    assert weights == 613
    assert cost.state == 4 * 4 * weights + 4 * 2 * (4 + 8 + 16) + 3 * 8 + (16 + 6) * 4 + 10 * 2 * 4 == 10_224


def test_what_else_is_kept() -> None:
    averaged = 4 * (532 + 2 * 28) + 3 * 8  # G's weights and batch norm's statistics once more
    assert tiny(ema_decay=0.99).state - tiny().state == averaged
    assert tiny().state - tiny(optimiser="rmsprop", beta1=0.0).state == 4 * 613  # one moment


@pytest.mark.parametrize("penalty", ["gradient", "r1"])
def test_a_penalty_adds_six_passes_of_d(penalty: str) -> None:
    assert tiny(penalty=penalty).step == 15_930 + 2 * 5 * 6 * 74
    assert tiny(penalty=penalty).passes == 135 + 2 * 6 * 5


class Products(TorchDispatchMode):
    """Counts the multiply-adds of all that PyTorch performs within, backward passes too."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out) // 2
        return out


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp", "wgan_gp_resnet", "sngan", "sagan_conditional"])
@pytest.mark.slow
def test_the_formula_is_what_pytorch_performs(name: str) -> None:
    params = CIFAR10.override({f"models.{name}.n_critic": 2, f"models.{name}.batch_size": 4})
    recipe, meta = params.models[name], torch.device("meta")
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8, device=meta)
    data = ImageSet(images, torch.zeros(8, dtype=torch.int64, device=meta), 10)
    state = create_state(recipe, params.train, (3, 32, 32), 10, 0, meta)
    with Products() as products:
        train_step(state, data, LOSSES[recipe.loss], recipe, params.train)
    # D's first layer needs no gradient of the images; spectral norm multiplies matrices by vectors.
    assert cost_of(recipe, params).step == pytest.approx(products.total, rel=0.02)


def test_time_is_that_of_operations_or_of_launching_layers() -> None:
    many, few = Cost(0, 0, 10**12, 1, 0, 0), Cost(0, 0, 1, 1000, 0, 0)
    assert many.hours(3600, (1e13, 1e14)) == pytest.approx((2e12 / 2e13, 2e12 / 2e12))
    assert few.hours(3600, (1e13, 1e14)) == pytest.approx((1000 * 20e-6, 1000 * 50e-6))


def test_images_that_inception_sees() -> None:
    assert CIFAR10.train.steps == 100_000 and CIFAR10.train.score_every == CIFAR10.train.score_samples == 5000
    # The final and the best samples, and a curve of 21 points, untrained and trained ones included.
    assert f"{2 * 50_000 + 21 * 5000:,} images" in scoring(CIFAR10, 50_000)


def test_ranges_have_two_digits() -> None:
    assert (span(0.0949, 20.4), span(1649.0, 2474.0)) == ("0.095 to 20", "1600 to 2500")


def test_the_quantity_may_be_of_layers_too() -> None:
    assert step_total(1, 0, n_critic=5, batch=1, penalised=False) == 5 + 3
    assert step_total(0, 1, n_critic=5, batch=2, penalised=True) == 2 * (5 * 12 + 2)


def test_a_lazy_penalty_costs_its_share() -> None:
    assert step_total(3, 10, n_critic=2, batch=2, penalised=True, every=4) == 2 * (2 * (3 + 60) + 30 + 9 + 20)
    # a quarter of what test_a_penalty_adds_six_passes_of_d finds
    assert tiny(penalty="r1", penalty_every=4).step == 15_930 + 2 * 5 * 6 * 74 // 4


@pytest.mark.slow
def test_the_runbook_holds_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    assert set(CIFAR10.models) <= {line.split(" ")[1] for line in printed.splitlines() if line.startswith("| ")}
    assert printed in (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")


def test_without_a_number_of_samples_scoring_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one: Params = CIFAR10.override({"generate.samples": None})
    monkeypatch.setattr("benchmarks.gpu_estimates.load", lambda path: one.model_copy(update={"models": {}}))
    main([str(tmp_path)])
    assert "Inception" not in capsys.readouterr().out
