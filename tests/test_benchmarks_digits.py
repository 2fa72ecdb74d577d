"""benchmarks/digits_recipes.py: docs/recipes.md shows what docs/digits.csv holds, of recipes that the preset has."""

from pathlib import Path

import pandas as pd
import torch

from benchmarks.digits_recipes import PARAMS, RECIPES, pixels, table

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROWS = pd.read_csv(DOCS / "digits.csv")


def test_the_page_shows_the_record() -> None:
    assert "\n".join(table(ROWS)) in (DOCS / "recipes.md").read_text(encoding="utf-8")


def test_the_recipes_are_the_presets() -> None:
    assert set(ROWS["recipe"]) <= set(RECIPES) <= set(PARAMS.models)
    assert (ROWS["steps"] <= PARAMS.train.steps).all()


def test_pixels_are_means_of_four() -> None:
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    found = pixels(image)
    assert found.shape == (1, 64)
    assert found[0, 0] * 255 == (0 + 1 + 16 + 17) / 4 and found[0, 63] * 255 == (238 + 239 + 254 + 255) / 4
