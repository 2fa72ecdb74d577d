"""Flow matching: its loss by hand and against closed forms, its update, kills, refusals; what is told of samples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import check
from pipeline.core.randomness import Draws, rng
from pipeline.data.batches import batch
from pipeline.evaluate import scoring
from pipeline.evaluate.model_card import model_card
from pipeline.experiment import code_version
from pipeline.gan import flow
from pipeline.gan.checkpoint import RunHistory, export_networks, load_checkpoint, load_generator, save_checkpoint
from pipeline.gan.flow import FLOW_LOSSES, LARGEST_NORM, FlowLoss, flow_matching, loss_of
from pipeline.gan.step import TrainState, create_state, train, train_step
from pipeline.gan.warm_start import keep, warm_start
from pipeline.models import build_gan
from pipeline.params import Params, Recipe
from pipeline.sampling.images import sample
from tests.gan.states import bits, equal, start
from tests.networks import randomise
from tests.recipes import FLOW, image_set, tiny_budget, tiny_params, tiny_recipe

BUDGET = tiny_budget(report_every=3)
LABELS = torch.zeros(2, dtype=torch.int64)


def recipe_of(**changes: Any) -> Recipe:
    return tiny_recipe(**FLOW | {"lr_g": {"start": 1e-4, "end": 1e-2, "shape": "linear", "until": 0.5}} | changes)


def trained(recipe: Recipe, steps: int = 3) -> TrainState:
    state = start(recipe, BUDGET)
    list(zip(range(steps), train(state, image_set(), loss_of(recipe), recipe, BUDGET), strict=False))
    return state


# The loss.


def test_the_loss_by_hand() -> None:
    images, noise = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2), torch.tensor([3.0, 0.0]).view(1, 1, 1, 2)
    asked: list[Tensor] = []

    def velocity(x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        asked.extend([x, times, labels])
        return 2 * x

    # x_t = 0.75 z + 0.25 x = (2.5, -0.25), the path's velocity x - z = (-2, -1), told is (5, -0.5)
    loss = flow_matching(velocity, images, LABELS[:1], noise, torch.tensor([0.25]))
    assert asked[0].flatten().tolist() == [2.5, -0.25]
    assert asked[1].tolist() == [0.25] and asked[2].tolist() == [0]
    assert loss.item() == (7**2 + 0.5**2) / 2


@pytest.mark.parametrize(("time", "spread"), [(0.0, 0.5), (0.3, 0.5), (0.8, 2.0), (1.0, 0.5)])
def test_the_best_velocity_of_gaussian_data_leaves_the_known_loss(time: float, spread: float) -> None:
    # For x from N(0, s^2) and z from N(0, 1): E[x - z | x_t] = a x_t, and a variance of s^2 / ((1-t)^2 + t^2 s^2) is
    # left. A slope that is off by 0.5 adds 0.25 Var(x_t).
    variance = (1 - time) ** 2 + time**2 * spread**2
    best = (time * spread**2 - (1 - time)) / variance
    source, count = torch.Generator().manual_seed(0), 200_000
    noise, images = (torch.randn(count, 1, 1, 1, generator=source).double() for _ in range(2))
    for off, added in ((0.0, 0.0), (0.5, 0.25 * variance), (-0.5, 0.25 * variance)):
        loss = flow_matching(
            lambda x, times, labels, slope=best + off: slope * x,  # type: ignore[misc]
            spread * images, LABELS, noise, torch.full((count,), time),
        )  # fmt: skip
        assert loss.item() == pytest.approx(spread**2 / variance + added, rel=0.02)


@pytest.mark.parametrize(("name", "variance"), [("flow_matching", 1 / 12), ("flow_matching_logit_normal", 0.04331)])
def test_the_distribution_of_times(name: str, variance: float) -> None:
    times = FLOW_LOSSES[name].times(Draws(torch.Generator().manual_seed(0)), 100_000)
    assert times.shape == (100_000,) and times.min() >= 0 and times.max() <= 1
    assert times.mean().item() == pytest.approx(0.5, abs=0.005)
    assert times.var().item() == pytest.approx(variance, rel=0.02)  # of a logit-normal by numerical integration


# The update.


@pytest.mark.parametrize("name", FLOW_LOSSES)
def test_one_update_is_that_of_the_formulas(name: str) -> None:
    recipe = recipe_of(loss=name, ema_decay=0.75)
    state, reference = (start(recipe, BUDGET) for _ in range(2))
    randomise(state.gan.generator), randomise(reference.gan.generator)
    (curve,) = train_step(state, image_set(), loss_of(recipe), recipe, BUDGET).tolist()
    network = reference.gan.generator
    real, labels = batch(image_set(), 0, 4, 0, True, True)
    draws = Draws(rng("cpu", 0, "flow", 0))
    times, noise = FLOW_LOSSES[name].times(draws, 4), draws.randn(4, 1, 16, 16)
    t = times.view(4, 1, 1, 1)
    loss = (network.velocity((1 - t) * noise + t * real, times, labels) - real + noise).square().mean()  # type: ignore
    loss.backward()
    norm = torch.stack([one.grad.norm() for one in network.parameters() if one.grad is not None]).norm()
    assert curve == pytest.approx(loss.item(), rel=1e-5) and norm > LARGEST_NORM
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(recipe.beta1, recipe.beta2))  # type: ignore[arg-type]
    for parameter in network.parameters():
        assert parameter.grad is not None
        parameter.grad *= LARGEST_NORM / norm
    adam.step()
    for ours, theirs in zip(state.gan.generator.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    moved = next(state.gan.generator.parameters()) - next(state.ema.parameters())  # type: ignore[union-attr]
    old = next(start(recipe, BUDGET).gan.generator.parameters())
    expected = 0.75 * (next(state.gan.generator.parameters()) - old)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


def test_each_step_draws_afresh_and_a_second_run_draws_the_same() -> None:
    drawn: list[Tensor] = []

    def times(draws: Draws, count: int) -> Tensor:
        drawn.append(draws.rand(count))
        return drawn[-1]

    for _ in range(2):
        list(zip(range(2), train(start(recipe_of()), image_set(), FlowLoss(times), recipe_of(), BUDGET), strict=False))
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3]) and not torch.equal(drawn[0], drawn[1])


def test_the_state_has_no_d() -> None:
    state = trained(recipe_of())
    assert state.names == ("loss/g",) and state.losses.shape == (3, 1) and (state.losses > 0).all()
    assert {name.partition(".")[0] for name in state.tensors()} == {"losses", "g", "ema", "optimiser_g"}


def test_half_precision_is_near() -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        state = start(recipe_of(), BUDGET)
        randomise(state.gan.generator)
        budget = tiny_budget(report_every=3, precision=precision)
        losses += train_step(state, image_set(), loss_of(recipe_of()), recipe_of(), budget).tolist()
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)  # bfloat16 has 3 digits


@pytest.mark.slow
def test_it_learns_a_single_image() -> None:
    # The best velocity leads every noise to the image.
    recipe = recipe_of(lr_g=1e-2, width_g=8, latent_dim=64, batch_size=8, flip=False, dequantise=False, beta1=0.9)
    budget = tiny_budget(steps=60, report_every=20)
    images = image_set(8, (1, 8, 8))
    images.images[:] = images.images[:1].clone()
    state = create_state(recipe, budget, (1, 8, 8), 3, 0, torch.device("cpu"))
    losses = [one.losses["loss/g"] for one in train(state, images, loss_of(recipe), recipe, budget) if one.losses]
    assert losses[0] > 0.5 > losses[-1] > 0 and losses == sorted(losses, reverse=True)
    made = next(sample(state.gan.generator, torch.zeros(20, dtype=torch.int64), 0, 20, 64)).float()
    error, spread = (made - images.images[:1]).abs().mean(), images.images[0].float().std()
    assert error < 0.5 * spread


# Kills, files, warm starts.


@pytest.mark.parametrize("network", ["unet", "unet_conditional"])
def test_killed_and_resumed_is_bit_for_bit_the_same(network: str, tmp_path: Path) -> None:
    recipe, whole, reports = recipe_of(network=network), start(recipe_of(network=network), BUDGET), []
    for report in train(whole, image_set(), loss_of(recipe), recipe, BUDGET):
        reports.append(report)
        if report.step == 2:
            save_checkpoint(tmp_path, whole, RunHistory())
    resumed = start(recipe, BUDGET)
    randomise(resumed.gan.generator)
    load_checkpoint(tmp_path, resumed)
    rest = list(train(resumed, image_set(), loss_of(recipe), recipe, BUDGET))
    assert equal(bits(resumed), bits(whole)) and rest == reports[2:]


def test_what_is_exported_makes_the_same_images_and_can_be_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr("pipeline.core.paths.root", lambda: tmp_path)
    recipe, run = recipe_of(solver="midpoint"), tmp_path / "runs/flow-0"
    state, noise = trained(recipe), torch.randn(2, 256, generator=torch.Generator().manual_seed(1))
    info = {"recipe": recipe.model_dump(), "image_shape": (1, 16, 16), "n_classes": 3, "model": "flow", "seed": 0,
            "steps": 3, "data_sha256": "d"}  # fmt: skip
    run.mkdir(parents=True)
    export_networks(run, state, {}, info)
    generator, _ = load_generator(run, "ema")
    assert state.ema is not None and torch.equal(generator(noise, LABELS), state.ema.eval()(noise, LABELS))
    assert not torch.equal(generator(noise, LABELS).flatten(1), noise)
    from pipeline.core.checksums import write_sums

    write_sums(run, "generator.safetensors", "discriminator.safetensors", "generator.json")
    other = start(recipe, BUDGET, seed=5)
    warm_start(other, keep("flow-0", "kept"))
    assert equal(dict(other.gan.generator.state_dict()), dict(state.gan.generator.state_dict()))


@pytest.mark.slow
def test_it_becomes_a_graph_whose_batch_is_free() -> None:
    """As MLflow's models are."""
    network = randomise(build_gan(recipe_of(width_g=2), (1, 16, 16), 0, 0).generator).eval()
    free = {0: torch.export.Dim.AUTO}
    graph = torch.export.export(network, (torch.zeros(2, 256), LABELS), dynamic_shapes=(free, free)).module()
    noise = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(5, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(graph(noise, labels), network(noise, labels), rtol=1e-4, atol=1e-4)


# What `check` refuses, and the version of the code.


def faults(**changes: Any) -> list[str]:
    own = FLOW | {"norm_d": "none"} | changes
    return list(check.problems(tiny_params({"data.image_size": 16, "data.channels": 1}, flow=own)))


def test_a_flow_is_sound() -> None:
    for name in FLOW_LOSSES:
        assert faults(loss=name) == []
    assert faults(network="unet_conditional", solver="midpoint", optimiser="rmsprop", flip=True) == []


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("loss", "hinge", "must be one of flow_matching, flow_matching_logit_normal WITH, which has no D; got hinge"),
        ("sampling_steps", 0, "must be at least 1 WITH, which goes from noise to image in steps; got 0"),
        ("solver", "rk4", "unknown name 'rk4'; Choices: euler, midpoint"),
        ("spectral_norm_g", True, "must be false WITH, which takes no spectral norm"),
        ("norm_d", "spectral", "must be none WITH, which takes no spectral norm"),
        ("minibatch_std", 2, "must be 0 WITH; networks with it: stylegan2, stylegan2_conditional"),
        *(
            (field, value, f"must be {off} WITH, which has no D; got {told}")
            for field, value, off, told in [
                ("label_smoothing", 0.1, "0", "0.1"), ("penalty", "r1", "none", "r1"), ("penalty_every", 4, "1", "4"),
                ("regularisers", {"lecam": 0.3}, "{}", '{"lecam": 0.3}'), ("clip", 0.1, "null", "0.1"),
                ("pack", 2, "1", "2"), ("n_critic", 5, "1", "5"), ("top_k", 0.5, "1", "0.5"),
                ("augment", ["cutout"], "[]", '["cutout"]'), ("augment_strength", 0.5, "1", "0.5"),
                ("instance_noise", 0.1, "0", "0.1"), ("reuse_fakes", True, "false", "true"),
            ]
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_without_d_is_refused(field: str, value: Any, rule: str) -> None:
    assert faults(**{field: value}) == [f"models.flow.{field}: {rule.replace('WITH', 'with the network unet')}"]


def test_the_noise_is_of_the_images_size() -> None:
    assert faults(latent_dim=100) == [
        "latent_dim: must be 256 with the network unet, whose latents are the noise of an image's values, got 100 "
        "(the network of models.flow)"
    ]


def test_a_gan_has_no_velocity_and_solves_nothing() -> None:
    found = list(check.problems(tiny_params({"models.dcgan.sampling_steps": 5, "models.dcgan.solver": "midpoint",
                                             "models.dcgan.loss": "flow_matching"}, dcgan={})))  # fmt: skip
    losses = "bce, bce_saturating, hinge, wasserstein, least_squares, rpgan, ragan"
    assert found == [
        f"models.dcgan.loss: must be one of {losses} with the network dcgan, which is no flow; got flow_matching",
        "models.dcgan.sampling_steps: must be 0 with the network dcgan, which makes an image in one pass; got 5",
        "models.dcgan.solver: must be euler with the network dcgan, which has no solver; got midpoint",
    ]


def test_the_version_of_the_code_has_the_update_for_flows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = recipe_of(), tiny_recipe()
    before = [code_version(recipe, "efficientnet_lite0") for recipe in recipes]
    with monkeypatch.context() as patch:
        patch.setitem(FLOW_LOSSES, "flow_matching", FLOW_LOSSES["flow_matching_logit_normal"])
        assert code_version(recipes[0], "efficientnet_lite0") != before[0]
    monkeypatch.setattr("pipeline.experiment.update_flow", flow.flow_matching)
    after = [code_version(recipe, "efficientnet_lite0") for recipe in recipes]
    assert after[0] != before[0] and after[1] == before[1]
    assert isinstance(loss_of(recipes[0]), FlowLoss) and not isinstance(loss_of(recipes[1]), FlowLoss)


# What is told of samples.


def protocol_of(params: Params, recipe: Recipe, **told: Any) -> dict[str, Any]:
    extractor: Any = SimpleNamespace(protocol={}, name="toy", version="1", metric="fd_toy", dim=3)
    reference: Any = SimpleNamespace(train=[0] * 5, test=[0] * 3, floor={"data_sha256": "e" * 64})
    info = {"init_from": None, "recipe": recipe.model_dump(mode="json"), **told}
    return scoring.protocol(extractor, reference, params, info, 9)


def test_the_protocol_tells_the_sampler() -> None:
    params, plain = tiny_params(dcgan={}), protocol_of(tiny_params(dcgan={}), tiny_recipe())
    few, many, twice = (
        protocol_of(params, recipe_of(sampling_steps=steps, solver=solver))
        for steps, solver in ((10, "euler"), (20, "euler"), (10, "midpoint"))
    )
    assert few == plain | {"sampler": "euler, 10 steps", "network_evaluations": 10}
    assert many == plain | {"sampler": "euler, 20 steps", "network_evaluations": 20}
    assert twice == plain | {"sampler": "midpoint, 10 steps", "network_evaluations": 20}


def test_the_protocol_tells_a_training_in_half_precision() -> None:
    params, recipe = tiny_params(dcgan={}), tiny_recipe()
    plain = protocol_of(params, recipe)
    assert protocol_of(params, recipe, train=tiny_budget().model_dump(mode="json")) == plain
    half = tiny_budget(precision="bf16").model_dump(mode="json")
    assert protocol_of(params, recipe, train=half) == plain | {"training_precision": "bf16"}


def test_the_model_card_tells_it_too() -> None:
    info = {"model": "flow", "seed": 0, "parameters_g": 9, "steps": 4, "images_seen": 16, "fingerprint": "f",
            "curve": {"metric": "fd_toy"}, "recipe": recipe_of(solver="midpoint").model_dump(mode="json")}  # fmt: skip
    record = {"fd_toy": 1.5, "sampling_error": {}, "best": {}, "collapsed": [],
              "protocol": protocol_of(tiny_params(dcgan={}), recipe_of(solver="midpoint"))}  # fmt: skip
    data = {"name": "d", "image_shape": [1, 16, 16], "train": 9, "test": 3, "sha256": "e", "classes": []}
    card = model_card(info, record, data)
    assert "of 256 numbers. An image takes 4 evaluations of the network (midpoint, 2 steps). Its weights: " in card
    assert "- `sampling_steps` 2" in card.replace("\\", "") and "- `network_evaluations` 4" in card.replace("\\", "")
