"""The training step and loop: devices, who changes whom, schedules, averages, reports, NaN, determinism."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from pipeline.core.errors import PipelineError
from pipeline.core.world import ALONE, World
from pipeline.data.batches import ImageSet
from pipeline.gan import step as training
from pipeline.gan.flow import loss_of
from pipeline.gan.losses import LOSSES, AdversarialLoss
from pipeline.gan.optimisers import OPTIMISERS, Optimiser
from pipeline.gan.penalties import PENALTIES, Penalty
from pipeline.gan.rates import update_ema
from pipeline.gan.step import TrainState, create_state, draw_inputs, train, train_step
from pipeline.models import GAN, NETWORKS
from pipeline.params import Recipe, load
from pipeline.sampling.images import sample
from tests.gan.states import copied, equal, run, start
from tests.networks import ADVERSARIAL
from tests.recipes import ROOT, SHAPE, image_set, tiny_budget, tiny_recipe


def pairs() -> Iterator[tuple[str, str, str]]:
    """Every network with every loss and every norm of D that `check` lets through."""
    for network in ADVERSARIAL:
        entry = NETWORKS[network]
        for loss, value in LOSSES.items():
            for norm in ("none", "batch", "spectral"):
                possible = {"none": True, "batch": entry.batch_norm_d, "spectral": entry.spectral}[norm]
                if possible and (norm == "spectral" or not value.needs_lipschitz):
                    yield network, loss, norm


VALUES = load(ROOT / "params.yaml")


@pytest.mark.parametrize("name", VALUES.models)
def test_every_recipe_takes_a_step_on_the_meta_device(name: str) -> None:
    # Meta tensors have shapes and no numbers: a tensor left on the CPU, or a wait for a number, fails at once.
    recipe = VALUES.models[name].model_copy(update={"width_g": 8, "width_d": 8, "batch_size": 8})
    state = create_state(recipe, VALUES.train, SHAPE, 3, 0, torch.device("meta"))
    curves = train_step(state, image_set(device="meta"), loss_of(recipe), recipe, VALUES.train)
    assert (curves.shape, curves.dtype) == ((len(state.names),), torch.float32)
    assert state.names[:2] == (("loss/g",) if name == "flow" else ("loss/d", "loss/g"))
    assert {tensor.device.type for name, tensor in state.tensors().items() if not name.endswith(".step")} == {"meta"}


@pytest.mark.parametrize(("network", "loss", "norm"), list(pairs()))
@pytest.mark.slow
def test_every_pair_takes_a_step_on_the_meta_device(network: str, loss: str, norm: str) -> None:
    recipe = tiny_recipe(
        network=network, loss=loss, norm_d=norm, spectral_norm_g=norm == "spectral" and loss == "hinge"
    )
    state = start(recipe, device="meta")
    assert train_step(state, image_set(device="meta"), LOSSES[loss], recipe, tiny_budget()).device.type == "meta"


@pytest.mark.parametrize(("network", "loss", "norm"), list(pairs()))
@pytest.mark.slow
def test_every_pair_trains_on_the_cpu(network: str, loss: str, norm: str) -> None:
    recipe = tiny_recipe(network=network, loss=loss, norm_d=norm, init="normal")
    state, reports = run(recipe, tiny_budget(steps=2))
    assert all(math.isfinite(value) for value in reports[-1].losses.values())
    # Against an untrained D every pair starts from D's loss of undecided logits.
    undecided = {"bce": 2 * math.log(2), "bce_saturating": 2 * math.log(2), "hinge": 2.0, "wasserstein": 0.0,
                 "least_squares": 0.5, "rpgan": math.log(2), "ragan": math.log(2)}[loss]  # fmt: skip
    if norm == "none" and NETWORKS[network].spectral and network != "projected":  # those start with small weights
        assert reports[-1].losses["loss/d"] == pytest.approx(undecided, abs=0.3)
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors().values())


# One step by hand: an image is one number x, G(z) = w z_0 and D(x) = v x, both trained by plain gradient descent.


class Scale(nn.Module):
    """Its first input times one weight, as an image (N, 1, 1, 1) or as logits (N,)."""

    def __init__(self, weight: float, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.shape = nn.Parameter(torch.tensor(weight)), shape

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return (self.weight * inputs.flatten(1)[:, 0]).view(-1, *self.shape)


def gradient_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(parameters: list[nn.Parameter], beta1: float, beta2: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.0)

    monkeypatch.setitem(OPTIMISERS, "descent", Optimiser(build, lambda group, beta1, beta2: None))


def scales(recipe: Recipe, v: float, w: float) -> TrainState:
    """A state of the two networks, at the learning rates that the recipe asks for."""
    state = start(recipe)
    state.gan = GAN(Scale(w, (1, 1, 1)), Scale(v, ()))
    state.ema = Scale(w, (1, 1, 1)).requires_grad_(False)
    state.optimiser_g = torch.optim.SGD(state.gan.generator.parameters(), lr=0.0)
    state.optimiser_d = torch.optim.SGD(state.gan.discriminator.parameters(), lr=0.0)
    return state


@pytest.mark.parametrize("n_critic", [1, 3])
@pytest.mark.parametrize("penalised", [False, True])
@pytest.mark.parametrize("reused", [False, True])
def test_two_steps_by_hand(n_critic: int, penalised: bool, reused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient_descent(monkeypatch)
    square = Penalty(lambda update: next(update.discriminator.parameters()).square().sum())  # type: ignore[attr-defined]
    monkeypatch.setitem(PENALTIES, "square", square)
    recipe = tiny_recipe(
        loss="hinge", optimiser="descent", lr_d=0.25, lr_g=0.5, lr_decay="linear", n_critic=n_critic, flip=False,
        dequantise=False, ema_decay=0.75, penalty="square" if penalised else "none", penalty_weight=0.5,
        reuse_fakes=reused,
    )  # fmt: skip
    images = ImageSet(torch.full((8, 1, 1, 1), 204, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), 3)
    x, v, w, average = 204 / 127.5 - 1, 0.5, 2.0, 2.0  # x = 0.6
    state, lam = scales(recipe, v, w), 0.5 if penalised else 0.0
    for step, reports in enumerate(train(state, images, LOSSES["hinge"], recipe, tiny_budget(steps=2))):
        decay = 1 - step / 2
        for index in range(step * n_critic, (step + 1) * n_critic):
            latents = draw_inputs(recipe, images, 0, "d", index)[0][:, 0].tolist()
            fakes = [w * z for z in latents]
            loss_d = max(0, 1 - v * x) + sum(max(0, 1 + v * fake) for fake in fakes) / 4
            penalty = lam * v * v
            slope = -x * (v * x < 1) + sum(fake * (v * fake > -1) for fake in fakes) / 4 + lam * 2 * v
            v -= 0.25 * decay * slope
        if not reused:  # else the latents are those of D's last update
            latents = draw_inputs(recipe, images, 0, "g", step)[0][:, 0].tolist()
        loss_g = -sum(v * w * z for z in latents) / 4
        w -= 0.5 * decay * -sum(v * z for z in latents) / 4
        average = 0.75 * average + 0.25 * w
        curves = dict(zip(state.names, state.losses[step].tolist(), strict=True))
        expected = {"loss/d": loss_d, "loss/g": loss_g} | ({"penalty/square": penalty} if penalised else {})
        assert curves == pytest.approx(expected, abs=1e-6)  # the penalty stands apart from D's loss
        assert state.gan.discriminator.weight.item() == pytest.approx(v, abs=1e-6)
        assert state.gan.generator.weight.item() == pytest.approx(w, abs=1e-6)
        assert state.ema is not None and state.ema.weight.item() == pytest.approx(average, abs=1e-6)
        assert reports.step == step + 1


@pytest.mark.parametrize("network", ADVERSARIAL)
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_training_changes_every_parameter(network: str, norm: str) -> None:
    # Two steps: attention is the identity at first, and its weights get no gradient before gamma has moved.
    recipe = tiny_recipe(network=network, norm_d=norm, spectral_norm_g=norm == "spectral")
    state = start(recipe)
    before = copied(state.gan.generator), copied(state.gan.discriminator), copied(state.ema)
    for _ in train(state, image_set(), LOSSES["bce"], recipe, tiny_budget(steps=2)):
        pass
    after = copied(state.gan.generator), copied(state.gan.discriminator), copied(state.ema)
    for old, new in zip(before, after, strict=True):
        assert len(old) >= 3
        assert [name for name in old if torch.equal(old[name], new[name])] == []


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_each_update_changes_its_own_network_alone(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(network=network, norm_d="spectral", n_critic=3)
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
    train_step(state, image_set(), LOSSES["bce"], recipe, tiny_budget())
    assert events == ["d", "d", "d", "g"]
    assert all(torch.equal(a, b) for a, b in zip(last, gradients, strict=True))  # G's backward added nothing to D's
    for part in networks.values():
        assert all(parameter.requires_grad for parameter in part.parameters())
    assert not any(parameter.requires_grad for parameter in state.ema.parameters())


def test_critic_updates_count_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, budget = tiny_recipe(n_critic=3), tiny_budget(steps=3)
    batches, draws = list[int](), list[tuple[str, int]]()
    take, draw = training.batch, training.draw_inputs

    def spied_batch(images: ImageSet, index: int, *rest: Any) -> Any:
        batches.append(index)
        assert rest == (recipe.batch_size, 7, recipe.flip, recipe.dequantise, ALONE)
        return take(images, index, *rest)

    def spied_draw(recipe: Recipe, images: ImageSet, seed: int, stream: str, index: int, world: World) -> Any:
        draws.append((stream, index))
        assert (seed, world) == (7, ALONE)
        return draw(recipe, images, seed, stream, index)

    monkeypatch.setattr(training, "batch", spied_batch)
    monkeypatch.setattr(training, "draw_inputs", spied_draw)
    state = start(recipe, budget, seed=7)
    state.step = 1  # as after a resume
    list(train(state, image_set(), LOSSES["bce"], recipe, budget))
    assert batches == [3, 4, 5, 6, 7, 8]
    assert draws == [*(("d", i) for i in (3, 4, 5)), ("g", 1), *(("d", i) for i in (6, 7, 8)), ("g", 2)]


def test_inputs_are_named_draws() -> None:
    recipe, images = tiny_recipe(batch_size=4096, latent_dim=8), image_set()
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
    drawn = draw_inputs(tiny_recipe(batch_size=n), images, 0, "d", 0)[1]
    found = torch.bincount(drawn, minlength=3)
    assert len(found) == 3
    for count, times in zip(counts, found.tolist(), strict=True):
        share = count / 24
        assert times / n == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))
    halves = [half.float().mean().item() for half in drawn.chunk(2)]
    assert halves[0] == pytest.approx(halves[1], abs=0.1)  # in no order


def test_fakes_of_unlabelled_data_have_label_0() -> None:
    images = ImageSet(image_set().images, torch.zeros(24, dtype=torch.int64), 0)
    assert draw_inputs(tiny_recipe(batch_size=64), images, 0, "g", 5)[1].tolist() == [0] * 64


@pytest.mark.parametrize(("decay", "factors"), [("linear", [1, 0.75, 0.5, 0.25]), ("none", [1, 1, 1, 1])])
def test_learning_rates(decay: str, factors: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, seen = tiny_recipe(lr_g=2e-4, lr_d=8e-4, lr_decay=decay), []
    state = start(recipe)
    for optimiser in (state.optimiser_d, state.optimiser_g):
        step = optimiser.step
        monkeypatch.setattr(
            optimiser, "step", lambda o=optimiser, s=step: (seen.extend(g["lr"] for g in o.param_groups), s())
        )
    list(train(state, image_set(), LOSSES["bce"], recipe, tiny_budget(steps=4)))
    assert seen[0::2] == pytest.approx([8e-4 * factor for factor in factors], rel=1e-9)
    assert seen[1::2] == pytest.approx([2e-4 * factor for factor in factors], rel=1e-9)


def test_optimisers_start_like_plain_adam() -> None:
    # create_state takes a step that changes nothing; the bias correction must not have noticed.
    recipe = tiny_recipe(beta1=0.5, beta2=0.9)
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


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_training_averages_the_generator(network: str) -> None:
    recipe = tiny_recipe(network=network, ema_decay=0.75, spectral_norm_g=True)
    state, images = start(recipe), image_set()
    assert equal(copied(state.ema), copied(state.gan.generator))
    expected = copied(state.ema)
    for _ in train(state, images, LOSSES["bce"], recipe, tiny_budget(steps=2)):
        live = copied(state.gan.generator)
        expected = {name: 0.75 * value + 0.25 * live[name] for name, value in expected.items()}
    for name, value in copied(state.ema).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)
    assert not equal(copied(state.ema), copied(state.gan.generator))
    assert start(tiny_recipe(ema_decay=None)).ema is None


def test_reports_are_means_of_their_own_steps() -> None:
    recipe, budget = tiny_recipe(norm_d="batch", n_critic=2), tiny_budget(steps=7, report_every=3)
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
    recipe, budget, done = tiny_recipe(), tiny_budget(steps=10, report_every=4), 0
    state = start(recipe, budget)
    with pytest.raises(PipelineError, match=rf"^the loss of {part} is {text} at step {at}: lower lr_g and lr_d"):
        for report in train(state, image_set(), broken(part, at, value), recipe, budget):
            done = report.step
    assert (done, state.step) == (noticed - 1, noticed)


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_bf16_computes_in_bf16_and_keeps_float32_weights(network: str) -> None:
    recipe, dtypes = tiny_recipe(network=network, norm_d="spectral"), set()
    state, plain = start(recipe), start(recipe)
    for part in (state.gan.generator, state.gan.discriminator):
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.register_forward_hook(lambda m, _, out: dtypes.add(out.dtype))
    before = copied(state.gan.generator)
    losses = train_step(state, image_set(), LOSSES["bce"], recipe, tiny_budget(precision="bf16"))
    expected = train_step(plain, image_set(), LOSSES["bce"], recipe, tiny_budget())
    assert dtypes == {torch.bfloat16}
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0.05)
    assert {t.dtype for t in state.tensors().values()} <= {torch.float32, torch.int64}
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors().values())
    assert not equal(before, copied(state.gan.generator))


def test_precision_reaches_the_step() -> None:
    _, full = run(tiny_recipe(), tiny_budget(steps=2, precision="fp32"))
    _, half = run(tiny_recipe(), tiny_budget(steps=2, precision="bf16"))
    assert half[-1].losses != full[-1].losses
    assert half[-1].losses["loss/d"] == pytest.approx(full[-1].losses["loss/d"], abs=0.05)


@pytest.mark.parametrize("network", ADVERSARIAL)
def test_same_seed_same_bits(network: str) -> None:
    recipe, budget = tiny_recipe(network=network, norm_d="spectral", spectral_norm_g=True), tiny_budget(steps=3)
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
    recipe = tiny_recipe(network="resnet", norm_d="none")
    for flag in (True, False):
        state = start(recipe, tiny_budget(channels_last=flag))
        for part in (state.gan.generator, state.gan.discriminator, state.ema):
            weights = [p for p in part.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
            assert len(weights) >= 3
            assert all(p.is_contiguous(memory_format=torch.channels_last) == flag for p in weights)
    _, last = run(recipe, tiny_budget(steps=2, channels_last=True))
    _, first = run(recipe, tiny_budget(steps=2, channels_last=False))
    assert last[-1].losses == pytest.approx(first[-1].losses, abs=1e-3)


def test_the_state_names_every_tensor_once_and_live() -> None:
    state = start(tiny_recipe(norm_d="batch"))
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
    recipe = tiny_recipe(width_g=8, width_d=8, latent_dim=8, init="normal", batch_size=16, lr_g=2e-3, lr_d=2e-3,
                       norm_d="spectral", loss="hinge", ema_decay=None)  # fmt: skip
    budget = tiny_budget(steps=60, report_every=60)
    state = start(recipe, budget)

    def mean() -> float:
        return torch.cat(list(sample(state.gan.generator, torch.arange(32) % 3, 0, 32, 8))).float().mean().item()

    assert mean() == pytest.approx(128, abs=15)
    for _ in train(state, ImageSet(images, torch.zeros(64, dtype=torch.int64), 3), LOSSES["hinge"], recipe, budget):
        pass
    assert mean() == pytest.approx(images.float().mean().item(), abs=40)


def test_a_checkpoint_with_a_weight_that_is_not_finite_is_refused() -> None:
    state = start(tiny_recipe())
    state.step = 3
    training.require_finite(state)
    weight = next(state.gan.discriminator.parameters())
    with torch.no_grad():
        weight.view(-1)[0] = float("inf")
    with pytest.raises(PipelineError, match=r"^d\..* is not finite at step 3: lower lr_g"):
        training.require_finite(state)
