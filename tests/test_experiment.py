"""What the generate stage writes: arrays, labels and pictures of the same samples."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import params
from pipeline.experiment import generate_samples
from pipeline.models import build_gan

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("channels", [1, 3])
def test_the_png_folder_holds_the_very_samples(tmp_path: Path, channels: int) -> None:
    values = params.load(ROOT / "params.yaml").override({"generate.png_folder": True, "generate.batch_size": 8})
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
