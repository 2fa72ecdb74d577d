"""`train.accumulate`: a batch in parts gives the gradients of the whole batch, in less memory."""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline import check
from pipeline.core.errors import PipelineError
from pipeline.gan.flow import loss_of
from pipeline.gan.losses import LOSSES
from pipeline.gan.penalties import PENALTIES, Penalty
from pipeline.gan.step import TrainState, train, train_step
from pipeline.params import Recipe
from tests.gan.states import bits, equal, start
from tests.recipes import FLOW, image_set, tiny_budget, tiny_params, tiny_recipe

SHOWN = {"augment": ["translation", "colour", "cutout"], "augment_strength": 0.5, "instance_noise": 0.3}
RECIPES: dict[str, dict[str, Any]] = {
    "spectral": {"network": "resnet", "norm_d": "spectral", "spectral_norm_g": True, "loss": "hinge", "n_critic": 2},
    "wgan_gp": {"network": "cnn", "loss": "wasserstein", "penalty": "gradient", "penalty_weight": 10.0, "n_critic": 2},
    "r3gan": {"network": "r3gan", "loss": "rpgan", "penalty": "r1_r2", **SHOWN},
    "stylegan2": {"network": "stylegan2", "penalty": "r1", "penalty_every": 2, "minibatch_std": 2, "augment": ["ada"]},
    "consistent": {"network": "projection", "regularisers": {"bcr": 1.0, "zcr": 1.0, "zcr_g": 0.5}, **SHOWN},
    "packed": {"network": "cnn", "loss": "least_squares", "pack": 2, "clip": 0.1, "optimiser": "rmsprop"},
    "spread of packs": {"network": "stylegan2", "pack": 2, "minibatch_std": 2, "batch_size": 16},
    "flow": FLOW,
}


def recipe_of(name: str, **changes: Any) -> Recipe:
    return tiny_recipe(**{"batch_size": 8, **RECIPES[name], **changes})


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All in float64, so that only a mistake makes a large difference."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def without_batch_norm(state: TrainState) -> TrainState:
    for network in (state.gan.generator, state.ema):
        assert network is not None
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
    return state


def trained(recipe: Recipe, accumulate: int) -> dict[str, Tensor]:
    budget = tiny_budget(steps=2, accumulate=accumulate)
    state = without_batch_norm(start(recipe, budget))
    for _ in train(state, image_set(), loss_of(recipe), recipe, budget):
        pass
    return bits(state)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", RECIPES)
def test_parts_train_what_the_batch_does(name: str) -> None:
    recipe = recipe_of(name)
    whole = trained(recipe, 1)
    for accumulate in (2, 4):
        parts = trained(recipe, accumulate)
        assert whole.keys() == parts.keys()
        for key, value in whole.items():  # weights, optimisers, averages, curves, what an augmentation keeps
            assert (value - parts[key]).abs().max() < 1e-10, (accumulate, key)


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that were made here and still live."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.sizes:
                storage = tensor.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return made


def peak(recipe: Recipe, accumulate: int) -> int:
    budget = tiny_budget(accumulate=accumulate)
    state = start(recipe, budget)
    with Live() as live:
        train_step(state, image_set(32), loss_of(recipe), recipe, budget)
    return live.peak


@pytest.mark.parametrize("name", ["spectral", "wgan_gp", "r3gan", "flow"])
def test_a_part_is_what_memory_holds(name: str) -> None:
    recipe = recipe_of(name, batch_size=32, n_critic=1)
    assert 0.25 < peak(recipe, 4) / peak(recipe, 1) < 0.35


def test_batch_norm_sees_a_part() -> None:
    recipe, seen = recipe_of("packed", network="dcgan", pack=1, clip=None), []
    for accumulate in (1, 2, 4):
        budget = tiny_budget(accumulate=accumulate)
        state = start(recipe, budget)
        norm = next(one for one in state.gan.generator.modules() if isinstance(one, nn.BatchNorm2d))
        norm.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        train_step(state, image_set(), LOSSES["bce"], recipe, budget)
        assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 2 * accumulate
    assert seen == [8, 8, *[4] * 4, *[2] * 8]  # in D's update and in G's


def test_a_training_that_goes_on_has_the_bits_of_one_that_never_stopped() -> None:
    recipe, budget = recipe_of("stylegan2"), tiny_budget(accumulate=2)
    state, again = start(recipe, budget), start(recipe, budget)
    stopped = {}
    for report in train(state, image_set(), LOSSES["bce"], recipe, budget):
        if report.step == 2:
            stopped = bits(state)
    for name, tensor in again.tensors().items():
        tensor.detach().copy_(stopped[name])
    again.step = 2
    for _ in train(again, image_set(), LOSSES["bce"], recipe, budget):
        pass
    assert equal(bits(state), bits(again)) and not equal(bits(state), stopped)


def test_nothing_waits_for_the_device() -> None:
    for name in ("r3gan", "flow"):
        recipe, budget = recipe_of(name), tiny_budget(accumulate=2)
        state = start(recipe, budget, device="meta")
        curves = train_step(state, image_set(device="meta"), loss_of(recipe), recipe, budget)
        assert curves.shape == (len(state.names),) and curves.device.type == "meta"


def test_it_is_another_experiment_unless_it_is_1() -> None:
    assert "accumulate" not in tiny_budget(accumulate=1).effective()
    assert tiny_budget(accumulate=2).effective()["accumulate"] == 2


ABOVE = "with train.accumulate above 1 (or set that to 1)"


@pytest.mark.parametrize(
    ("changes", "accumulate", "sentence"),
    [
        ({"loss": "ragan"}, 2, f"loss: must not be ragan {ABOVE}, since it compares each logit with the whole batch"),
        ({"top_k": 0.5}, 2, f"top_k: must be 1 {ABOVE}, since it chooses among the whole batch"),
        (
            {"reuse_fakes": True},
            2,
            f"reuse_fakes: must be false {ABOVE}, since it keeps what all fakes need for their gradient",
        ),
        ({"penalty": "dragan"}, 2, f"penalty: must not be dragan {ABOVE}, since it measures the whole batch"),
        (
            {"regularisers": {"bcr": 1.0, "lecam": 0.3}},
            2,
            f"regularisers: must not hold lecam {ABOVE}, since it measures the whole batch",
        ),
        ({}, 3, "train.accumulate: in models.dcgan, 8 images cannot be shared evenly by 3 micro-batches, only by 1, 2, "
         "4, 8"),
        ({"pack": 4}, 4, "train.accumulate: in models.dcgan, 8 images in groups of 4 cannot be shared evenly by 4 "
         "micro-batches, only by 1, 2"),
        ({}, 8, "train.accumulate: must be at most half of models.dcgan.batch_size, 8, got 8"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_in_parts_is_refused(changes: dict[str, Any], accumulate: int, sentence: str) -> None:
    def problems(accumulate: int) -> list[str]:
        model = {"batch_size": 8, **changes}
        return list(check.problems(tiny_params({"train.accumulate": accumulate}, dcgan=model)))

    assert problems(1) == []
    assert problems(accumulate) == [sentence if sentence.startswith("train.") else f"models.dcgan.{sentence}"]


def test_ranks_and_parts_share_a_batch() -> None:
    params = tiny_params({"train.accumulate": 2, "runtime.devices": 8}, dcgan={"batch_size": 8})
    rule = "8 images in groups of 2 cannot be shared evenly by 8 devices, only by 1, 2, 4"
    assert list(check.problems(params)) == [f"models.dcgan.batch_size: {rule}"]


# The flags of the registries, held against what their entries do.


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_the_whole_batch_says_so(name: str) -> None:
    loss, source = LOSSES[name], torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 8, generator=source, dtype=torch.float64)
    for side, whole in (
        (loss.discriminator, (real, fake)),
        (loss.generator, (fake, real) if loss.paired else (fake,)),
    ):
        parts = [side(*(logits[first::2] for logits in whole)) for first in (0, 1)]
        same = abs((sum(parts) / 2 - side(*whole)).item()) < 1e-12
        assert same is not loss.whole_batch


@pytest.mark.parametrize("name", [name for name, entry in PENALTIES.items() if entry.value])
def test_a_penalty_of_the_whole_batch_says_so(name: str) -> None:
    network = {"network": "stylegan2"} if PENALTIES[name].needs_styles else {}
    recipe, budget = tiny_recipe(penalty=name, batch_size=8, **network), tiny_budget(accumulate=2)
    state = start(recipe, budget)
    if PENALTIES[name].whole_batch or PENALTIES[name].own():
        with pytest.raises(PipelineError, match=r"^train\.accumulate: must be 1 with a penalty that asks for the mean"):
            train_step(state, image_set(), LOSSES["bce"], recipe, budget)
    else:
        assert train_step(state, image_set(), LOSSES["bce"], recipe, budget).isfinite().all()


def test_a_penalty_that_asks_for_the_whole_batch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PENALTIES, "asks", Penalty(lambda update: update.world.mean(update.fake.mean())))
    recipe = tiny_recipe(penalty="asks")
    train_step(start(recipe), image_set(), LOSSES["bce"], recipe, tiny_budget())
    with pytest.raises(PipelineError, match=r"^train\.accumulate: must be 1"):
        train_step(start(recipe), image_set(), LOSSES["bce"], recipe, tiny_budget(accumulate=2))
