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
    floor = {"data_sha256": "d" * 64, "metrics": {}}
    reference = Reference(FeatureSet(features(real)), FeatureSet(features(test)), floor)

    def score(samples: dict[str, np.ndarray], **info: Any) -> dict[str, Any]:
        out = tmp_path / "toy-3"
        picture = tmp_path / "closest/toy-3.png"
        returned = score_samples(samples, None, real, INFO | info, params, EXTRACTOR, reference, out, picture)
        assert json.loads((out / "record.json").read_text()) == returned
        with Image.open(picture) as shown:
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


LIKE_REAL = {"precision": 0.75, "recall": 0.7, "density": 1.0, "coverage": 0.95, "class_rarest": 0.8}
GREY_NOISE = {"precision": 1.0, "recall": 0.0, "density": 1.4, "coverage": 0.01, "class_rarest": 0.0}


def signs(record: dict[str, float], generated: int = 1000, floor: dict[str, float] | None = None, **info: Any) -> Any:
    """What says that a model has collapsed, of 1,000 training images of 10 classes, 0.97 of which can be covered."""
    reference = Reference(
        FeatureSet(np.zeros((1000, 3), np.float32), np.arange(1000) % 10),
        FeatureSet(np.zeros((9, 3), np.float32)),
        {"metrics": LIKE_REAL if floor is None else floor},
    )
    learnt = {"pixel_std_ratio": 0.3, "init_from": None, "curve": {"untrained": 100.0, "final": 20.0}}
    return collapsed(record, learnt | info, reference, generated)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("precision", 0.05 * 0.75), ("recall", 0.02 * 0.7), ("density", 0.05), ("coverage", 0.05 * 0.95),
        ("class_rarest", 0.02 * 0.8),
    ],
)  # fmt: skip
def test_each_metric_has_its_least_as_a_share_of_what_real_images_reach(name: str, least: float) -> None:
    assert signs(LIKE_REAL | {name: 1.01 * least}) == []
    assert signs(LIKE_REAL | {name: 0.98 * least}) == [f"{name} {0.98 * least:.3f}"]
    assert signs({name: 0.02 * least}, floor=LIKE_REAL | {name: 0.0}) == []  # as of one image repeated


def test_the_default_models_have_not_collapsed() -> None:
    for model in ("dcgan", "sagan", "resnet"):  # digits, 1,500 steps
        record = {
            "dcgan": {"precision": 0.62, "recall": 0.87, "density": 0.37, "coverage": 0.56, "class_rarest": 0.32},
            "sagan": {"precision": 0.65, "recall": 0.60, "density": 0.33, "coverage": 0.42, "class_rarest": 0.43},
            "resnet": {"precision": 0.68, "recall": 0.53, "density": 0.37, "coverage": 0.45, "class_rarest": 0.09},
        }[model]
        assert signs(record, 1438) == []


def test_grey_noise_has_collapsed_and_learnt_nothing() -> None:
    assert signs(GREY_NOISE, curve={"untrained": 50.0, "final": 50.0}) == [
        "recall 0.000", "coverage 0.010", "class_rarest 0.000",
        "small-sample distance 1.00 times the untrained generator's",
    ]  # fmt: skip
    for name in ("recall", "class_rarest"):  # each by itself
        assert signs(LIKE_REAL | {name: 0.0}) == [f"{name} 0.000"]


def test_a_missing_class_counts_only_where_it_could_not_be_chance() -> None:
    missing = {"class_rarest": 0.0}
    assert signs(missing, generated=200) == ["class_rarest 0.000"]  # 20 of each class are expected
    assert signs(missing, generated=199) == []


def test_the_gain_over_the_untrained_generator() -> None:
    assert signs({}, curve={"untrained": 100.0, "final": 80.0}) == []
    told = ["small-sample distance 0.81 times the untrained generator's"]
    assert signs({}, curve={"untrained": 100.0, "final": 80.6}) == told
    # Another run's weights are no untrained ones; and a curve may have no first point.
    assert signs({}, curve={"untrained": 100.0, "final": 99.0}, init_from={"name": "old", "sha256": "abc"}) == []
    assert signs({}, curve={"untrained": None, "final": 99.0}) == []


def test_images_that_are_all_alike() -> None:
    assert signs({}, pixel_std_ratio=0.05) == [] and signs({}, pixel_std_ratio=0.049) == ["pixel_std_ratio 0.049"]


def test_few_images_cannot_cover_much() -> None:
    # With 10 of 1,000 a perfect model covers 0.049: a twentieth of that is too little.
    assert signs({"coverage": 0.003}, generated=10) == []
    assert signs({"coverage": 0.002}, generated=10) == ["coverage 0.002"]


def test_samples_of_one_class_are_measured_against_this_class(
    tmp_path: Path, metrics_params: Callable[..., MetricsParams]
) -> None:
    real, test, shown = np.concatenate([images(40, 0), images(30, 4, 120)]), images(20, 1, 110), images(30, 2, 100)
    labels, test_labels = np.repeat([0, 1], [40, 30]), np.repeat([1, 0], [15, 5])
    reference = Reference(
        FeatureSet(features(real), labels), FeatureSet(features(test), test_labels),
        {"data_sha256": "d" * 64, "metrics": {"precision": 0.0}},
    )  # fmt: skip
    for asked, train, held_out in [(1, real[40:], test[:15]), ("data", real, test)]:
        params = tiny_params({"generate.labels": asked}).model_copy(update={"metrics": metrics_params("toy")})
        out = tmp_path / str(asked)
        picture = tmp_path / f"{asked}.png"
        ones = np.ones(30, int)
        found = score_samples({"images": shown}, ones, real, INFO, params, EXTRACTOR, reference, out, picture)
        assert found["fd_toy"] == pytest.approx(distance(train, shown), rel=1e-6)
        if asked == 1:
            assert found["floor"] == pytest.approx(distance(train, held_out), rel=1e-6)
        protocol = {
            key: found["protocol"][key] for key in ("name", "real_split", "real_images", "held_out_images", "labels")
        }
        assert protocol == {
            1: {"name": "train30-30, class 1", "real_split": "train, class 1", "real_images": 30,
                "held_out_images": 15, "labels": "class 1"},
            "data": {"name": "train70-30", "real_split": "train", "real_images": 70, "held_out_images": 20,
                     "labels": "data"},
        }[asked]  # fmt: skip
    # The pairs in the picture are of this class: its images are brighter than 119.
    with Image.open(tmp_path / "1.png") as opened:
        pixels = np.asarray(opened)
    assert pixels[opened.size[1] // 2 :].min() >= 120
