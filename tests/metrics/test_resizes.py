"""The resizes of the named FID protocols, each against an implementation that shares no code with ours."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.metric_names import distance_name
from pipeline.evaluate.stated import _metric
from pipeline.metrics.extractors import inception, inception_clean, inception_tf, inception_torchmetrics
from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.protocols import under_protocol

SIZES = (32, 48, 64, 299, 400)
OUT = 299


def random_images(size: int) -> np.ndarray:
    """uint8 (2, size, size + 3, 3): not square, so that the axes are told apart."""
    return np.random.default_rng(size).integers(0, 256, (2, size, size + 3, 3), dtype=np.uint8)


def by_formula(image: np.ndarray, source: Callable[[np.ndarray, float], np.ndarray]) -> np.ndarray:
    """Bilinear (299, 299, 3) of an image (H, W, 3), pixel i taken from `source(i, in / out)`, edges repeated."""
    result = image.astype(np.float64)
    for axis in (0, 1):
        size = image.shape[axis]
        places = source(np.arange(OUT), size / OUT).clip(0, size - 1)
        lower = np.floor(places).astype(int)
        share = np.expand_dims(places - lower, [one for one in range(3) if one != axis])
        near, far = (np.take(result, rows, axis) for rows in (lower, np.minimum(lower + 1, size - 1)))
        result = near * (1 - share) + far * share
    return result


def with_triangles(image: np.ndarray) -> np.ndarray:
    """Antialiased bilinear (299, 299, 3): means weighted by triangles that widen as an image shrinks."""
    result = image.astype(np.float64)
    for axis in (0, 1):
        size = image.shape[axis]
        scale = size / OUT
        centres = (np.arange(OUT) + 0.5) * scale
        away = np.abs(np.arange(size)[None] + 0.5 - centres[:, None]) / max(scale, 1)
        weights = np.maximum(1 - away, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        result = np.moveaxis(np.tensordot(weights, result, (1, axis)), 0, axis)
    return result


def with_pillow(image: np.ndarray) -> np.ndarray:
    channels = [Image.fromarray(image[..., i].astype(np.float32), "F") for i in range(3)]
    found = [np.asarray(channel.resize((OUT, OUT), Image.Resampling.BICUBIC)) for channel in channels]
    return np.clip(np.stack(found, axis=2), 0, 255)


CASES = {
    "pytorch-fid": (
        lambda images: (inception._resize(images) + 1) * 127.5,
        lambda image: by_formula(image, lambda i, scale: (i + 0.5) * scale - 0.5),
    ),
    "tf": (inception_tf.resized, lambda image: by_formula(image, lambda i, scale: i * scale)),
    "torchmetrics": (inception_torchmetrics.resized, with_triangles),
    "clean": (inception_clean.resized, with_pillow),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_a_resize_equals_an_independent_one(name: str, size: int) -> None:
    ours, theirs = CASES[name]
    images = random_images(size)
    found = ours(torch.from_numpy(images).permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1).numpy()
    expected = np.stack([theirs(image) for image in images])
    assert found.shape == expected.shape == (2, OUT, OUT, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if name == "clean" else 0.02)


@pytest.mark.parametrize("size", SIZES)
def test_the_resizes_differ(size: int) -> None:
    """But for those of which one is the other where nothing shrinks: antialiasing is idle there."""
    images = torch.from_numpy(random_images(size)).permute(0, 3, 1, 2).float()
    results = {name: ours(images) for name, (ours, _) in CASES.items()}
    near = {
        frozenset((one, other))
        for one in results
        for other in results
        if one < other and (results[one] - results[other]).abs().max() < 1
    }
    idle = {frozenset(("pytorch-fid", "torchmetrics"))} if size < OUT else set()
    assert near == idle


def test_what_clean_fid_clips_and_does_not_round() -> None:
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 255
    found = inception_clean.resized(step)
    assert found.min() == 0 and found.max() == 255  # bicubic alone overshoots on either side of an edge
    assert ((found > 0) & (found < 255) & (found != found.round())).any()


@pytest.mark.parametrize("unknown", ["", "0123456789abcdef"])
def test_a_distance_is_called_the_same_where_it_is_measured_and_where_a_file_says_how_it_was_made(unknown: str) -> None:
    metric = distance_name("inception", unknown)
    plain = Extractor("inception", metric, 4, torch.nn.Identity(), torch.device("cpu"), {"extractor": "inception"})
    made = under_protocol(plain, "tf", inception_tf.RESIZE, inception_tf.resized)
    stated = _metric("inception_tf", {"weights_sha256": unknown or inception.SHA256})
    assert made.metric == stated == ("fd_inception_01234567_tf" if unknown else "fid_tf")
