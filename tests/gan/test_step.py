"""The training step and loop: devices, who changes whom, schedules, averages, reports, NaN, determinism."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from pipeline import check, params
from pipeline.core.errors import PipelineError
from pipeline.core.randomness import rng
from pipeline.data.batches import ImageSet, batch
from pipeline.gan import checkpoint
from pipeline.gan import step as training
from pipeline.gan.augment import AUGMENTATIONS, show
from pipeline.gan.losses import LOSSES, AdversarialLoss
from pipeline.gan.optimisers import OPTIMISERS
from pipeline.gan.penalties import PENALTIES, Critic, Penalty
from pipeline.gan.step import TrainState, create_state, draw_inputs, ema_decay, train, train_step, update_ema
from pipeline.models import NETWORKS
from pipeline.params import Recipe, TrainParams
from pipeline.sampling.images import sample

ROOT = Path(__file__).resolve().parents[2]
BASE = {
    "network": "dcgan", "loss": "bce", "width_g": 4, "width_d": 4, "latent_dim": 5, "norm_d": "none",
    "spectral_norm_g": False, "init": "xavier", "batch_size": 4, "n_critic": 1, "lr_g": 1e-3, "lr_d": 1e-3,
    "beta1": 0.5, "beta2": 0.999, "lr_decay": "none", "ema_decay": 0.9, "flip": True, "dequantise": True,
    "label_smoothing": 0.0, "penalty": "none",
    "penalty_weight": 10.0, "clip": None, "optimiser": "adam", "ema_warmup": False, "augment": [],
    "instance_noise": 0.0, "init_from": None,
}  # fmt: skip
BUDGET = {"steps": 4, "precision": "fp32", "channels_last": False, "report_every": 2, "grid_every": 9,
          "score_every": 9, "score_samples": 2, "rollbacks": 0, "rollback_lr": 0.5}  # fmt: skip
SHAPE = (1, 16, 16)


def recipe_of(**changes: Any) -> Recipe:
    return Recipe.model_validate({**BASE, **changes})


def budget_of(**changes: Any) -> TrainParams:
    return TrainParams.model_validate({**BUDGET, **changes})


def image_set(count: int = 24, shape: tuple[int, int, int] = SHAPE, device: str = "cpu") -> ImageSet:
    source = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *shape), generator=source, dtype=torch.uint8)
    return ImageSet(images.to(device), (torch.arange(count) % 3).to(device), 3)


def start(recipe: Recipe, budget: TrainParams | None = None, seed: int = 0, device: str = "cpu") -> TrainState:
    state = create_state(recipe, budget or budget_of(), SHAPE, 3, seed, torch.device(device))
    training._set_learning_rates(state, recipe, budget or budget_of())  # `train` does so before every step
    return state


def run(
    recipe: Recipe, budget: TrainParams, seed: int = 0, loss: AdversarialLoss | None = None
) -> tuple[TrainState, list]:
    state = start(recipe, budget, seed)
    return state, list(train(state, image_set(), loss or LOSSES[recipe.loss], recipe, budget))


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def pairs() -> Iterator[tuple[str, str, str]]:
    """Every network with every loss and every norm of D that `check` lets through."""
    for network, entry in NETWORKS.items():
        for loss, value in LOSSES.items():
            for norm in ("none", "batch", "spectral"):
                if (norm == "spectral" or not value.lipschitz) and (norm != "batch" or entry.batch_norm_d):
                    yield network, loss, norm


VALUES = params.load(ROOT / "params.yaml")


@pytest.mark.parametrize("name", VALUES.models)
def test_every_recipe_takes_a_step_on_the_meta_device(name: str) -> None:
    # Meta tensors have shapes and no numbers: a tensor left on the CPU, or a wait for a number, fails at once.
    values = VALUES
    recipe = values.models[name].model_copy(update={"width_g": 8, "width_d": 8, "batch_size": 8})
    shape = (values.data.channels, values.data.image_size, values.data.image_size)
    state = create_state(recipe, values.train, shape, 3, 0, torch.device("meta"))
    losses = train_step(state, image_set(16, shape, "meta"), LOSSES[recipe.loss], recipe, values.train)
    assert losses.shape == (2,)
    assert losses.dtype == torch.float32
    assert {tensor.device.type for name, tensor in state.tensors().items() if not name.endswith(".step")} == {"meta"}


@pytest.mark.parametrize(("network", "loss", "norm"), list(pairs()))
def test_every_pair_takes_a_step_on_the_meta_device(network: str, loss: str, norm: str) -> None:
    recipe = recipe_of(network=network, loss=loss, norm_d=norm, spectral_norm_g=loss == "hinge")
    state = start(recipe, device="meta")
    assert train_step(state, image_set(device="meta"), LOSSES[loss], recipe, budget_of()).device.type == "meta"


@pytest.mark.parametrize(("network", "loss", "norm"), list(pairs()))
def test_every_pair_trains_on_the_cpu(network: str, loss: str, norm: str) -> None:
    recipe = recipe_of(network=network, loss=loss, norm_d=norm, init="normal")
    state, reports = run(recipe, budget_of(steps=2))
    assert all(math.isfinite(value) for value in reports[-1].losses.values())
    # Against an untrained D every pair starts from D's loss of undecided logits.
    undecided = {"bce": 2 * math.log(2), "bce_saturating": 2 * math.log(2), "hinge": 2.0, "wasserstein": 0.0,
                 "least_squares": 0.5}[loss]  # fmt: skip
    if norm == "none":
        assert reports[-1].losses["loss/d"] == pytest.approx(undecided, abs=0.3)
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors().values())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_training_changes_every_parameter(network: str, norm: str) -> None:
    # Two steps: attention is the identity at first, and its weights get no gradient before gamma has moved.
    recipe = recipe_of(network=network, norm_d=norm, spectral_norm_g=norm == "spectral")
    state = start(recipe)
    before = copied(state.gan.generator), copied(state.gan.discriminator), copied(state.ema)
    for _ in train(state, image_set(), LOSSES["bce"], recipe, budget_of(steps=2)):
        pass
    after = copied(state.gan.generator), copied(state.gan.discriminator), copied(state.ema)
    for old, new in zip(before, after, strict=True):
        assert len(old) >= 3
        assert [name for name in old if torch.equal(old[name], new[name])] == []


@pytest.mark.parametrize("network", NETWORKS)
def test_each_update_changes_its_own_network_alone(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(network=network, norm_d="spectral", n_critic=3)
    state, events = start(recipe), list[str]()
    networks = {"d": state.gan.discriminator, "g": state.gan.generator}

    def watch(who: str, other: str, optimiser: torch.optim.Optimizer) -> None:
        step, seen = optimiser.step, {key: copied(network) for key, network in networks.items()}

        def spied() -> None:
            events.append(who)
            seen.update({key: copied(network) for key, network in networks.items()})
            gradients = [p.grad is None for p in networks[other].parameters()]
            assert all(gradients) if who == "d" else not any(gradients)  # D's update asks nothing of G
            step()
            assert equal(copied(networks[other]), seen[other])
            assert not equal(copied(networks[who]), seen[who])

        monkeypatch.setattr(optimiser, "step", spied)

    initial = copied(networks["g"])
    watch("d", "g", state.optimiser_d)
    watch("g", "d", state.optimiser_g)
    step_g, gradients = state.optimiser_g.step, list[Tensor]()

    def before_g() -> None:
        assert equal(copied(networks["g"]), initial)  # three updates of D have not touched G
        gradients.extend(p.grad.clone() for p in networks["d"].parameters())
        assert all(p.requires_grad for p in networks["d"].parameters())
        step_g()

    monkeypatch.setattr(state.optimiser_g, "step", before_g)
    last = list[Tensor]()
    step_d = state.optimiser_d.step

    def before_d() -> None:
        last[:] = [p.grad.clone() for p in networks["d"].parameters()]
        step_d()

    monkeypatch.setattr(state.optimiser_d, "step", before_d)
    train_step(state, image_set(), LOSSES["bce"], recipe, budget_of())
    assert events == ["d", "d", "d", "g"]
    assert all(torch.equal(a, b) for a, b in zip(last, gradients, strict=True))  # G's backward added nothing to D's
    for part in networks.values():
        assert all(parameter.requires_grad for parameter in part.parameters())
    assert not any(parameter.requires_grad for parameter in state.ema.parameters())


def test_critic_updates_count_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, budget = recipe_of(n_critic=3), budget_of(steps=3)
    batches, draws = list[int](), list[tuple[str, int]]()
    take, draw = training.batch, training.draw_inputs

    def spied_batch(images: ImageSet, index: int, *rest: Any) -> Any:
        batches.append(index)
        assert rest == (recipe.batch_size, 7, recipe.flip, recipe.dequantise)
        return take(images, index, *rest)

    def spied_draw(recipe: Recipe, images: ImageSet, seed: int, stream: str, index: int) -> Any:
        draws.append((stream, index))
        assert seed == 7
        return draw(recipe, images, seed, stream, index)

    monkeypatch.setattr(training, "batch", spied_batch)
    monkeypatch.setattr(training, "draw_inputs", spied_draw)
    state = start(recipe, budget, seed=7)
    state.step = 1  # as after a resume
    list(train(state, image_set(), LOSSES["bce"], recipe, budget))
    assert batches == [3, 4, 5, 6, 7, 8]
    assert draws == [*(("d", i) for i in (3, 4, 5)), ("g", 1), *(("d", i) for i in (6, 7, 8)), ("g", 2)]


def test_inputs_are_named_draws() -> None:
    recipe, images = recipe_of(batch_size=4096, latent_dim=8), image_set()
    latents, labels = draw_inputs(recipe, images, 0, "g", 5)
    assert latents.shape == (4096, 8)
    assert latents.mean().item() == pytest.approx(0, abs=5 / math.sqrt(latents.numel()))
    assert latents.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * latents.numel()))
    assert (labels.shape, labels.dtype) == ((4096,), torch.int64)
    again = draw_inputs(recipe, images, 0, "g", 5)
    assert torch.equal(latents, again[0])
    assert torch.equal(labels, again[1])
    for other in [(1, "g", 5), (0, "d", 5), (0, "g", 6)]:
        drawn = draw_inputs(recipe, images, *other)
        assert not torch.equal(latents, drawn[0])
        assert not torch.equal(labels, drawn[1])


@pytest.mark.parametrize("counts", [[8, 8, 8], [1, 20, 3], [0, 24, 0], [5, 0, 19]])
def test_the_labels_of_fakes_come_as_often_as_in_the_data(counts: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    images, n = ImageSet(image_set().images, labels, 3), 4096
    drawn = draw_inputs(recipe_of(batch_size=n), images, 0, "d", 0)[1]
    found = torch.bincount(drawn, minlength=3)
    assert len(found) == 3
    for count, times in zip(counts, found.tolist(), strict=True):
        share = count / 24
        assert times / n == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))
    halves = [half.float().mean().item() for half in drawn.chunk(2)]
    assert halves[0] == pytest.approx(halves[1], abs=0.1)  # in no order


def test_fakes_of_unlabelled_data_have_label_0() -> None:
    images = ImageSet(image_set().images, torch.zeros(24, dtype=torch.int64), 0)
    assert draw_inputs(recipe_of(batch_size=64), images, 0, "g", 5)[1].tolist() == [0] * 64


@pytest.mark.parametrize(("decay", "factors"), [("linear", [1, 0.75, 0.5, 0.25]), ("none", [1, 1, 1, 1])])
def test_learning_rates(decay: str, factors: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, seen = recipe_of(lr_g=2e-4, lr_d=8e-4, lr_decay=decay), []
    state = start(recipe)
    for optimiser in (state.optimiser_d, state.optimiser_g):
        step = optimiser.step
        monkeypatch.setattr(
            optimiser, "step", lambda o=optimiser, s=step: (seen.extend(g["lr"] for g in o.param_groups), s())
        )
    list(train(state, image_set(), LOSSES["bce"], recipe, budget_of(steps=4)))
    assert seen[0::2] == pytest.approx([8e-4 * factor for factor in factors], rel=1e-9)
    assert seen[1::2] == pytest.approx([2e-4 * factor for factor in factors], rel=1e-9)


def test_optimisers_start_like_plain_adam() -> None:
    # create_state takes a step that changes nothing; the bias correction must not have noticed.
    recipe = recipe_of(beta1=0.5, beta2=0.9)
    state = start(recipe)
    fresh = start(recipe).gan.generator
    assert equal(copied(state.gan.generator), copied(fresh))
    plain = torch.optim.Adam(fresh.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=False)
    for group in state.optimiser_g.param_groups:
        assert group["betas"] == (0.5, 0.9)
        group["lr"] = 1e-2
    source, old = torch.Generator().manual_seed(0), copied(fresh)
    for step in range(3):
        for mine, reference in zip(state.gan.generator.parameters(), fresh.parameters(), strict=True):
            reference.grad = torch.randn(reference.shape, generator=source)
            mine.grad = reference.grad.clone()
        state.optimiser_g.step()
        plain.step()
        if step == 0:  # by hand: Adam's first step is lr * sign(gradient)
            for name, parameter in state.gan.generator.named_parameters():
                torch.testing.assert_close(
                    parameter.detach(), old[name] - 1e-2 * parameter.grad.sign(), rtol=0, atol=1e-4
                )
    for mine, reference in zip(state.gan.generator.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)


def test_update_ema_by_hand() -> None:
    def network(weight: float, mean: float, variance: float, count: int) -> nn.Module:
        built = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), parametrizations.spectral_norm(nn.Linear(2, 2)))
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.fill_(weight)
            built[1].running_mean.fill_(mean)
            built[1].running_var.fill_(variance)
            built[1].num_batches_tracked.fill_(count)
            built[2].parametrizations.weight[0]._u.copy_(torch.tensor([weight, -weight]))
        return built

    average, live = network(1.0, 2.0, 5.0, 3), network(3.0, 4.0, 9.0, 8)
    kept = copied(live)
    update_ema(average, live, 0.75)
    assert [parameter.unique().tolist() for parameter in average.parameters()] == [[1.5]] * 6  # .75 * 1 + .25 * 3
    assert average[1].running_mean.item() == pytest.approx(2.5)  # .75 * 2 + .25 * 4
    assert average[1].running_var.item() == pytest.approx(6.0)  # .75 * 5 + .25 * 9
    assert average[1].num_batches_tracked.item() == 8
    assert average[2].parametrizations.weight[0]._u.tolist() == [3.0, -3.0]  # a unit vector is copied, not averaged
    assert equal(copied(live), kept)


@pytest.mark.parametrize("network", NETWORKS)
def test_training_averages_the_generator(network: str) -> None:
    recipe = recipe_of(network=network, ema_decay=0.75, spectral_norm_g=True)
    state, images = start(recipe), image_set()
    assert equal(copied(state.ema), copied(state.gan.generator))
    expected = copied(state.ema)
    for _ in train(state, images, LOSSES["bce"], recipe, budget_of(steps=2)):
        live = copied(state.gan.generator)
        expected = {name: 0.75 * value + 0.25 * live[name] for name, value in expected.items()}
    for name, value in copied(state.ema).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
    assert not equal(copied(state.ema), copied(state.gan.generator))
    assert start(recipe_of(ema_decay=None)).ema is None


def test_reports_are_means_of_their_own_steps() -> None:
    recipe, budget = recipe_of(norm_d="batch", n_critic=2), budget_of(steps=7, report_every=3)
    manual, values = start(recipe, budget), []
    while manual.step < 7:
        values.append(train_step(manual, image_set(), LOSSES["bce"], recipe, budget).tolist())
        manual.step += 1
    _, reports = run(recipe, budget)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6, 7]
    assert [report.step for report in reports if report.losses] == [3, 6, 7]
    assert len({value for pair in values for value in pair}) == 14
    for report, window in ((reports[2], values[:3]), (reports[5], values[3:6]), (reports[6], values[6:])):
        assert report.losses["loss/d"] == pytest.approx(sum(d for d, _ in window) / len(window), rel=1e-6)
        assert report.losses["loss/g"] == pytest.approx(sum(g for _, g in window) / len(window), rel=1e-6)


def broken(part: str, at: int, value: float) -> AdversarialLoss:
    """The BCE pair of which one side turns to `value` at step `at`, counted from 1."""
    counts, bce = {"D": 0, "G": 0}, LOSSES["bce"]

    def spoil(name: str, loss: Tensor) -> Tensor:
        counts[name] += 1
        return loss * value if name == part and counts[name] == at else loss

    return AdversarialLoss(
        lambda real, fake: spoil("D", bce.discriminator(real, fake)), lambda fake: spoil("G", bce.generator(fake))
    )


@pytest.mark.parametrize(
    ("part", "at", "value", "text", "noticed"),
    [("G", 6, math.nan, "nan", 8), ("D", 3, math.nan, "nan", 4), ("G", 1, math.inf, "inf", 4),
     ("D", 10, -math.inf, "-inf", 10), ("G", 4, math.nan, "nan", 4), ("D", 5, math.nan, "nan", 8)],
)  # fmt: skip
def test_nan_stops_training_naming_loss_and_step(part: str, at: int, value: float, text: str, noticed: int) -> None:
    recipe, budget, done = recipe_of(), budget_of(steps=10, report_every=4), 0
    state = start(recipe, budget)
    with pytest.raises(PipelineError, match=rf"^the loss of {part} is {text} at step {at}: lower lr_g and lr_d"):
        for report in train(state, image_set(), broken(part, at, value), recipe, budget):
            done = report.step
    assert (done, state.step) == (noticed - 1, noticed)


@pytest.mark.parametrize("network", NETWORKS)
def test_bf16_computes_in_bf16_and_keeps_float32_weights(network: str) -> None:
    recipe, dtypes = recipe_of(network=network, norm_d="spectral"), set()
    state, plain = start(recipe), start(recipe)
    for part in (state.gan.generator, state.gan.discriminator):
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.register_forward_hook(lambda m, _, out: dtypes.add(out.dtype))
    before = copied(state.gan.generator)
    losses = train_step(state, image_set(), LOSSES["bce"], recipe, budget_of(precision="bf16"))
    expected = train_step(plain, image_set(), LOSSES["bce"], recipe, budget_of())
    assert dtypes == {torch.bfloat16}
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0.05)
    assert {t.dtype for t in state.tensors().values()} <= {torch.float32, torch.int64}
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors().values())
    assert not equal(before, copied(state.gan.generator))


def test_precision_reaches_the_step() -> None:
    _, full = run(recipe_of(), budget_of(steps=2, precision="fp32"))
    _, half = run(recipe_of(), budget_of(steps=2, precision="bf16"))
    assert half[-1].losses != full[-1].losses
    assert half[-1].losses["loss/d"] == pytest.approx(full[-1].losses["loss/d"], abs=0.05)


@pytest.mark.parametrize("network", NETWORKS)
def test_same_seed_same_bits(network: str) -> None:
    recipe, budget = recipe_of(network=network, norm_d="spectral", spectral_norm_g=True), budget_of(steps=3)
    torch.manual_seed(1)
    first, reports = run(recipe, budget, seed=5)
    torch.manual_seed(2)
    torch.rand(7)
    again, repeated = run(recipe, budget, seed=5)
    other, differing = run(recipe, budget, seed=6)
    assert reports == repeated
    assert equal(first.tensors(), again.tensors())
    assert not equal(first.tensors(), other.tensors())
    assert reports[-1].losses != differing[-1].losses


def test_channels_last_changes_the_layout_alone() -> None:
    recipe = recipe_of(network="resnet", norm_d="none")
    for flag in (True, False):
        state = start(recipe, budget_of(channels_last=flag))
        for part in (state.gan.generator, state.gan.discriminator, state.ema):
            weights = [p for p in part.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
            assert len(weights) >= 3
            assert all(p.is_contiguous(memory_format=torch.channels_last) == flag for p in weights)
    _, last = run(recipe, budget_of(steps=2, channels_last=True))
    _, first = run(recipe, budget_of(steps=2, channels_last=False))
    assert last[-1].losses == pytest.approx(first[-1].losses, abs=1e-3)


def test_the_state_names_every_tensor_once_and_live() -> None:
    state = start(recipe_of(norm_d="batch"))
    names = state.tensors()
    assert names["losses"].shape == (2, 2)
    assert {name.split(".")[0] for name in names} == {"losses", "g", "d", "ema", "optimiser_g", "optimiser_d"}
    for prefix, part in (("g", state.gan.generator), ("d", state.gan.discriminator)):
        moments = [name for name in names if name.startswith(f"optimiser_{prefix}.")]
        assert len(moments) == 3 * len(list(part.parameters()))  # step, exp_avg, exp_avg_sq
        assert all((names[name] == 0).all() for name in moments)
    names["g.layers.0.weight"].fill_(2.0)
    assert (state.gan.generator.layers[0].weight == 2).all()


@pytest.mark.parametrize("brightness", [40, 215])
def test_generated_images_move_towards_the_data(brightness: int) -> None:
    source = torch.Generator().manual_seed(0)
    images = (torch.randn(64, *SHAPE, generator=source) * 20 + brightness).clamp(0, 255).to(torch.uint8)
    recipe = recipe_of(width_g=8, width_d=8, latent_dim=8, init="normal", batch_size=16, lr_g=2e-3, lr_d=2e-3,
                       norm_d="spectral", loss="hinge", ema_decay=None)  # fmt: skip
    budget = budget_of(steps=60, report_every=60)
    state = start(recipe, budget)

    def mean() -> float:
        return torch.cat(list(sample(state.gan.generator, torch.arange(32) % 3, 0, 32, 8))).float().mean().item()

    assert mean() == pytest.approx(128, abs=15)
    for _ in train(state, ImageSet(images, torch.zeros(64, dtype=torch.int64), 3), LOSSES["hinge"], recipe, budget):
        pass
    assert mean() == pytest.approx(images.float().mean().item(), abs=40)


def test_a_checkpoint_with_a_weight_that_is_not_finite_is_refused() -> None:
    state = start(recipe_of())
    state.step = 3
    training.require_finite(state)
    weight = next(state.gan.discriminator.parameters())
    with torch.no_grad():
        weight.view(-1)[0] = float("inf")
    with pytest.raises(PipelineError, match=r"^d\..* is not finite at step 3: lower lr_g"):
        training.require_finite(state)


# The options of a recipe.

EVERYTHING = {"loss": "bce", "label_smoothing": 0.1, "penalty": "gradient", "penalty_weight": 2.0, "norm_d": "spectral",
              "augment": list(AUGMENTATIONS), "instance_noise": 0.2, "ema_warmup": True, "n_critic": 2}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "smoothed labels": {"label_smoothing": 0.1},
    **{f"penalty {name}": {"penalty": name} for name in PENALTIES if name != "none"},
    "clip": {"clip": 0.01},
    **{f"optimiser {name}": {"optimiser": name} for name in OPTIMISERS if name != "adam"},
    **{f"augment {name}": {"augment": [name]} for name in AUGMENTATIONS},
    "noise": {"instance_noise": 0.2},
    "warm-up": {"ema_warmup": True},
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_option_trains_and_repeats_bit_for_bit(option: str, precision: str) -> None:
    recipe, budget = recipe_of(**OPTIONS[option]), budget_of(steps=3, precision=precision)
    torch.manual_seed(1)
    state, reports = run(recipe, budget)
    torch.manual_seed(2)
    again, repeated = run(recipe, budget)
    plain, _ = run(recipe_of(), budget)
    assert reports == repeated
    assert equal(state.tensors(), again.tensors())
    assert not equal(copied(state.ema), copied(plain.ema))  # it changes something
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors().values())
    assert {t.dtype for t in state.tensors().values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("norm", ["none", "spectral"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_every_penalty_goes_through_every_network(network: str, penalty: str, norm: str, device: str) -> None:
    changes = {"network": network, "penalty": penalty, "penalty_weight": 5.0, "norm_d": norm}
    for precision in ("fp32",) if device == "meta" else ("fp32", "bf16"):  # there is no autocast on meta
        recipe, budget = recipe_of(**EVERYTHING | changes), budget_of(precision=precision)
        state = start(recipe, budget, device=device)
        before = copied(state.gan.discriminator)
        losses = train_step(state, image_set(device=device), LOSSES["bce"], recipe, budget)
        assert (losses.dtype, losses.device.type) == (torch.float32, device)
        if device == "cpu":
            assert losses.isfinite().all()
            assert not equal(before, copied(state.gan.discriminator))


def test_the_loss_of_d_holds_its_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    def level(critic: Critic, real: Tensor, labels: Tensor, fake: Tensor, source: torch.Generator) -> Tensor:
        return torch.full((), 3.0)

    monkeypatch.setitem(PENALTIES, "toy", Penalty(level))
    plain, toy = (
        train_step(start(recipe), image_set(), LOSSES["bce"], recipe, budget_of()).tolist()
        for recipe in (recipe_of(), recipe_of(penalty="toy", penalty_weight=0.5))
    )
    assert toy[0] == pytest.approx(plain[0] + 1.5, abs=1e-6)
    assert toy[1] == plain[1]


def test_a_toy_loss_and_a_toy_penalty_are_one_entry_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        return (fake - real).mean().square()

    def generator(fake: Tensor) -> Tensor:
        return fake.square().mean()

    def logits(critic: Critic, real: Tensor, labels: Tensor, fake: Tensor, source: torch.Generator) -> Tensor:
        return critic(real, labels).square().mean()

    monkeypatch.setitem(LOSSES, "toy", AdversarialLoss(discriminator, generator))
    monkeypatch.setitem(PENALTIES, "toy", Penalty(logits, per_image=False))
    values = VALUES.override({"models.dcgan.loss": "toy", "models.dcgan.penalty": "toy"})
    assert list(check.problems(values)) == []
    _, reports = run(recipe_of(loss="toy", penalty="toy"), budget_of())
    assert math.isfinite(reports[-1].losses["loss/d"])
    assert checkpoint.code_version(recipe_of(loss="toy")) != checkpoint.code_version(recipe_of())


def test_the_penalty_draws_by_name_and_sees_what_d_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def spy(critic: Critic, real: Tensor, labels: Tensor, fake: Tensor, source: torch.Generator) -> Tensor:
        assert critic is state.gan.discriminator
        seen.append((real, labels, fake, torch.rand(3, generator=source)))
        return real.new_zeros(())

    monkeypatch.setitem(PENALTIES, "toy", Penalty(spy))
    recipe, budget = recipe_of(penalty="toy", n_critic=2, augment=["cutout"], instance_noise=0.4), budget_of(steps=4)
    state = start(recipe, budget, seed=7)
    state.step = 3
    inputs: list[Tensor] = []
    state.gan.discriminator.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    train_step(state, image_set(), LOSSES["bce"], recipe, budget)
    assert len(seen) == 2 and len(inputs) == 5  # real and fake twice, then G's
    noise = 0.4 * (1 - 3 / 4)
    for index, (real, labels, fake, drawn) in zip((6, 7), seen, strict=True):
        plain, plain_labels = batch(image_set(), index, 4, 7, True, True)
        assert torch.equal(real, show(plain, ["cutout"], noise, 7, "real", index))
        assert torch.equal(labels, plain_labels)
        assert torch.equal(drawn, torch.rand(3, generator=rng("cpu", 7, "penalty", index)))
        assert torch.equal(inputs.pop(0), real)
        assert torch.equal(inputs.pop(0), fake)


def test_d_sees_shown_images_in_its_updates_and_in_gs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def spied(images: Tensor, augmentations: Any, noise: float, seed: int, stream: str, index: int) -> Tensor:
        calls.append((augmentations, pytest.approx(noise), seed, stream, index, images.requires_grad))
        return torch.full_like(images, 0.5) + 0 * images

    monkeypatch.setattr(training, "show", spied)
    recipe, budget = recipe_of(n_critic=2, augment=["colour"], instance_noise=0.4), budget_of(steps=4)
    state, inputs = start(recipe, budget, seed=7), list[Tensor]()
    state.step = 1
    state.gan.discriminator.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    train_step(state, image_set(), LOSSES["bce"], recipe, budget)
    common = (("colour",), 0.3, 7)  # noise: 0.4 * (1 - 1 / 4)
    places = [("real", 2, False), ("fake", 2, False), ("real", 3, False), ("fake", 3, False), ("g", 1, True)]
    assert calls == [(*common, *place) for place in places]
    assert len(inputs) == 5 and all((image == 0.5).all() for image in inputs)


def test_instance_noise_falls_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spied(images: Tensor, augmentations: Any, noise: float, seed: int, stream: str, index: int) -> Tensor:
        seen.append(noise)
        return images

    monkeypatch.setattr(training, "show", spied)
    run(recipe_of(instance_noise=2.0), budget_of(steps=4))
    assert seen == pytest.approx([2.0] * 3 + [1.5] * 3 + [1.0] * 3 + [0.5] * 3)


def test_weights_are_clipped_after_each_update_of_d(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(loss="wasserstein", clip=0.01, n_critic=3, optimiser="rmsprop", beta1=0.0, lr_d=0.1)
    state, largest = start(recipe), list[float]()
    step = state.optimiser_d.step
    weights = list(state.gan.discriminator.parameters())
    assert max(weight.abs().max().item() for weight in weights) > 0.01  # algorithm 1 starts unclipped

    def spied() -> None:
        largest.append(max(weight.abs().max().item() for weight in weights))
        step()
        assert max(weight.abs().max().item() for weight in weights) > 0.05

    monkeypatch.setattr(state.optimiser_d, "step", spied)
    train_step(state, image_set(), LOSSES["wasserstein"], recipe, budget_of())
    assert largest[0] > 0.01 and largest[1:] == pytest.approx([0.01, 0.01])
    assert max(weight.abs().max().item() for weight in weights) == pytest.approx(0.01)
    assert max(weight.abs().max().item() for weight in state.gan.generator.parameters()) > 0.05  # G's are not


def test_ema_warm_up_by_hand() -> None:
    assert [ema_decay(0.9, True, step) for step in (0, 1, 8, 79, 80, 81, 10**6)] == pytest.approx(
        [0.1, 2 / 11, 0.5, 80 / 89, 0.9, 0.9, 0.9]
    )
    assert [ema_decay(0.9, False, step) for step in (0, 1, 80)] == [0.9] * 3
    recipe = recipe_of(ema_decay=0.15, ema_warmup=True)
    state, images = start(recipe), image_set()
    expected = copied(state.ema)
    for decay, _ in zip((0.1, 0.15), train(state, images, LOSSES["bce"], recipe, budget_of(steps=2)), strict=True):
        live = copied(state.gan.generator)
        expected = {name: decay * value + (1 - decay) * live[name] for name, value in expected.items()}
    for name, value in copied(state.ema).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_smoothed_labels_reach_the_step() -> None:
    recipe = recipe_of(label_smoothing=0.25)
    losses = [train_step(start(r), image_set(), LOSSES["bce"], r, budget_of()).tolist() for r in (recipe, recipe_of())]
    state = start(recipe)
    with torch.no_grad():
        real, labels = batch(image_set(), 0, 4, 0, True, True)
        mean = state.gan.discriminator(real, labels).mean().item()
    assert losses[0][0] - losses[1][0] == pytest.approx(0.25 * mean, abs=1e-6)
    assert abs(mean) > 1e-3


def test_the_penalty_is_taken_in_float32_under_the_same_normalised_weights() -> None:
    recipe, budget = recipe_of(**EVERYTHING | {"n_critic": 1}), budget_of(precision="bf16")
    state, seen = start(recipe, budget), list[tuple[torch.dtype, Tensor]]()
    layer = next(m for m in state.gan.discriminator.modules() if isinstance(m, nn.Conv2d))
    layer.register_forward_hook(lambda module, _, out: seen.append((out.dtype, module.weight)))
    train_step(state, image_set(), LOSSES["bce"], recipe, budget)
    assert [dtype for dtype, _ in seen] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16]
    assert seen[0][1] is seen[1][1] is seen[2][1]  # one power iteration for all of D's update
    assert seen[3][1] is not seen[0][1]


def test_gradient_penalty_holds_the_slope_of_a_wasserstein_critic() -> None:
    # D's slope on interpolates comes near 1 with the penalty, and leaves without it
    slopes = {}
    for penalty in ("gradient", "none"):
        recipe = recipe_of(loss="wasserstein", penalty=penalty, n_critic=40, lr_d=2e-3, lr_g=1e-9, beta1=0.0,
                           init="normal", dequantise=False)  # fmt: skip
        state, images = start(recipe), image_set(shape=SHAPE)
        train_step(state, images, LOSSES["wasserstein"], recipe, budget_of())
        real, labels = batch(images, 1000, 16, 0, True, False)
        with torch.no_grad():
            fake = state.gan.generator(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), labels)
        points = (real + fake).div(2).requires_grad_()
        (gradients,) = torch.autograd.grad(state.gan.discriminator(points, labels).sum(), points)
        slopes[penalty] = gradients.flatten(1).norm(dim=1).mean().item()
    assert slopes["gradient"] == pytest.approx(1, abs=0.3)
    assert slopes["none"] > 2 * slopes["gradient"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_options_that_are_off_change_no_bit(network: str, norm: str) -> None:
    """The step as it was before there were options, written out."""
    recipe = recipe_of(network=network, norm_d=norm, spectral_norm_g=norm == "spectral", loss="hinge")
    state, plain, images = start(recipe), start(recipe), image_set()
    g, d, loss = plain.gan.generator, plain.gan.discriminator, LOSSES["hinge"]
    for step in range(3):
        real, real_labels = batch(images, step, 4, 0, True, True)
        latents, labels = draw_inputs(recipe, images, 0, "d", step)
        with torch.no_grad():
            fake = g(latents, labels)
        with parametrize.cached():
            logits = d(real, real_labels), d(fake, labels)
        loss_d = loss.discriminator(*logits)
        plain.optimiser_d.zero_grad()
        loss_d.backward()
        plain.optimiser_d.step()
        latents, labels = draw_inputs(recipe, images, 0, "g", step)
        d.requires_grad_(False)
        loss_g = loss.generator(d(g(latents, labels), labels))
        d.requires_grad_(True)
        plain.optimiser_g.zero_grad()
        loss_g.backward()
        plain.optimiser_g.step()
        update_ema(plain.ema, g, 0.9)
        found = train_step(state, images, loss, recipe, budget_of())
        state.step += 1
        assert torch.equal(found, torch.stack([loss_d.detach(), loss_g.detach()]))
    assert equal(state.tensors(), plain.tensors())
