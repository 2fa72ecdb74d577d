"""A conditional model learns what a label means: each row of its grid shows the digit that was asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from pipeline import params
from pipeline.data.batches import ImageSet
from pipeline.data.prepared import load_images, prepare
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import create_state, train
from pipeline.sampling.images import rows_of_classes, sample

# The preset's recipe, narrower and for fewer steps: half a minute on one core.
VALUES = params.load(Path(__file__).resolve().parent.parent / "presets/digits.yaml").override(
    {"models.dcgan_conditional.width_g": 32, "models.dcgan_conditional.width_d": 32, "train.steps": 500}
)
RECIPE, COLUMNS = VALUES.models["dcgan_conditional"], 30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "prepared"
    prepare(VALUES.data, folder)
    return folder


@pytest.fixture(scope="module")
def digits(prepared: Path) -> ImageSet:
    return load_images(prepared, "train", "cpu")


def flat(images: torch.Tensor) -> np.ndarray:
    return images.flatten(1).numpy() / 255.0


@pytest.fixture(scope="module")
def judge(digits: ImageSet, prepared: Path) -> SVC:
    """A classifier of real digits that knows digits it has not seen."""
    test = load_images(prepared, "test", "cpu")
    found = SVC().fit(flat(digits.images), digits.labels.numpy())
    assert len(test.labels) == 359
    assert (found.predict(flat(test.images)) == test.labels.numpy()).mean() > 0.95
    return found


def agreement(images: ImageSet, judge: SVC) -> np.ndarray:
    """Train on `images`; for each row of a grid, the share of samples in which the judge sees the digit of the row."""
    state = create_state(RECIPE, VALUES.train, (1, 16, 16), images.n_classes, 0, torch.device("cpu"))
    for _ in train(state, images, LOSSES[RECIPE.loss], RECIPE, VALUES.train):
        pass
    assert state.ema is not None
    asked = rows_of_classes(range(10), 10, COLUMNS)
    shown = torch.cat(list(sample(state.ema, asked, 1000, 100, RECIPE.latent_dim)))
    assert len(shown) == 10 * COLUMNS and shown.float().std(dim=0).mean() > 10
    return (judge.predict(flat(shown)) == asked.numpy()).reshape(10, COLUMNS).mean(axis=1)


@pytest.mark.slow
def test_each_row_shows_the_digit_that_was_asked_for(digits: ImageSet, judge: SVC) -> None:
    rows = agreement(digits, judge)
    assert rows.mean() > 0.8
    assert rows.min() > 0.4


@pytest.mark.slow
def test_without_meaning_in_the_labels_the_agreement_is_chance(digits: ImageSet, judge: SVC) -> None:
    order = torch.randperm(len(digits.labels), generator=torch.Generator().manual_seed(0))
    rows = agreement(ImageSet(digits.images, digits.labels[order], digits.n_classes), judge)
    assert rows.mean() == pytest.approx(0.1, abs=0.15)
