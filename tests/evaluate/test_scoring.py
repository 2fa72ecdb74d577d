"""What record.json says of a model's samples: numbers, protocol, versions, and the best checkpoint's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.core.checksums import verify_checksums
from pipeline.evaluate.scoring import collapsed, key_numbers, score_samples
from pipeline.metrics import (
    Extractor,
    FeatureSet,
    Gaussian,
    Reference,
    frechet_distance,
    metric_versions,
    protocol_of,
)
from pipeline.params import MetricsParams
from tests.recipes import tiny_params

INFO = {
    "model": "toy", "seed": 3, "pixel_std_ratio": 1.0, "init_from": None,
    "best": {"step": 20, "distance": 7.5}, "curve": {"samples": 64}, "images_seen": 640,
}  # fmt: skip


class Means(nn.Module):
    """The mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


EXTRACTOR = Extractor("toy", "fd_toy", 3, Means(), torch.device("cpu"), {"extractor": "toy"}, version="of its code")


def images(count: int, seed: int, low: int = 0) -> np.ndarray:
    """uint8 (N, 3, 4, 4)"""
    return np.random.default_rng(seed).integers(low, 256, (count, 3, 4, 4), dtype=np.uint8)


def features(shown: np.ndarray) -> np.ndarray:
    return shown.astype(np.float32).mean(axis=(2, 3))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return frechet_distance(*(Gaussian.from_features(features(shown)) for shown in (first, second)))


@pytest.fixture
def scored(tmp_path: Path, metrics_params: Callable[..., MetricsParams]) -> Callable[..., dict[str, Any]]:
    """record.json of samples against 40 training and 20 test images."""
    real, test = images(40, 0), images(20, 1)
    params = tiny_params({"generate.seed": 5}).model_copy(update={"metrics": metrics_params("toy", bootstrap=2)})
    floor = {"data_sha256": "d" * 64}
    reference = Reference(FeatureSet(features(real)), FeatureSet(features(test)), floor)

    def score(samples: dict[str, np.ndarray], **info: Any) -> dict[str, Any]:
        out = tmp_path / "toy-3"
        returned = score_samples(samples, None, real, INFO | info, params, EXTRACTOR, reference, out)
        verify_checksums(out)
        assert json.loads((out / "record.json").read_text()) == returned
        with Image.open(out / "closest.png") as shown:
            assert shown.size[0] > 40  # ten pairs of pictures of 4 pixels
        return returned

    return score


def test_the_record_of_a_model(scored: Callable[..., dict[str, Any]]) -> None:
    final, best = images(30, 2, 60), images(30, 3, 20)
    found = scored({"images": final, "best": best})
    assert (found["model"], found["seed"], found["collapsed"]) == ("toy", 3, [])
    assert found["fd_toy"] == pytest.approx(distance(images(40, 0), final), rel=1e-6)
    assert found["floor"] == pytest.approx(distance(images(40, 0), images(20, 1)), rel=1e-6)
    assert found["ratio_to_floor"] == pytest.approx(found["fd_toy_at_floor"] / found["floor"], rel=1e-12)
    assert found["best"]["fd_toy"] == pytest.approx(distance(images(40, 0), best), rel=1e-6)
    assert found["best"]["fd_toy"] < found["fd_toy"]
    assert (found["best"]["step"], found["best"]["selected_by"]) == (20, {"distance": 7.5, "samples": 64})
    assert found["not_available"]["classes"] == "the real images have no classes"
    assert found["versions"] == metric_versions(EXTRACTOR)
    assert found["protocol"] == {
        **protocol_of(EXTRACTOR), "name": "train40-30", "real_split": "train", "real_images": 40, "held_out_images": 20,
        "generated_images": 30, "floor_images": 20, "data_sha256": "d" * 64, "generator": "ema",
        "batch_norm": "running statistics", "checkpoint": "final", "sampling_seed": 5, "labels": "data",
        "initialised_from": "nothing",
    }  # fmt: skip


def test_the_ratio_is_of_equally_many_images(scored: Callable[..., dict[str, Any]]) -> None:
    few = scored({"images": images(20, 2, 60)})
    assert few["fd_toy_at_floor"] == few["fd_toy"] and few["protocol"]["floor_images"] == 20
    fewer = scored({"images": images(10, 2, 60)})  # then the test images are measured ten by ten, twice
    assert fewer["fd_toy_at_floor"] == fewer["fd_toy"] and fewer["protocol"]["floor_images"] == 10
    assert fewer["floor"] > few["floor"] and fewer["best"]["ratio_to_floor"] == fewer["ratio_to_floor"]


def test_few_numbers_are_for_dvc(scored: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    record = scored({"images": images(30, 2, 60), "best": images(30, 3, 20)})
    assert json.loads((tmp_path / "toy-3/metrics.json").read_text()) == {
        "fd_toy": record["fd_toy"], "sampling_error": record["sampling_error"]["fd_toy"],
        "ratio_to_floor": record["ratio_to_floor"], "kd_toy": record["kd_toy"], "precision": record["precision"],
        "recall": record["recall"], "best_checkpoint": record["best"]["fd_toy"], "images_seen": 640,
    }  # fmt: skip
    held = {"fd_toy": 3.0, "sampling_error": {}, "best": {"fd_toy": 2.0}}  # what could not be measured is left out
    assert key_numbers(held, "fd_toy", 8) == {"fd_toy": 3.0, "best_checkpoint": 2.0, "images_seen": 8}


def test_the_final_generator_may_be_the_best(scored: Callable[..., dict[str, Any]]) -> None:
    found = scored({"images": images(30, 2)}, init_from={"name": "old", "sha256": "abc"})
    assert found["best"]["fd_toy"] == found["fd_toy"]
    assert found["protocol"]["initialised_from"] == "old@abc"


@pytest.mark.parametrize(
    ("record", "pixel_std_ratio", "expected"),
    [
        ({"precision": 0.05, "coverage": 0.05 * 0.97}, 0.3, []),  # of 1,000 on each side a perfect model covers 0.969
        ({"precision": 0.0499}, 0.3, ["precision 0.050"]),
        ({"precision": 0.9, "coverage": 0.04}, 0.001, ["coverage 0.040", "pixel_std_ratio 0.001"]),
        ({}, 0.3, []),
    ],
)
def test_what_says_that_a_model_has_collapsed(
    record: dict[str, float], pixel_std_ratio: float, expected: list[str]
) -> None:
    assert collapsed(record, pixel_std_ratio, 1000, 1000) == expected
