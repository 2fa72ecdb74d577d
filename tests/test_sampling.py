"""Samples: a function of (seed, i) alone, quantised as a PNG would hold them; grids and animations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.models import NETWORKS, build_gan
from pipeline.params import Recipe
from pipeline.sampling import BLOCK, grid, labels, latents, picture, sample, save_animation, save_picture, to_uint8

RECIPE = {
    "network": "dcgan", "loss": "hinge", "width_g": 4, "width_d": 4, "latent_dim": 5, "norm_d": "none",
    "spectral_norm_g": True, "init": "orthogonal", "batch_size": 4, "n_critic": 1, "lr_g": 1e-3, "lr_d": 1e-3,
    "beta1": 0.5, "beta2": 0.9, "lr_decay": "none", "ema_decay": None, "flip": False, "dequantise": False,
    "label_smoothing": 0.0, "penalty": "none",
    "penalty_weight": 10.0, "clip": None, "optimiser": "adam", "ema_warmup": False, "augment": [],
    "instance_noise": 0.0,
}  # fmt: skip


def build(network: str, channels: int = 1) -> nn.Module:
    generator = build_gan(Recipe.model_validate({**RECIPE, "network": network}), (channels, 16, 16), 3, 0).generator
    for seed in range(3):  # batch norm's statistics move away from (0, 1), so that the mode matters
        generator(
            torch.randn(16, 5, generator=torch.Generator().manual_seed(seed)) + 1, torch.zeros(16, dtype=torch.int64)
        )
    with torch.no_grad():
        for norm in [m for m in generator.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)][-1:]:
            norm.weight.mul_(8)
    return generator


def drawn(network: nn.Module, n: int, batch: int, start: int = 0, seed: int = 3) -> Tensor:
    return torch.cat(list(sample(network, n, seed, batch, 5, 3, start)))


def same(first: Tensor, second: Tensor) -> bool:
    """Equal, but for one level in one pixel of a thousand: matrix products round by the size of the batch."""
    gap = (first.int() - second.int()).abs()
    return first.shape == second.shape and gap.max().item() <= 1 and gap.float().mean().item() <= 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_sample_i_depends_on_seed_and_i_alone(name: str) -> None:
    network = build(name)
    images = drawn(network, 70, 64)
    assert images.shape == (70, 1, 16, 16)
    assert images.dtype == torch.uint8
    assert len(images.flatten(1).unique(dim=0)) > 60
    assert images.float().std(dim=0).mean() > 5
    for batch in (1, 7, 256):
        assert same(drawn(network, 70, batch), images), batch
    for start, n in ((1, 5), (17, 53), (63, 2)):
        assert same(drawn(network, n, 8, start), images[start : start + n])
    assert not torch.equal(drawn(network, 70, 64, seed=4), images)


def test_samples_cross_the_blocks_of_latents() -> None:
    network = build("dcgan")
    images = drawn(network, BLOCK + 20, 100)
    assert torch.equal(drawn(network, 30, 7, start=BLOCK - 15), images[BLOCK - 15 : BLOCK + 15])
    assert torch.equal(drawn(network, 20, 32, start=BLOCK), images[BLOCK:])
    assert not torch.equal(images[:20], images[BLOCK:])


def test_latents() -> None:
    whole = latents(0, 0, 4 * BLOCK, 6)
    assert whole.shape == (4 * BLOCK, 6)
    assert whole.mean().item() == pytest.approx(0, abs=5 / whole.numel() ** 0.5)
    assert whole.std().item() == pytest.approx(1, abs=5 / (2 * whole.numel()) ** 0.5)
    for start, stop in ((0, 1), (BLOCK - 1, BLOCK), (BLOCK, BLOCK + 1), (100, 3 * BLOCK + 1), (2 * BLOCK, 4 * BLOCK)):
        assert torch.equal(latents(0, start, stop, 6), whole[start:stop])
    assert len(whole.unique(dim=0)) == 4 * BLOCK


def test_the_last_batch_may_be_short() -> None:
    network = build("dcgan")
    assert [len(images) for images in sample(network, 10, 0, 4, 5, 3)] == [4, 4, 2]
    assert [len(images) for images in sample(network, 3, 0, 64, 5, 3)] == [3]
    assert [len(images) for images in sample(network, 8, 0, 4, 5, 3, start=3)] == [4, 4]


class Spy(nn.Module):
    """A generator that shows its labels as grey values, and remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls: list[tuple[bool, bool, int]] = []

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        self.calls.append((self.training, torch.is_inference_mode_enabled(), len(z)))
        return (y / 127.5 - 1)[:, None, None, None].expand(-1, 1, 2, 2) + self.weight


def test_labels_cycle_and_reach_the_generator() -> None:
    assert labels(4, 12, 5).tolist() == [4, 0, 1, 2, 3, 4, 0, 1]
    assert labels(2, 5, 0).tolist() == [0, 0, 0]
    assert labels(0, 3, 1).dtype == torch.int64
    shown = torch.cat(list(sample(Spy(), 7, 0, 3, 2, 4, start=2)))
    assert shown[:, 0, 0, 0].tolist() == [2, 3, 0, 1, 2, 3, 0]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_evaluation_and_is_given_back(training: bool) -> None:
    spy = Spy().train(training)
    batches = sample(spy, 5, 0, 2, 2, 0)
    next(batches)
    assert not torch.is_inference_mode_enabled()  # between two batches the caller may train
    list(batches)
    assert spy.training is training
    assert spy.calls == [(False, True, 2)] * 3  # equal sizes: the short last batch is filled up
    broken = sample(spy, 5, 0, 2, 2, 0)
    next(broken)
    broken.close()
    assert spy.training is training


def test_sampling_leaves_the_generator_as_it_was() -> None:
    network = build("sagan").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    drawn(network, 9, 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_to_uint8() -> None:
    values = torch.tensor([-1, 0, 1, -1.5, 1.5, 1e9, -1e9, 1 / 127.5, 0.49 / 127.5 - 1, 0.51 / 127.5 - 1])
    assert to_uint8(values).tolist() == [0, 128, 255, 0, 255, 255, 0, 128, 0, 1]
    assert to_uint8(values).dtype == torch.uint8
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every.float() / 127.5 - 1), every)  # the inverse of `batch`'s scaling
    assert to_uint8(torch.tensor([-1, 0, 1], dtype=torch.bfloat16)).tolist() == [0, 128, 255]


def test_grid_geometry() -> None:
    images = torch.stack([torch.full((1, 32, 32), 10 * (k + 1), dtype=torch.uint8) for k in range(5)])
    drawing = np.asarray(grid(images, 3))
    assert drawing.shape[:2] == (2 * 34 + 2, 3 * 34 + 2)  # two rows of three, two white pixels between and around
    value = drawing if drawing.ndim == 2 else drawing[..., 0]
    expected = np.full((70, 104), 255)
    for k in range(5):
        top, left = 2 + 34 * (k // 3), 2 + 34 * (k % 3)
        expected[top : top + 32, left : left + 32] = 10 * (k + 1)
    np.testing.assert_array_equal(value, expected)  # the sixth place stays white


def test_a_grid_keeps_every_pixel_and_its_colour() -> None:
    images = torch.randint(256, (4, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawing = np.asarray(grid(images.numpy(), 2))
    for k in range(4):
        top, left = 2 + 42 * (k // 2), 2 + 42 * (k % 2)
        np.testing.assert_array_equal(drawing[top : top + 40, left : left + 40], images[k].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("size", "scale"), [(8, 4), (16, 2), (28, 2), (31, 2), (32, 1), (33, 1)])
def test_small_images_are_enlarged_without_smoothing(size: int, scale: int) -> None:
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawing = np.asarray(grid(images, 2))
    assert drawing.shape == (size * scale + 4, 2 * size * scale + 6, 3)
    first = drawing[2 : 2 + size * scale, 2 : 2 + size * scale]
    np.testing.assert_array_equal(first, images[0].permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_picture_and_png(channels: int, mode: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (channels, 5, 5), dtype=np.uint8)
    drawing = picture(image)
    assert (drawing.mode, drawing.size) == (mode, (5, 5))
    save_picture(drawing, tmp_path / "deep" / "a.png")
    with Image.open(tmp_path / "deep" / "a.png") as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read), image[0] if channels == 1 else image.transpose(1, 2, 0))


@pytest.mark.parametrize(("count", "durations"), [(3, [400, 400, 1600]), (1, [1600])])
def test_animation(count: int, durations: list[int], tmp_path: Path) -> None:
    frames, path = [Image.new("L", (4, 4), 60 * k) for k in range(count)], tmp_path / "a.gif"
    save_animation(frames, path)
    seen: list[Any] = []
    with Image.open(path) as film:
        assert getattr(film, "n_frames", 1) == count
        for k in range(count):
            film.seek(k)
            seen.append((film.info.get("duration"), film.convert("L").getpixel((1, 1))))
            assert count == 1 or film.info["loop"] == 0
    assert [value for _, value in seen] == [60 * k for k in range(count)]
    assert count == 1 or [duration for duration, _ in seen] == durations
