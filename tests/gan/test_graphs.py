"""Captured updates: the same bits as the step by itself, with a stand-in for CUDA's capture that runs on a CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.core.randomness import Tape, named_draws
from pipeline.core.world import ALONE
from pipeline.gan.flow import loss_of
from pipeline.gan.graphs import Graphs, not_captured
from pipeline.gan.step import TrainState, create_state, train
from pipeline.params import Recipe, Schedule, load
from tests.recipes import ROOT, SHAPE, image_set, tiny_budget, tiny_recipe

VALUES = load(ROOT / "params.yaml")
BUDGET = tiny_budget(steps=7, report_every=7)


def untrained(recipe: Recipe) -> TrainState:
    return create_state(recipe, BUDGET, SHAPE, 3, 0, torch.device("cpu"))


def trained(recipe: Recipe, state: TrainState, accumulate: int = 1) -> TrainState:
    budget = BUDGET.model_copy(update={"accumulate": accumulate})
    list(train(state, image_set(), loss_of(recipe), recipe, budget))
    return state


class Frozen:
    """Like a CUDA graph it computes nothing when captured, and when replayed does again what was done then.

    So whatever the captured Python took from its step (an index, a strength) is that of the captured step for ever.
    """

    def __init__(self, state: TrainState) -> None:
        self.state, self.captured = state, 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        kept = {name: tensor.clone() for name, tensor in self.state.tensors().items()}
        work()
        for name, tensor in self.state.tensors().items():
            tensor.copy_(kept[name])
        tape, networks = Tape.running, (self.state.gan.generator, self.state.gan.discriminator)
        assert tape is not None

        def replay() -> None:
            gradients = {one: one.grad for network in networks for one in network.parameters()}
            for one in gradients:
                one.grad = None
            with tape.play():
                work()
            for one, place in gradients.items():
                if one.grad is not None:
                    assert place is not None
                    place.copy_(one.grad)
                one.grad = place

        return replay


def same(recipe: Recipe, kinds: int, accumulate: int = 1) -> None:
    plain = trained(recipe, untrained(recipe), accumulate)
    state = untrained(recipe)
    capture = Frozen(state)
    state.graphs = Graphs(capture)
    replayed = trained(recipe, state, accumulate)
    assert capture.captured == kinds
    for name, tensor in plain.tensors().items():
        assert torch.equal(tensor, replayed.tensors()[name]), name


@pytest.mark.parametrize("name", [name for name in VALUES.models if not not_captured(VALUES.models[name])])
def test_replayed_updates_give_the_same_bits(name: str) -> None:
    small = {"width_g": 8, "width_d": 8, "batch_size": 8, "penalty_every": 1, "n_critic": 1}
    recipe = VALUES.models[name].model_copy(update=small)
    same(recipe, kinds=1 if name == "flow" else 2)


def test_penalties_that_are_due_now_and_then_have_graphs_of_their_own() -> None:
    same(tiny_recipe(penalty="r1", penalty_weight=1.0, penalty_every=2, n_critic=3), kinds=2 + 1)


def test_what_an_update_found_outlives_the_graphs_that_were_captured_before_it() -> None:
    """On CUDA they share memory: that of G, captured first under a lazy penalty, may write where D's losses lie."""
    shared = torch.zeros(())

    def update_of(value: float) -> Callable[[int], dict[str, Tensor]]:
        return lambda index: {"loss": shared.fill_(value + index)}

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        return work

    graphs = Graphs(capture)
    for index in range(3):
        found = [graphs.run(name, [], index, update_of(value), ())["loss"] for name, value in (("g", 1.0), ("d", 2.0))]
    graphs.run("g", [], 3, update_of(1.0), ())
    assert found[1] == 3.0  # of the update that was captured, number 1
    assert shared == 2.0


def test_every_random_number_of_an_update_is_drawn_anew() -> None:
    same(tiny_recipe(augment=["translation", "colour", "cutout"], augment_strength=0.5, flip=True, dequantise=True), 2)
    same(tiny_recipe(penalty="dragan", penalty_weight=1.0, regularisers={"zcr": 1.0}), 2)


def test_the_parts_of_a_batch_are_captured_together() -> None:
    same(tiny_recipe(network="resnet", norm_d="spectral", augment=["colour"], penalty="r1"), 2, accumulate=2)


def test_a_tape_draws_the_numbers_of_another_update_in_place() -> None:
    def numbers(index: int) -> list[Tensor]:
        first, second = (named_draws("cpu", ALONE, 3, name, index) for name in ("a", "b"))
        return [first.randn(4), second.rand(2, 3), first.randint(0, 100, (5,)), second.randn(2)]

    tape = Tape()
    with tape.record():
        kept = numbers(0)
    assert all(map(torch.equal, kept, numbers(0)))
    tape.draw_again(7)
    with tape.play():
        played = numbers(0)  # whatever is asked for, in this order
    assert all(one is other for one, other in zip(kept, played, strict=True))
    assert all(map(torch.equal, played, numbers(7)))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("reuse_fakes", True, "reuse_fakes joins the updates of D and G"),
        ("instance_noise", 0.1, "instance_noise changes from step to step"),
        (
            "penalty_weight",
            Schedule(start=2.0, end=1.0, shape="linear", until=1.0),
            "penalty_weight changes from step to step",
        ),
        ("top_k", Schedule(start=1.0, end=0.5, shape="linear", until=1.0), "top_k changes from step to step"),
        ("top_k", 0.5, None),
    ],
)
def test_what_changes_in_python_is_not_captured(field: str, value: object, reason: str | None) -> None:
    assert not_captured(tiny_recipe()) is None
    assert not_captured(tiny_recipe().model_copy(update={field: value})) == reason
