"""What D is shown: each augmentation against its definition, its range, its draws; gradients; instance noise."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.core.randomness import Draws, rng
from pipeline.gan.augment import AUGMENTATIONS
from pipeline.gan.augment import augment_for_discriminator as show

ALL = tuple(AUGMENTATIONS)


def pictures(count: int = 64, channels: int = 3, size: int = 16) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def done(name: str, images: Tensor, seed: int = 0) -> Tensor:
    strength = (1.0,) if AUGMENTATIONS[name].graded else ()
    return AUGMENTATIONS[name].transform(images, Draws(torch.Generator().manual_seed(seed)), *strength)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """One image moved, pixel after pixel."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[:, y, x] = image[:, y - down, x - right]
    return result


@pytest.mark.parametrize(("size", "reach"), [(8, 1), (16, 2), (28, 4), (20, 3)])
def test_translation_moves_by_up_to_an_eighth(size: int, reach: int) -> None:
    images = pictures(200, 2, size)
    moved, moves = done("translation", images), []
    steps = range(-reach - 1, reach + 2)
    table = {(y, x): torch.stack([shifted(images[0], y, x)]) for y in steps for x in steps}
    for image in moved[:1]:
        moves += [move for move, expected in table.items() if torch.equal(image, expected[0])]
    assert len(moves) == 1
    # all images: found by where their first and last rows and columns of zeros are
    found = set()
    for image in moved:
        rows, columns = (image.abs().sum(dim=(0, axis)) for axis in (2, 1))
        edges = []
        for line in (rows, columns):
            kept = line.nonzero().flatten()
            edges.append(int(kept[0]) if kept[0] else int(kept[-1]) - (size - 1))
        found.add(tuple(edges))
    assert {y for y, _ in found} == {x for _, x in found} == set(range(-reach, reach + 1))
    assert len(found) > 2 * reach + 1  # the two directions are drawn apart


def test_translation_of_every_image_is_a_shift() -> None:
    images = pictures(20, 2, 8)
    for image, result in zip(images, done("translation", images), strict=True):
        matches = [(y, x) for y in range(-1, 2) for x in range(-1, 2) if torch.equal(shifted(image, y, x), result)]
        assert len(matches) == 1


def test_colour_by_its_formula() -> None:
    images = pictures(6)
    draws = torch.rand(3, 6, 1, 1, 1, generator=torch.Generator().manual_seed(0)).flatten(1).tolist()
    result = done("colour", images)
    for i in range(6):
        brightness, saturation, contrast = draws[0][i] - 0.5, 2 * draws[1][i], draws[2][i] + 0.5
        lit = images[i] + brightness
        grey = (lit[0] + lit[1] + lit[2]) / 3
        saturated = torch.stack([grey + saturation * (lit[c] - grey) for c in range(3)])
        expected = contrast * saturated + (1 - contrast) * saturated.mean()
        torch.testing.assert_close(result[i], expected, rtol=0, atol=1e-5)


def test_colour_ranges() -> None:
    images = pictures(4000, 3, 4)
    result = done("colour", images)
    brightness = result.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))  # contrast and saturation keep the mean
    assert brightness.min() + 1e-5 >= -0.5 and brightness.max() - 1e-5 <= 0.5
    assert brightness.mean().item() == pytest.approx(0, abs=5 * math.sqrt(1 / 12 / 4000))
    assert brightness.var().item() == pytest.approx(1 / 12, abs=0.005)
    grey = [x.mean(dim=1, keepdim=True) for x in (images, result)]
    contrasts = [(x - x.mean(dim=(1, 2, 3), keepdim=True)).flatten(1).norm(dim=1) for x in grey]
    contrast = contrasts[1] / contrasts[0]
    assert 0.5 - 1e-3 <= contrast.min() < 0.51 and 1.49 < contrast.max() <= 1.5 + 1e-3
    colours = [(x - g).flatten(1).norm(dim=1) for x, g in zip((images, result), grey, strict=True)]
    saturation = colours[1] / colours[0] / contrast
    assert 0 <= saturation.min() < 0.01 and 1.99 < saturation.max() <= 2 + 1e-3
    assert saturation.mean().item() == pytest.approx(1, abs=5 * math.sqrt(4 / 12 / 4000))


def test_colour_of_grey_images_has_no_saturation() -> None:
    images = pictures(50, 1)
    grey, colour = done("colour", images), done("colour", images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(colour, grey.expand_as(colour), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [8, 10, 16, 28])
def test_cutout_is_one_square_of_half_the_side(size: int) -> None:
    images = pictures(600, 2, size) + 3  # no pixel is 0
    result = done("cutout", images)
    cut, edge = result == 0, size // 2
    least = (edge + 1) // 2  # what is left of the square when its centre lies at the image's edge
    assert torch.equal(result[~cut], images[~cut])
    assert torch.equal(cut[:, 0], cut[:, 1])
    firsts = set()
    for mask in cut[:, 0]:
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a full rectangle
        for line in (rows, columns):
            inside = line[0] > 0 and line[-1] < size - 1
            assert (len(line) == edge) if inside else (least <= len(line) <= edge)
        firsts.add((int(rows[0]), len(rows)))
    assert {length for _, length in firsts} == set(range(least, edge + 1))
    assert max(first for first, _ in firsts) == size - least


@pytest.mark.parametrize("name", ALL)
def test_each_image_is_drawn_apart(name: str) -> None:
    image = pictures(1).expand(64, -1, -1, -1)
    assert len({tuple(x.flatten().tolist()) for x in done(name, image)}) > 8


@pytest.mark.parametrize("name", ALL)
def test_gradients_flow_and_are_those_of_differences(name: str) -> None:
    images = pictures(5, 3, 8).double().requires_grad_()
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if name != "colour":  # which works in float32
        assert torch.autograd.gradcheck(lambda x: done(name, x).double(), images.detach()[:1].requires_grad_())
    (done(name, images).double() * weights).sum().backward()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        around = [((done(name, images + step * direction).double()) * weights).sum() for step in (0.5, -0.5)]
    expected = (around[0] - around[1]).item()  # augmentations are affine, so any step is right
    assert (images.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4)
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("name", ALL)
def test_draws_are_named(name: str) -> None:
    images = pictures(8)
    first = show(images, {name: 1.0}, 0, 0, "real", 5)
    strength = (1.0,) if AUGMENTATIONS[name].graded else ()
    draws = Draws(rng("cpu", 0, "augment", name, "real", 5))
    assert torch.equal(first, AUGMENTATIONS[name].transform(images, draws, *strength))
    torch.manual_seed(3)
    assert torch.equal(first, show(images, {name: 1.0}, 0, 0, "real", 5))
    for other in [(1, "real", 5), (0, "fake", 5), (0, "real", 6)]:
        assert not torch.equal(first, show(images, {name: 1.0}, 0, *other))


def test_augmentations_follow_the_list() -> None:
    images = pictures(8)
    expected = images
    for name in ("cutout", "colour", "translation"):
        expected = show(expected, {name: 1.0}, 0, 0, "g", 1)
    assert torch.equal(show(images, dict.fromkeys(("cutout", "colour", "translation"), 1.0), 0, 0, "g", 1), expected)
    assert not torch.equal(
        show(images, dict.fromkeys(("colour", "translation", "cutout"), 1.0), 0, 0, "g", 1), expected
    )


def test_nothing_asked_is_nothing_done() -> None:
    images = pictures(4)
    assert show(images, {}, 0.0, 0, "real", 0) is images


def test_instance_noise() -> None:
    images = pictures(256).requires_grad_()
    noisy = show(images, {}, 0.25, 0, "real", 3)
    noise = (noisy - images).detach()
    count = noise.numel()
    assert noise.mean().item() == pytest.approx(0, abs=5 * 0.25 / math.sqrt(count))
    assert noise.std().item() == pytest.approx(0.25, abs=5 * 0.25 / math.sqrt(2 * count))
    assert noise.abs().max() > 0.75  # Gaussian, not uniform
    assert torch.equal(noisy, show(images, {}, 0.25, 0, "real", 3))
    for other in [(1, "real", 3), (0, "fake", 3), (0, "real", 4)]:
        assert not torch.equal(noisy, show(images, {}, 0.25, *other))
    noisy.sum().backward()
    assert (images.grad == 1).all()


def test_noise_lies_upon_the_augmented_image() -> None:
    images = pictures(8)
    both, one = show(images, {"cutout": 1.0}, 0.5, 0, "g", 1), show(images, {"cutout": 1.0}, 0, 0, "g", 1)
    torch.testing.assert_close(both - one, show(images, {}, 0.5, 0, "g", 1) - images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_on_the_meta_device(dtype: torch.dtype, channels: int) -> None:
    images = torch.empty(4, channels, 16, 16, dtype=dtype, device="meta")
    result = show(images, dict.fromkeys(ALL, 1.0), 0.1, 0, "real", 0)
    assert (result.device.type, result.shape, result.dtype) == ("meta", images.shape, torch.float32)
