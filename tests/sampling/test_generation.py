"""What the generate stage writes: arrays, labels and pictures of the same samples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.core.errors import PipelineError
from pipeline.experiment import Experiment
from pipeline.models import build_gan
from pipeline.sampling.generation import generate_samples, wanted_labels
from pipeline.sampling.images import latents
from pipeline.sampling.pictures import COLUMNS
from pipeline.training.monitor import CURVE_SEED, GRID_SEED, TrainingMonitor
from tests.recipes import tiny_params


@pytest.mark.parametrize("channels", [1, 3])
def test_the_png_folder_holds_the_very_samples(tmp_path: Path, channels: int) -> None:
    values = tiny_params({"generate.png_folder": True, "generate.batch_size": 8}, dcgan={})
    recipe, shape = values.models["dcgan"], (channels, 16, 16)
    generator = build_gan(recipe, shape, 10, seed=0).generator
    generator(torch.randn(32, recipe.latent_dim), torch.zeros(32, dtype=torch.int64))  # batch norm's statistics
    grids, out = tmp_path / "grids", tmp_path / "samples"
    grids.mkdir()
    Image.new("L", (4, 4)).save(grids / "00000000.png")
    info = {"recipe": recipe.model_dump(), "n_classes": 10, "image_shape": list(shape)}
    other = build_gan(recipe, shape, 10, seed=1).generator
    generate_samples({"images": generator, "best": other}, torch.arange(21) % 10, info, values, grids, out)

    images = np.load(out / "images.npy")
    assert images.shape == (21, *shape)
    best = np.load(out / "best.npy")
    assert best.shape == images.shape and (best != images).mean() > 0.5
    assert np.load(out / "labels.npy").tolist() == [*range(10), *range(10), 0]
    files = sorted((out / "png").iterdir())
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(21)]
    for image, file in zip(images, files, strict=True):
        pixels = np.asarray(Image.open(file))
        assert np.array_equal(pixels, image[0] if channels == 1 else image.transpose(1, 2, 0))
    finals = sorted((out / "final").iterdir())
    assert [file.name for file in finals] == [f"{i:02d}.png" for i in range(10)]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(finals, files, strict=False))


class Spy(nn.Module):
    """A generator that shows its labels as grey values, and remembers its latents."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        self.seen.append(z)
        return (y / 127.5 - 1)[:, None, None, None].expand(-1, 1, 16, 16) + self.weight


def rows_shown(path: Path) -> list[list[int]]:
    """The grey value in the middle of each picture of a grid: 16 pixels, enlarged twice, two between."""
    pixels = np.asarray(Image.open(path).convert("L"))
    return pixels[18::34, 18::34].tolist()


@pytest.mark.parametrize(
    ("network", "asked", "rows"),
    [
        ("dcgan_conditional", [9, *range(10), 3, 3], [[label] * 10 for label in range(10)]),
        ("projection", [4, 2] * 30, [[2] * 10] * 5 + [[4] * 10] * 5),
        ("dcgan_conditional", [7] * 12, [[7] * 10] * 10),  # one class was asked for
        ("projection", list(range(23)), [[label] * 10 for label in range(10)]),  # of more than ten the first ten
        ("dcgan", [5, 1] * 60, [[5, 1] * 5] * 10),  # takes no labels: the first hundred samples
        ("dcgan", [5, 1] * 10, [[5, 1] * 5] * 2),
    ],
)
def test_the_grid_of_a_conditional_model_has_one_class_a_row(
    network: str, asked: list[int], rows: list[list[int]], tmp_path: Path
) -> None:
    values = tiny_params({"generate.batch_size": 8}, dcgan={})
    recipe = values.models["dcgan"].model_copy(update={"network": network, "latent_dim": 3})
    info = {"recipe": recipe.model_dump(), "image_shape": [1, 16, 16]}
    (tmp_path / "grids").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "grids/00000000.png")
    out = tmp_path / "out"
    generate_samples({"images": Spy(), "best": Spy()}, torch.tensor(asked), info, values, tmp_path / "grids", out)
    assert rows_shown(out / "grid.png") == rows
    named, classes = tmp_path / "named", [f"kind {label}" for label in range(23)]
    generate_samples({"images": Spy()}, torch.tensor(asked), info, values, tmp_path / "grids", named, classes)
    plain, wider = (np.asarray(Image.open(folder / "grid.png").convert("RGB")) for folder in (out, named))
    assert np.array_equal(wider[:, wider.shape[1] - plain.shape[1] :], plain)  # names change no pixel of the samples
    assert (wider.shape == plain.shape) == (network == "dcgan")
    assert np.load(out / "labels.npy").tolist() == asked
    assert np.load(out / "labels.npy").dtype == np.int64
    for name in ("images", "best"):
        assert np.load(out / f"{name}.npy")[:, 0, 8, 8].tolist() == asked


@pytest.mark.parametrize(
    ("network", "counts", "rows", "like_data"),
    [
        ("dcgan_conditional", [10, 30, 0], [[label] * 10 for label in (0, 1)], [1, 0, 1, 1, 1, 0, 1, 1]),
        ("dcgan_conditional", [0, *[5] * 11], [[label] * 10 for label in range(1, 11)], [*range(1, 9)]),
        ("dcgan", [10, 30, 0], [[label] * 10 for label in range(6)], [1, 0, 1, 1, 1, 0, 1, 1]),  # it ignores them
    ],
)
def test_what_is_looked_at_while_a_model_trains(
    network: str, counts: list[int], rows: list[list[int]], like_data: list[int], tmp_path: Path
) -> None:
    changes = {"models.dcgan.network": network, "models.dcgan.latent_dim": 3, "train.score_samples": 8}
    values = tiny_params({**changes, "metrics.batch_size": 4}, dcgan={})
    description = {"name": "x", "image_shape": [1, 16, 16], "classes": list(map(str, range(len(counts)))),
                   "class_counts": counts, "sha256": "0"}  # fmt: skip
    told: list[Any] = []
    tracker: Any = SimpleNamespace(image=lambda *what: told.append(what))
    reference: Any = SimpleNamespace(distance=lambda features: features.tolist())
    extractor: Any = Mock(side_effect=lambda images: images[:, 0, 8, 8], shared=None)
    monitor = TrainingMonitor(Experiment(values, "dcgan", 0, description), extractor, reference, tracker, tmp_path)
    average = Spy()
    state: Any = SimpleNamespace(ema=average, gan=SimpleNamespace(generator=None), step=20)
    monitor.draw(state)
    path = tmp_path / "00000020.png"
    assert rows_shown(path) == rows
    assert told == [("samples", path, 20)]
    grid, average.seen = torch.cat(average.seen), []
    assert torch.equal(grid[: len(rows) * COLUMNS], latents(GRID_SEED, 0, len(rows) * COLUMNS, 3))
    assert monitor.score(state) == like_data  # as often as in the data
    assert torch.equal(torch.cat(average.seen), latents(CURVE_SEED, 0, 8, 3))


def test_as_many_samples_as_training_images_of_the_classes_that_are_asked_for() -> None:
    description = {"train": 12, "class_counts": [8, 0, 4, 0]}

    def wanted(**changes: Any) -> list[int]:
        return wanted_labels(
            tiny_params({f"generate.{key}": changes[key] for key in changes}).generate, description
        ).tolist()

    assert wanted(samples=None) == [0, 2, 0] * 4
    assert wanted(samples=None, labels="balanced") == [0, 2] * 6
    assert wanted(samples=None, labels=2) == [2] * 4
    assert wanted(samples=10, labels=2) == [2] * 10
    with pytest.raises(PipelineError, match=r"^generate\.labels: class 1 has 0 training images: name another class$"):
        wanted(samples=10, labels=1)
    with pytest.raises(PipelineError, match=r"^generate\.labels: must be data, balanced or a class below 4, got 4$"):
        wanted(samples=10, labels=4)
