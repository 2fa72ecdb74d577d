"""Few images, stacked MNIST, equal budgets and bf16: the rules by hand, and pages that show the records."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import bf16, equal_budget, few_images, stacked_mnist, trainings
from benchmarks.few_images import Judge
from pipeline.check_recipe import recipe_problems
from pipeline.data.batches import ImageSet
from pipeline.params import Recipe

PAGES = [few_images, stacked_mnist, equal_budget, bf16]
PARAMS = few_images.PARAMS.override({"generate.weights": "raw"})
DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("part", PAGES, ids=lambda part: part.__name__)
def test_the_page_shows_the_record(part: Any) -> None:
    name = part.__name__.rpartition(".")[2]
    rows, page = pd.read_csv(DOCS / f"{name}.csv"), (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert "\n".join(part.table(rows)) in page
    if part is equal_budget:
        assert "\n".join(part.table(pd.read_csv(DOCS / "equal_budget_mnist.csv"))) in page
    if part is stacked_mnist:
        assert "\n".join(part.orders(rows)) in page


# bf16.


def pairs(fp32: list[float], bf16: list[float], diverged: int | None = None) -> pd.DataFrame:
    rows = pd.DataFrame({"data": "digits", "recipe": "dcgan", "seed": [0, 1, 2], "fp32": fp32, "bf16": bf16})
    return rows.assign(fp32_diverged=None, bf16_diverged=[diverged, None, None])


@pytest.mark.parametrize(
    ("other", "diverged", "said"),
    [
        # r 0, .01, -.01: mean 0, t(2) 4.303, s .01: within 4.303 * .01 / sqrt(3) = .025 of it
        ([100, 101, 99], None, "harmless"),
        ([100, 101, 99], 7, "harmful"),
        ([104, 105, 106], None, "harmful"),  # .05 and .025 on either side: above 0, though within 10%
        ([100, 105, 95], None, "undecided"),  # .124 on either side
        ([100, 104, 96], None, "harmless"),  # .0994
        ([100, 104.1, 95.9], None, "undecided"),  # .1019
        ([50, 51, 49], None, "undecided"),  # far better: not what the rule calls harmless
    ],
)
def test_the_rule_by_hand(other: list[float], diverged: int | None, said: str) -> None:
    rows = pairs([100.0] * 3, list(map(float, other)), diverged)
    assert (bf16.verdict(rows), bf16.whole(rows)) == (said, said)


def test_a_harmful_recipe_spoils_the_whole() -> None:
    good = [pairs([100.0] * 3, [100.0, 101.0, 99.0]).assign(recipe=name) for name in "abcd"]
    rows = pd.concat([*good, pairs([100.0] * 3, [104.0, 105.0, 106.0]).assign(recipe="e")])
    assert bf16.whole(rows) == "harmful" and bf16.whole(pd.concat(good)) == "harmless"


def test_a_pair_differs_in_the_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def trained(recipe: Recipe, budget: Any, images: ImageSet, shape: Any, seed: int) -> None:
        seen.append((recipe, budget.model_copy(update={"precision": "fp32"}), seed, budget.precision))
        if len(seen) == 2:
            raise InterruptedError

    def nothing(*_: Any) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(9, 4))

    monkeypatch.setattr(trainings, "trained", lambda *given: trained(*given) or (None, 1.0, None))
    monkeypatch.setattr(trainings, "samples", nothing)
    monkeypatch.setattr(trainings, "features", nothing)
    images = ImageSet(torch.zeros(9, 1, 16, 16), torch.zeros(9, dtype=torch.int64), 1)
    data = trainings.Data({"class_counts": [9], "image_shape": [1, 16, 16]}, images, images)
    gaussian = bf16.Gaussian.from_features(nothing())
    with pytest.raises(InterruptedError):
        bf16.measure("digits", "dcgan", 1, bf16.params_of("digits", ""), data, None, gaussian)  # type: ignore[arg-type]
    assert seen[0][:3] == seen[1][:3] and [one[3] for one in seen] == ["fp32", "bf16"]


# Recipes and rows.


@pytest.mark.parametrize("part", [few_images, stacked_mnist], ids=lambda part: part.__name__)
def test_methods_are_valid_and_differ_in_what_they_name(part: Any) -> None:
    recipes = {name: part.recipe_of(name) for name in part.METHODS}
    common = recipes.get("none", recipes.get("GAN"))
    for name, recipe in recipes.items():
        assert not list(recipe_problems(name, recipe, PARAMS)), name
        changed = {key for key, value in recipe if value != getattr(common, key)}
        assert changed <= set(part.METHODS[name]) and (changed or recipe is common)


def test_every_recipe_of_the_preset_is_compared() -> None:
    rows = pd.read_csv(DOCS / "equal_budget.csv")
    assert set(rows["recipe"]) <= set(equal_budget.RECIPES) <= set(equal_budget.PARAMS.models)


def test_training_stops_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = few_images.recipe_of("none").model_copy(update={"width_g": 4, "width_d": 4, "batch_size": 4})
    images = ImageSet(torch.zeros(8, 1, 16, 16, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), 1)
    budget = few_images.PARAMS.train.model_copy(update={"steps": 5})
    state, seconds, diverged = trainings.trained(
        recipe, budget, images, (1, 16, 16), 0, lambda state, _: state.step == 3
    )
    assert (state.step, diverged) == (3, None) and seconds > 0
    assert trainings.samples(state, [8], 3, recipe.latent_dim).shape == (3, 1, 16, 16)
    broken = recipe.model_copy(update={"penalty_weight": math.inf})
    assert trainings.trained(broken, budget, images, (1, 16, 16), 0)[2] == 1


def test_rows_are_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make(number: int) -> dict[str, int]:
        made.append(number)
        return {"number": number}

    found = [trainings.kept(tmp_path / "row.json", make, number) for number in (1, 2)]
    assert found == [{"number": 1}] * 2 and made == [1]


def test_copies_are_seen_as_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    seen, held_out = (draws.normal(size=(count, 3)).astype(np.float32) for count in (20, 60))
    monkeypatch.setattr(trainings, "features", lambda extractor, images: images)

    class Extractor:
        metric = "fd"

    judge = Judge(Extractor(), seen, held_out)  # type: ignore[arg-type]
    copied, fresh = judge.numbers(seen), judge.numbers(draws.normal(size=(40, 3)).astype(np.float32))
    assert (copied["auth_pct"], copied["copies"], copied["nearest_ratio"]) == (0, 1, 0)
    assert 20 < fresh["auth_pct"] < 80 and fresh["copies"] < 0.2 and fresh["nearest_ratio"] == pytest.approx(1, abs=0.3)
    assert judge.numbers(held_out)["distance"] == pytest.approx(0, abs=1e-4)


def test_triples_are_counted_by_their_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def modes(comparison: Any) -> dict[str, Any]:
        given.append(comparison)
        return {}

    monkeypatch.setattr(stacked_mnist, "modes", modes)
    images = np.zeros((4, 3, 16, 16), np.uint8)
    real, labels = stacked_mnist.StackedDigits(images), np.arange(4)
    stacked_mnist.counted(real, labels, images + 1)
    assert (
        given[0].pixels[0] is real and (given[0].pixels[1].images == 1).all() and (given[0].real.labels == labels).all()
    )
