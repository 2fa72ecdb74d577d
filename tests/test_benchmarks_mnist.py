"""benchmarks/mnist_recipes.py: all its trainings are valid, and docs/mnist.md shows what docs/mnist.csv holds."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.mnist_recipes import runs, tables
from pipeline.check import problems
from pipeline.params import PRESETS, load
from tests.params.test_presets import CLASSICS

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROWS = pd.read_csv(DOCS / "mnist.csv")


@pytest.mark.slow
def test_every_training_is_valid_and_every_classic_recipe_of_the_preset_is_trained() -> None:
    planned = list(runs())
    assert {run.name for run in planned if run.part == "recipes"} == CLASSICS < set(load(PRESETS / "mnist.yaml").models)
    for run in planned:
        assert not list(problems(run.params()))


def test_the_bounds_differ_in_nothing_else() -> None:
    free = dict.fromkeys(("loss", "penalty", "clip", "norm_d", "lr_g", "lr_d"))
    recipes = [run.params().models[run.recipe] for run in runs() if run.part == "bounds"]
    assert all(recipe.model_copy(update=free) == recipes[0].model_copy(update=free) for recipe in recipes)


@pytest.mark.slow
def test_the_record_holds_every_training() -> None:
    assert ROWS[["part", "name", "seed", "steps", "lr_g", "lr_d"]].to_dict("records") == [
        {"part": run.part, "name": run.name, "seed": run.seed, "steps": run.steps}
        | {key: getattr(run.params().models[run.recipe], key) for key in ("lr_g", "lr_d")}
        for run in runs()
    ]


def test_the_page_shows_the_record() -> None:
    assert tables(ROWS) in (DOCS / "mnist.md").read_text(encoding="utf-8")
