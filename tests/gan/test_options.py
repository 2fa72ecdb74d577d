"""The options of a recipe, each in a training step: penalties, augmentation, noise, clipping, averages, labels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import check
from pipeline.core.randomness import rng
from pipeline.core.world import World
from pipeline.data.batches import batch
from pipeline.experiment import code_version
from pipeline.gan import step as training
from pipeline.gan.augment import AUGMENTATIONS, augment_for_discriminator
from pipeline.gan.losses import LOSSES, AdversarialLoss
from pipeline.gan.optimisers import OPTIMISERS
from pipeline.gan.penalties import PENALTIES, Penalty, Update
from pipeline.gan.rates import ema_decay
from pipeline.gan.step import train, train_step
from tests.gan.states import copied, equal, run, start
from tests.networks import ADVERSARIAL
from tests.recipes import SHAPE, image_set, tiny_budget, tiny_params, tiny_recipe

EVERYTHING = {"loss": "bce", "label_smoothing": 0.1, "penalty": "gradient", "penalty_weight": 2.0, "norm_d": "spectral",
              "augment": list(AUGMENTATIONS), "instance_noise": 0.2, "ema_warmup": True, "n_critic": 2}  # fmt: skip
WITHOUT_STYLES = [name for name, entry in PENALTIES.items() if not entry.needs_styles]
OPTIONS: dict[str, dict[str, Any]] = {
    "smoothed labels": {"label_smoothing": 0.1},
    **{f"penalty {name}": {"penalty": name} for name in WITHOUT_STYLES if name != "none"},
    "clip": {"clip": 0.01},
    **{f"optimiser {name}": {"optimiser": name} for name in OPTIMISERS if name != "adam"},
    **{f"augment {name}": {"augment": [name]} for name, entry in AUGMENTATIONS.items() if entry.adapt is None},
    "noise": {"instance_noise": 0.2},
    "warm-up": {"ema_warmup": True},
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_option_trains_and_repeats_bit_for_bit(option: str, precision: str) -> None:
    recipe, budget = tiny_recipe(**OPTIONS[option]), tiny_budget(steps=3, precision=precision)
    torch.manual_seed(1)
    state, reports = run(recipe, budget)
    torch.manual_seed(2)
    again, repeated = run(recipe, budget)
    plain, _ = run(tiny_recipe(), budget)
    assert reports == repeated
    assert equal(state.tensors(), again.tensors())
    assert not equal(copied(state.ema), copied(plain.ema))  # it changes something
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors().values())
    assert {t.dtype for t in state.tensors().values()} <= {torch.float32, torch.int64}


# Every network with those that differentiate it twice, and every penalty with two networks.
PAIRS = [
    (network, penalty)
    for network in ADVERSARIAL
    for penalty in WITHOUT_STYLES
    if penalty == "r1_r2" or (penalty == "gradient" and network != "projected") or network in ("dcgan", "projection")
]


@pytest.mark.parametrize(("network", "penalty"), PAIRS)
@pytest.mark.parametrize("norm", ["none", "spectral"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.slow
def test_every_penalty_goes_through_every_network(network: str, penalty: str, norm: str, device: str) -> None:
    changes = {"network": network, "penalty": penalty, "penalty_weight": 5.0, "norm_d": norm}
    for precision in ("fp32",) if device == "meta" else ("fp32", "bf16"):  # there is no autocast on meta
        recipe, budget = tiny_recipe(**EVERYTHING | changes), tiny_budget(precision=precision)
        state = start(recipe, budget, device=device)
        before = copied(state.gan.discriminator)
        losses = train_step(state, image_set(device=device), LOSSES["bce"], recipe, budget)
        assert (losses.dtype, losses.device.type) == (torch.float32, device)
        if device == "cpu":
            assert losses.isfinite().all()
            assert not equal(before, copied(state.gan.discriminator))


def test_a_toy_loss_and_a_toy_penalty_are_one_entry_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        return (fake - real).mean().square()

    def generator(fake: Tensor) -> Tensor:
        return fake.square().mean()

    def logits(update: Update) -> Tensor:
        assert update.real_logits is not None
        return update.real_logits.square().mean()

    monkeypatch.setitem(LOSSES, "toy", AdversarialLoss(discriminator, generator))
    monkeypatch.setitem(PENALTIES, "toy", Penalty(logits))
    recipe = tiny_recipe(loss="toy", penalty="toy", penalty_weight=2.0)
    assert list(check.problems(tiny_params(dcgan={"loss": "toy", "penalty": "toy"}))) == []
    state = start(recipe)
    with torch.no_grad():
        (real, labels), (latents, fake_labels) = (
            batch(image_set(), 0, 4, 0, True, True), training.draw_inputs(recipe, image_set(), 0, "d", 0)
        )  # fmt: skip
        d, g = state.gan.discriminator, state.gan.generator
        of_real, of_fake = d(real, labels), d(g(latents, fake_labels), fake_labels)
    curves = dict(zip(state.names, train_step(state, image_set(), LOSSES["toy"], recipe, tiny_budget()), strict=True))
    assert curves["loss/d"].item() == pytest.approx((of_fake - of_real).mean().item() ** 2, abs=1e-6)
    assert curves["penalty/toy"].item() == pytest.approx(2 * of_real.square().mean().item(), abs=1e-6)
    assert code_version(tiny_recipe(loss="toy"), "inception") != code_version(tiny_recipe(), "inception")


def test_the_penalty_draws_by_name_and_sees_what_d_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Update, Tensor]] = []

    def spy(update: Update) -> Tensor:
        assert update.discriminator is state.gan.discriminator and update.generator is state.gan.generator
        seen.append((update, update.draws.rand(3)))
        return update.fake.new_zeros(())

    monkeypatch.setitem(PENALTIES, "toy", Penalty(spy))
    recipe = tiny_recipe(penalty="toy", n_critic=2, augment=["cutout"], augment_strength=0.5, instance_noise=0.4)
    budget = tiny_budget(steps=4)
    state = start(recipe, budget, seed=7)
    state.step = 3
    calls: list[tuple[Tensor, Tensor]] = []
    state.gan.discriminator.register_forward_hook(lambda _, given, logits: calls.append((given[0], logits.detach())))
    train_step(state, image_set(), LOSSES["bce"], recipe, budget)
    assert len(seen) == 2 and len(calls) == 3  # real and fake in one batch twice, then G's
    noise = 0.4 * (1 - 3 / 4)
    for index, (update, drawn) in zip((6, 7), seen, strict=True):
        plain, labels = batch(image_set(), index, 4, 7, True, True)
        latents, fake_labels = training.draw_inputs(recipe, image_set(), 7, "d", index)
        assert update.real_images is not None and update.fake_images is not None
        assert torch.equal(update.real_images, plain) and torch.equal(update.real_labels, labels)
        assert torch.equal(update.latents, latents) and torch.equal(update.fake_labels, fake_labels)
        for stream, before, after in (("real", plain, update.real), ("fake", update.fake_images, update.fake)):
            shown = augment_for_discriminator(before, {"cutout": 0.5}, noise, 7, stream, index)
            assert torch.equal(after, shown) and torch.equal(update.show(before, stream), shown)
        assert torch.equal(drawn, torch.rand(3, generator=rng("cpu", 7, "penalty", index)))
        given, said = calls.pop(0)
        assert torch.equal(given, torch.cat([update.real, update.fake]))
        assert torch.equal(said, torch.cat([update.real_logits, update.fake_logits]))


def test_d_sees_shown_images_in_its_updates_and_in_gs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def spied(images: Tensor, strengths: Any, noise: float, seed: int, stream: str, index: int, _: World) -> Tensor:
        calls.append((strengths, pytest.approx(noise), seed, stream, index, images.requires_grad))
        return torch.full_like(images, 0.5) + 0 * images

    monkeypatch.setattr(training, "augment_for_discriminator", spied)
    recipe, budget = tiny_recipe(n_critic=2, augment=["colour"], instance_noise=0.4), tiny_budget(steps=4)
    state, inputs = start(recipe, budget, seed=7), list[Tensor]()
    state.step = 1
    state.gan.discriminator.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    train_step(state, image_set(), LOSSES["bce"], recipe, budget)
    common = ({"colour": 1.0}, 0.3, 7)  # noise: 0.4 * (1 - 1 / 4)
    places = [("real", 2, False), ("fake", 2, False), ("real", 3, False), ("fake", 3, False), ("g", 1, True)]
    assert calls == [(*common, *place) for place in places]
    assert [len(images) for images in inputs] == [8, 8, 4] and all((images == 0.5).all() for images in inputs)


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"norm_d": "spectral"}, True),
        ({"norm_d": "none"}, True),
        ({"norm_d": "batch"}, False),
        ({"norm_d": "none", "pack": 2}, False),
        ({"network": "stylegan2", "norm_d": "none", "minibatch_std": 2}, False),
    ],
)
def test_real_and_fake_images_pass_d_together_unless_it_would_mix_them(changes: Any, together: bool) -> None:
    state, sizes = start(tiny_recipe(**changes)), list[int]()
    state.gan.discriminator.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    train_step(state, image_set(), LOSSES["bce"], tiny_recipe(**changes), tiny_budget())
    assert sizes == [8, 4] if together else [4, 4, 4]


@pytest.mark.parametrize("loss", ["hinge", "rpgan"])
def test_together_they_have_the_gradients_that_they_have_apart(monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    recipe, gradients = tiny_recipe(loss=loss, norm_d="spectral", penalty="r1"), []
    for mixes in (False, True):
        monkeypatch.setattr(training, "mixes_images", lambda _, mixes=mixes: mixes)
        state = start(recipe)
        curves = train_step(state, image_set(), LOSSES[loss], recipe, tiny_budget())
        gradients.append([curves, *(weight.grad for weight in state.gan.discriminator.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
        assert one.abs().max() > 0


def test_instance_noise_falls_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spied(images: Tensor, strengths: Any, noise: float, seed: int, stream: str, index: int, _: World) -> Tensor:
        seen.append(noise)
        return images

    monkeypatch.setattr(training, "augment_for_discriminator", spied)
    run(tiny_recipe(instance_noise=2.0), tiny_budget(steps=4))
    assert seen == pytest.approx([2.0] * 3 + [1.5] * 3 + [1.0] * 3 + [0.5] * 3)


def test_weights_are_clipped_after_each_update_of_d(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(loss="wasserstein", clip=0.01, n_critic=3, optimiser="rmsprop", beta1=0.0, lr_d=0.1)
    state, largest = start(recipe), list[float]()
    step = state.optimiser_d.step
    weights = list(state.gan.discriminator.parameters())
    assert max(weight.abs().max().item() for weight in weights) > 0.01  # algorithm 1 starts unclipped

    def spied() -> None:
        largest.append(max(weight.abs().max().item() for weight in weights))
        step()
        assert max(weight.abs().max().item() for weight in weights) > 0.05

    monkeypatch.setattr(state.optimiser_d, "step", spied)
    train_step(state, image_set(), LOSSES["wasserstein"], recipe, tiny_budget())
    assert largest[0] > 0.01 and largest[1:] == pytest.approx([0.01, 0.01])
    assert max(weight.abs().max().item() for weight in weights) == pytest.approx(0.01)
    assert max(weight.abs().max().item() for weight in state.gan.generator.parameters()) > 0.05  # G's are not


def test_ema_warm_up_by_hand() -> None:
    assert [ema_decay(0.9, True, step) for step in (0, 1, 8, 79, 80, 81, 10**6)] == pytest.approx(
        [0.1, 2 / 11, 0.5, 80 / 89, 0.9, 0.9, 0.9]
    )
    assert [ema_decay(0.9, False, step) for step in (0, 1, 80)] == [0.9] * 3
    recipe = tiny_recipe(ema_decay=0.15, ema_warmup=True)
    state, images = start(recipe), image_set()
    expected = copied(state.ema)
    for decay, _ in zip((0.1, 0.15), train(state, images, LOSSES["bce"], recipe, tiny_budget(steps=2)), strict=True):
        live = copied(state.gan.generator)
        expected = {name: decay * value + (1 - decay) * live[name] for name, value in expected.items()}
    for name, value in copied(state.ema).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_smoothed_labels_reach_the_step() -> None:
    recipe = tiny_recipe(label_smoothing=0.25)
    losses = [
        train_step(start(r), image_set(), LOSSES["bce"], r, tiny_budget()).tolist() for r in (recipe, tiny_recipe())
    ]
    state = start(recipe)
    with torch.no_grad():
        real, labels = batch(image_set(), 0, 4, 0, True, True)
        mean = state.gan.discriminator(real, labels).mean().item()
    assert losses[0][0] - losses[1][0] == pytest.approx(0.25 * mean, abs=1e-6)
    assert abs(mean) > 1e-3


def test_the_penalty_is_taken_in_float32_under_the_same_normalised_weights() -> None:
    recipe, budget = tiny_recipe(**EVERYTHING | {"n_critic": 1}), tiny_budget(precision="bf16")
    state, seen = start(recipe, budget), list[tuple[torch.dtype, Tensor]]()
    layer = next(m for m in state.gan.discriminator.modules() if isinstance(m, nn.Conv2d))
    layer.register_forward_hook(lambda module, _, out: seen.append((out.dtype, module.weight)))
    train_step(state, image_set(), LOSSES["bce"], recipe, budget)
    assert [dtype for dtype, _ in seen] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert seen[0][1] is seen[1][1]  # one power iteration for all of D's update
    assert seen[2][1] is not seen[0][1]


def test_the_gradient_penalty_holds_the_input_gradient_of_a_wasserstein_critic() -> None:
    # the norm of D's gradient on interpolates comes near 1 with the penalty, and leaves without it
    norms = {}
    for penalty in ("gradient", "none"):
        recipe = tiny_recipe(loss="wasserstein", penalty=penalty, n_critic=40, lr_d=2e-3, lr_g=1e-9, beta1=0.0,
                           init="normal", dequantise=False)  # fmt: skip
        state, images = start(recipe), image_set(shape=SHAPE)
        train_step(state, images, LOSSES["wasserstein"], recipe, tiny_budget())
        real, labels = batch(images, 1000, 16, 0, True, False)
        with torch.no_grad():
            fake = state.gan.generator(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), labels)
        points = (real + fake).div(2).requires_grad_()
        (gradients,) = torch.autograd.grad(state.gan.discriminator(points, labels).sum(), points)
        norms[penalty] = gradients.flatten(1).norm(dim=1).mean().item()
    assert norms["gradient"] == pytest.approx(1, abs=0.3)
    assert norms["none"] > 2 * norms["gradient"]
