"""Samples: a function of (seed, i) alone, quantised as a PNG would hold them; grids and animations."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.models import NETWORKS, build_gan
from pipeline.sampling.images import BLOCK, labels, latents, rows_of_classes, sample, to_uint8
from pipeline.sampling.pictures import grid, name_rows, picture, save_animation, save_picture
from tests.networks import ADVERSARIAL, randomise
from tests.recipes import tiny_recipe


def build(network: str, channels: int = 1) -> nn.Module:
    recipe = tiny_recipe(network=network, spectral_norm_g=True, init="orthogonal")
    generator = build_gan(recipe, (channels, 16, 16), 3, 0).generator
    for seed in range(3):  # batch norm's statistics move away from (0, 1), so that the mode matters
        generator(
            torch.randn(16, 5, generator=torch.Generator().manual_seed(seed)) + 1, torch.zeros(16, dtype=torch.int64)
        )
    with torch.no_grad():
        for norm in [m for m in generator.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)][-1:]:
            norm.weight.mul_(8)
    return generator


def drawn(network: nn.Module, n: int, batch: int, seed: int = 3) -> Tensor:
    return torch.cat(list(sample(network, torch.arange(n) % 3, seed, batch, 5)))


def same(first: Tensor, second: Tensor) -> bool:
    """Equal, but for one level in one pixel of a thousand: matrix products round by the size of the batch."""
    gap = (first.int() - second.int()).abs()
    return first.shape == second.shape and gap.max().item() <= 1 and gap.float().mean().item() <= 1e-3


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_sample_i_depends_on_seed_and_i_alone(name: str) -> None:
    network = build(name)
    images = drawn(network, 70, 64)
    assert images.shape == (70, 1, 16, 16)
    assert images.dtype == torch.uint8
    assert len(images.flatten(1).unique(dim=0)) > 60
    assert images.float().std(dim=0).mean() > 5
    for batch in (1, 7, 256):
        assert same(drawn(network, 70, batch), images), batch
    for n in (1, 53, 65):
        assert same(drawn(network, n, 64), images[:n]), n
    assert not torch.equal(drawn(network, 70, 64, seed=4), images)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_sample_i_depends_on_its_own_label_alone(name: str) -> None:
    network = randomise(build(name))
    with torch.no_grad():  # StyleGAN2 divides these by 100
        for weight in (p for key, p in network.named_parameters() if key.startswith("mapping.")):
            weight.mul_(100)
    chosen = torch.arange(12) % 3
    first = torch.cat(list(sample(network, chosen, 3, 8, 5)))
    others = torch.where(torch.arange(12) % 2 == 0, chosen, (chosen + 1) % 3)  # the even samples keep theirs
    second = torch.cat(list(sample(network, others, 3, 8, 5)))
    assert same(first[::2], second[::2])
    changed = (first[1::2] != second[1::2]).flatten(1).any(dim=1)
    assert changed.tolist() == [NETWORKS[name].conditional] * 6


def test_samples_cross_the_blocks_of_latents() -> None:
    network = build("dcgan")
    images = drawn(network, BLOCK + 20, 100)
    assert torch.equal(drawn(network, BLOCK + 15, 100), images[: BLOCK + 15])
    assert same(drawn(network, BLOCK + 20, 7), images)
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
    network, zeros = build("dcgan"), torch.zeros(10, dtype=torch.int64)
    assert [len(images) for images in sample(network, zeros, 0, 4, 5)] == [4, 4, 2]
    assert [len(images) for images in sample(network, zeros[:3], 0, 64, 5)] == [3]
    assert [len(images) for images in sample(network, zeros[:8], 0, 4, 5)] == [4, 4]


class Spy(nn.Module):
    """A generator that shows its labels as grey values, and remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls: list[tuple[bool, bool, int]] = []

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        self.calls.append((self.training, torch.is_inference_mode_enabled(), len(z)))
        return (y / 127.5 - 1)[:, None, None, None].expand(-1, 1, 2, 2) + self.weight


def test_labels_reach_the_generator_in_their_order() -> None:
    chosen = [3, 0, 2, 2, 1, 3, 0]
    for batch in (1, 3, 7, 16):
        shown = torch.cat(list(sample(Spy(), torch.tensor(chosen), 0, batch, 2)))
        assert shown[:, 0, 0, 0].tolist() == chosen


# Which labels are asked for.


def webster(counts: list[int], n: int) -> list[int]:
    """Seat by seat, in exact fractions: to the class with the greatest count / (2 * seats + 1), the first of equals."""
    seats, order = [0] * len(counts), list[int]()
    for _ in range(n):
        quotients = [Fraction(count, 2 * held + 1) for count, held in zip(counts, seats, strict=True)]
        order.append(quotients.index(max(quotients)))
        seats[order[-1]] += 1
    return order


def test_balanced_labels_take_turns() -> None:
    for counts in ([1, 1, 1], [7, 1, 90], [5, 5, 2]):  # what the data have does not matter
        assert labels("balanced", counts, 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert labels("balanced", [4] * 10, 25).tolist() == [*range(10), *range(10), *range(5)]
    assert labels("balanced", [9, 1], 1).tolist() == [0]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # 30/1 30/3 | 10/1 = 30/3: the first of equals | 30/5 30/7 | 10/3 = 30/9
        ([10, 30], [1, 0, 1, 1, 1, 0, 1, 1]),
        # 5/1 3/1 2/1 5/3 | 5/5 = 3/3: the first | 5/7 2/3 3/5
        ([5, 3, 2], [0, 1, 2, 0, 0, 1, 0, 2, 1, 0]),
        # 6/1 6/3 6/5 | 1/1 comes after 6/5, before 6/7
        ([6, 1], [0, 0, 0, 1, 0, 0, 0, 0]),
        ([2, 2, 2], [0, 1, 2, 0, 1, 2, 0]),
    ],
)
def test_labels_like_the_data_by_hand(counts: list[int], expected: list[int]) -> None:
    assert labels("data", counts, len(expected)).tolist() == expected == webster(counts, len(expected))


@pytest.mark.parametrize(
    "counts", [[10, 30], [5, 3, 2], [178, 182, 177, 183, 181, 182, 181, 179, 174, 180], [400, 300, 200, 100], [9, 1]]
)
def test_every_first_few_labels_are_shared_out_like_the_data(counts: list[int]) -> None:
    total = sum(counts)
    found = labels("data", counts, 3 * total).numpy()
    assert np.bincount(found).tolist() == [3 * count for count in counts]  # whole numbers of samples: exactly
    heads = np.cumsum(found[:, None] == np.arange(len(counts)), axis=0)
    due = np.arange(1, 3 * total + 1)[:, None] * np.array(counts) / total
    assert np.abs(heads - due).max() < 1
    shorter = labels("data", counts, total).numpy()
    assert np.array_equal(shorter, found[:total])  # to ask for more changes nothing of what comes first


@pytest.mark.parametrize("n", [0, 1, 2, 10, 24, 25, 26, 60, 75, 76, 99, 100, 101, 150, 200])
def test_many_tiny_classes(n: int) -> None:
    counts = [50] + [1] * 50
    found = labels("data", counts, n).tolist()
    assert len(found) == n
    assert found == webster(counts, n)
    # 0's 25th is due after 24.5 / 0.5 = 49 images, its 26th at 51, and the first of each other class at 0.5 / 0.01 = 50
    assert found[:76] == [*[0] * 25, *range(1, 51), 0][:n]


@pytest.mark.parametrize("seed", range(20))
def test_the_order_is_websters(seed: int) -> None:
    source = np.random.default_rng(seed)
    counts = source.integers(0, 60, source.integers(1, 30)).tolist()
    counts[source.integers(len(counts))] += 1  # never all of them 0
    for n in (1, 7, 50, 200):
        assert labels("data", counts, n).tolist() == webster(counts, n), (counts, n)


def test_a_class_without_images_is_not_asked_for() -> None:
    assert labels("data", [0, 3, 0, 3, 0], 5).tolist() == [1, 3, 1, 3, 1]
    assert labels("balanced", [0, 3, 0, 9], 4).tolist() == [1, 3, 1, 3]


def test_one_class() -> None:
    assert labels(7, [1] * 10, 4).tolist() == [7, 7, 7, 7]
    assert labels(0, [1] * 10, 3).tolist() == [0, 0, 0]
    assert labels("data", [12], 4).tolist() == [0, 0, 0, 0]  # as of images without labels
    assert labels("balanced", [12], 4).tolist() == [0, 0, 0, 0]


def test_labels_are_int64() -> None:
    assert {labels(choice, [3, 1], 5).dtype for choice in ("data", "balanced", 1)} == {torch.int64}


@pytest.mark.parametrize(
    ("classes", "rows", "columns", "expected"),
    [
        ([0], 3, 2, [0, 0, 0]),
        ([5], 1, 10, [5]),
        ([0, 1], 4, 3, [0, 0, 1, 1]),
        ([3, 7], 5, 1, [3, 3, 3, 7, 7]),  # one row more for the first
        ([0, 1, 2, 3], 10, 10, [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]),
        (range(10), 10, 10, list(range(10))),
        (range(4), 4, 10, [0, 1, 2, 3]),
    ],
)
def test_rows_of_classes(classes: Sequence[int], rows: int, columns: int, expected: list[int]) -> None:
    found = rows_of_classes(classes, rows, columns)
    assert (found.shape, found.dtype) == ((rows * columns,), torch.int64)
    assert found.view(rows, columns).tolist() == [[label] * columns for label in expected]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_evaluation_and_is_given_back(training: bool) -> None:
    spy = Spy().train(training)
    batches = sample(spy, torch.zeros(5, dtype=torch.int64), 0, 2, 2)
    next(batches)
    assert not torch.is_inference_mode_enabled()  # between two batches the caller may train
    list(batches)
    assert spy.training is training
    assert spy.calls == [(False, True, 2)] * 3  # equal sizes: the short last batch is filled up
    broken = sample(spy, torch.zeros(5, dtype=torch.int64), 0, 2, 2)
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


def test_names_stand_beside_their_rows() -> None:
    sheet = grid(np.zeros((6, 1, 32, 32), np.uint8), 2)  # three rows, black
    named = name_rows(sheet, ["", "1 dog", "x" * 99])
    left = np.asarray(named)[:, : named.width - sheet.width]
    inks = [(left[2 + 34 * row : 34 + 34 * row] < 128).any(2) for row in range(3)]
    assert not inks[0].any() and 30 < inks[1].sum() < inks[2].sum()
    for ink in inks[1:]:  # in the middle of its row, and all of it on the sheet
        rows, columns = np.nonzero(ink)
        assert 8 <= rows.min() < rows.max() <= 26 and 1 <= columns.min() < columns.max() < left.shape[1] - 2
    assert name_rows(sheet, ["", "", "x" * 16]).size == named.size  # cut to 16 letters
    assert np.array_equal(np.asarray(named)[:, left.shape[1] :], np.asarray(sheet))


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
