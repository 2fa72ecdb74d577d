"""Path length regularisation of a G with styles: against closed forms, in the step, captured, and resumed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import check
from pipeline.core.randomness import Draws
from pipeline.gan import regularisers
from pipeline.gan.checkpoint import RunHistory, load_checkpoint, save_checkpoint
from pipeline.gan.losses import LOSSES
from pipeline.gan.penalties import PENALTIES, Update
from pipeline.gan.step import train, train_step
from pipeline.models import stylegan2
from pipeline.params import Recipe
from tests.gan.states import equal, start
from tests.gan.test_graphs import same
from tests.recipes import image_set, tiny_budget, tiny_params, tiny_recipe

LAYERS, WIDTH, SHAPE = 2, 3, (1, 2, 2)


class Linear(nn.Module):
    """Images that are linear in the styles: image = sum over layers of A_l w_l, with w_l = the latents."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(7)
        self.a = nn.Parameter(torch.randn(LAYERS, 4, WIDTH, generator=source, dtype=torch.float64))

    def styles(self, latents: Tensor, labels: Tensor) -> Tensor:
        return latents[:, None].expand(-1, LAYERS, -1)

    def synthesise(self, styles: Tensor) -> Tensor:
        return torch.einsum("lpw,nlw->np", self.a, styles).view(-1, *SHAPE)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return self.synthesise(self.styles(latents, labels))


def update_of(generator: nn.Module, own: dict[str, Tensor], count: int = 5, seed: int = 0) -> Update:
    latents = torch.randn(
        count, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ).requires_grad_()
    images, labels = torch.zeros(count, *SHAPE, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
    draws = Draws(torch.Generator().manual_seed(seed))
    return Update(generator, lambda images, _: images, None, None, images, labels, draws, latents=latents, own=own)


def lengths_by_hand(generator: Linear, seed: int) -> Tensor:
    """|J^T y| of three of five images: J is A, whatever the image; y the noise that is drawn, by 2 = sqrt(4)."""
    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double() / 2
    moved = torch.einsum("lpw,np->nlw", generator.a.detach(), noise)
    return moved.square().sum(dim=2).mean(dim=1).sqrt()


def test_a_linear_synthesis_by_hand() -> None:
    generator, own = Linear(), {"mean": torch.zeros((), dtype=torch.float64)}
    first, second = lengths_by_hand(generator, 0), lengths_by_hand(generator, 1)
    mean = 0.01 * first.mean()
    value = regularisers.path_length(update_of(generator, own, seed=0))
    assert value.item() == pytest.approx((first - mean).square().mean().item(), rel=1e-9)
    assert own["mean"].item() == pytest.approx(mean.item(), rel=1e-9)
    value = regularisers.path_length(update_of(generator, own, seed=1))
    mean = 0.99 * mean + 0.01 * second.mean()
    assert value.item() == pytest.approx((second - mean).square().mean().item(), rel=1e-9)
    assert own["mean"].item() == pytest.approx(mean.item(), rel=1e-9)


def test_its_gradient_is_that_of_finite_differences() -> None:
    generator, mean = Linear(), 0.99 * 100 + 0.01 * lengths_by_hand(Linear(), 0).mean()  # a constant to the penalty
    own = {"mean": torch.tensor(100.0, dtype=torch.float64)}
    regularisers.path_length(update_of(generator, own)).backward()
    gradient = generator.a.grad
    assert gradient is not None and own["mean"].item() == pytest.approx(mean.item(), rel=1e-9)
    for place in [(0, 0, 0), (1, 3, 2)]:
        around = []
        for step in (1e-6, -1e-6):
            moved = Linear()
            with torch.no_grad():
                moved.a[place] += step
            around.append((lengths_by_hand(moved, 0) - mean).square().mean().item())
        assert abs(gradient[place]) > 1
        assert gradient[place].item() == pytest.approx((around[0] - around[1]) / 2e-6, rel=1e-5)


def test_where_styles_move_nothing_its_gradient_is_zero() -> None:
    generator = Linear()
    with torch.no_grad():
        generator.a.zero_()
    regularisers.path_length(update_of(generator, {"mean": torch.ones((), dtype=torch.float64)})).backward()
    assert generator.a.grad is not None and not generator.a.grad.any()


@pytest.mark.parametrize("mixing", [0.0, 0.9])
def test_the_network_against_its_whole_jacobian(mixing: float) -> None:
    torch.manual_seed(0)
    generator = stylegan2.Generator((1, 8, 8), 3, 2, mixing=mixing)
    latents, labels, mean = torch.randn(2, 2), torch.zeros(2, dtype=torch.int64), torch.zeros(())
    generator.draws = Draws(torch.Generator().manual_seed(1))
    with torch.no_grad():
        styles = generator.styles(latents[:1], labels[:1])
    assert torch.equal(styles[:, 0], styles[:, -1]) is (mixing == 0)
    jacobian = torch.autograd.functional.jacobian(generator.synthesise, styles)  # (1, 1, 8, 8, 1, L, W)
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 8
    length = torch.einsum("nchw,nchwmlk->lk", noise, jacobian).square().sum(dim=1).mean().sqrt().item()
    generator.draws, draws = Draws(torch.Generator().manual_seed(1)), Draws(torch.Generator().manual_seed(0))
    own = {"mean": mean}
    value = regularisers.path_length(
        Update(generator, generator, None, None, latents, labels, draws, latents=latents, own=own)
    )
    assert value.item() == pytest.approx((0.99 * length) ** 2, rel=1e-4)
    assert mean.item() == pytest.approx(0.01 * length, rel=1e-4)


def recipe_of(**more: Any) -> Recipe:
    return tiny_recipe(network="stylegan2", regularisers={"path_length": 2.0}, **more)


def test_a_step_measures_it_at_every_fourth_update_with_four_times_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, budget = recipe_of(), tiny_budget(steps=6, report_every=6)
    state = start(recipe, budget)
    assert state.names[-2:] == ("penalty/path_length", "penalty/path_length/mean")
    list(train(state, image_set(), LOSSES[recipe.loss], recipe, budget))
    values, means = state.losses[:, -2], state.losses[:, -1]
    assert (values != 0).tolist() == [True, False, False, False, True, False]
    assert means[:4].unique().numel() == 1 and means[4] > means[0] > 0
    monkeypatch.setitem(PENALTIES, "path_length", dataclasses.replace(PENALTIES["path_length"], every=1))
    at_each = recipe.model_copy(update={"regularisers": {"path_length": 4 * 2.0}})
    curves = train_step(start(at_each, budget), image_set(), LOSSES[recipe.loss], at_each, budget)
    assert curves[-2].item() == pytest.approx(values[0].item(), rel=1e-6)


def test_in_bf16_it_is_taken_in_float32() -> None:
    recipe, budget, seen = recipe_of(), tiny_budget(precision="bf16"), list[torch.dtype]()
    state = start(recipe, budget)
    layers: Any = state.gan.generator.layers
    layers[0].register_forward_hook(lambda module, given, maps: seen.append(maps.dtype))
    assert train_step(state, image_set(), LOSSES["bce"], recipe, budget).isfinite().all()
    assert seen[-1] == torch.float32


def test_it_trains_on_the_meta_device() -> None:
    recipe = recipe_of()
    curves = train_step(start(recipe, device="meta"), image_set(device="meta"), LOSSES["bce"], recipe, tiny_budget())
    assert curves.device.type == "meta"


def test_it_is_captured_with_the_step_and_has_a_graph_of_its_own_when_due() -> None:
    same(recipe_of(), kinds=3)  # of D, and of G with and without it: of seven updates two measure it


def test_a_resumed_training_has_the_same_bits(tmp_path: Path) -> None:
    recipe, budget = recipe_of(), tiny_budget(steps=6)
    whole = start(recipe, budget)
    list(train(whole, image_set(), LOSSES[recipe.loss], recipe, budget))
    stopped = start(recipe, budget)
    for report in train(stopped, image_set(), LOSSES[recipe.loss], recipe, budget):
        if report.step == 3:
            break
    save_checkpoint(tmp_path, stopped, RunHistory())
    resumed = start(recipe, budget)
    load_checkpoint(tmp_path, resumed)
    list(train(resumed, image_set(), LOSSES[recipe.loss], recipe, budget))
    assert equal(resumed.tensors(), whole.tensors())


def test_a_network_without_styles_is_refused() -> None:
    params = tiny_params({}, dcgan={"network": "dcgan", "regularisers": {"path_length": 2.0}})
    (problem,) = check.problems(params)
    assert problem.endswith(
        "models.dcgan.regularisers: must not hold path_length, for which G needs styles; networks with them: "
        "stylegan2, stylegan2_conditional"
    )
    assert not list(
        check.problems(tiny_params({}, dcgan={"network": "stylegan2", "regularisers": {"path_length": 2.0}}))
    )
