"""Batches are a pure function of seed and index."""

import pytest
import torch

from pipeline.core.errors import PipelineError
from pipeline.data import batches
from pipeline.data.batches import ImageSet, batch


@pytest.fixture(scope="module")
def ramp() -> ImageSet:
    """103 images: image i is i on its left and 128 + i on its right; its label is i."""
    images = torch.arange(103, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 4)
    images[..., 2:] += 128
    return ImageSet(images, torch.arange(103), 103)


def plain(images: ImageSet, index: int, size: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return batch(images, index, size, seed, flip=False, dequantise=False)


def test_every_epoch_covers_without_repeats(ramp: ImageSet) -> None:
    epochs = [torch.cat([plain(ramp, 10 * e + i)[1] for i in range(10)]).tolist() for e in range(3)]
    for epoch in epochs:  # 10 whole batches of 10 out of 103
        assert len(epoch) == 100 == len(set(epoch))
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(100))
    assert len({frozenset(range(103)) - frozenset(epoch) for epoch in epochs}) == 3  # others are left out each time


def test_labels_belong_to_their_images_and_values_are_exact(ramp: ImageSet) -> None:
    values, labels = plain(ramp, 7)
    assert values.dtype == torch.float32 and labels.dtype == torch.int64
    left = labels.float() / 127.5 - 1
    assert torch.equal(values[:, 0, 0, 0], left) and torch.equal(values[:, 0, 1, 3], (labels + 128).float() / 127.5 - 1)
    extremes = ImageSet(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), torch.tensor([0, 1]), 2)
    values, labels = plain(extremes, 0, 2)
    assert dict(zip(labels.tolist(), values.flatten().tolist(), strict=True)) == {0: -1.0, 1: 1.0}


def test_a_batch_is_a_pure_function(ramp: ImageSet) -> None:
    wanted = {i: batch(ramp, i, 10, 5, True, True) for i in (0, 9, 10, 31)}
    torch.manual_seed(1)
    for i in (31, 0, 10, 9):  # another order, another global state, an empty cache
        batches._epoch_order.cache_clear()
        values, labels = batch(ramp, i, 10, 5, True, True)
        assert torch.equal(values, wanted[i][0]) and torch.equal(labels, wanted[i][1])
    state = torch.get_rng_state()
    batch(ramp, 3, 10, 5, True, True)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(batch(ramp, 0, 10, 6, True, True)[1], wanted[0][1])
    assert ramp.images[5, 0, 0].tolist() == [5, 5, 133, 133], "the images were written to"


def test_flip_mirrors_about_half_of_the_images(ramp: ImageSet) -> None:
    mirrored, total, patterns = 0, 0, set()
    for i in range(200):
        straight, labels = plain(ramp, i)
        values, same = batch(ramp, i, 10, 0, flip=True, dequantise=False)
        assert torch.equal(labels, same)
        patterns.add(tuple((values != straight).flatten(1).any(1).tolist()))
        for one, other in zip(values, straight, strict=True):
            assert torch.equal(one, other) or torch.equal(one, other.flip(-1))
            mirrored, total = mirrored + (not torch.equal(one, other)), total + 1
    assert 910 <= mirrored <= 1090 and total == 2000  # 1000 +- 4 standard deviations
    assert len(patterns) > 150  # each batch draws anew


def test_dequantise_adds_noise_of_the_stated_range(ramp: ImageSet) -> None:
    differences = []
    for i in range(40):
        noisy, labels = batch(ramp, i, 10, 0, flip=False, dequantise=True)
        exact, same = plain(ramp, i)
        assert torch.equal(labels, same)
        differences.append(noisy - exact)
    noise = torch.stack(differences)  # 3200 draws
    assert noise.min() >= -1e-7 and noise.max() <= 1 / 128 + 1e-7
    assert noise.min() < 0.01 / 128 and noise.max() > 0.99 / 128
    assert abs(noise.mean().item() * 128 - 0.5) < 0.025  # 5 standard errors
    assert not torch.equal(differences[0], differences[1]) and noise[0].std() > 0.1 / 128


def test_a_batch_as_large_as_the_set_and_one_larger(ramp: ImageSet) -> None:
    for index in (0, 5):
        assert sorted(plain(ramp, index, 103)[1].tolist()) == list(range(103))
    with pytest.raises(PipelineError, match="batch_size: must be at most the number of training images, 103, got 104"):
        plain(ramp, 0, 104)
