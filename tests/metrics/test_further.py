"""Further extractors of one run: their references, floors and names, and what is said where weights are missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.core.checksums import verify_checksums
from pipeline.core.errors import PipelineError
from pipeline.evaluate.scoring import Further, score_samples
from pipeline.experiment import code_version
from pipeline.metrics import (
    EXTRACTORS,
    Extractor,
    Gaussian,
    frechet_distance,
    load_extractor,
    load_reference,
    measure_reference,
)
from pipeline.metrics.extractors.weights import WeightsFile
from pipeline.metrics.further import further_extractors, further_metrics, named
from pipeline.params import MetricsParams
from tests.recipes import tiny_params, tiny_recipe

Params = Callable[..., MetricsParams]
CPU = torch.device("cpu")
INFO = {
    "model": "toy", "seed": 3, "pixel_std_ratio": 1.0, "init_from": None, "images_seen": 640,
    "best": {"step": 20, "distance": 7.5}, "curve": {"samples": 64},
}  # fmt: skip


class Means(nn.Module):
    """The means of the three channels, and of the upper half if `halves`."""

    def __init__(self, halves: bool) -> None:
        super().__init__()
        self.halves = halves

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean(dim=(2, 3))
        return torch.cat([means, images[:, :, :2].mean(dim=(2, 3))], dim=1) if self.halves else means


def extractor(name: str, halves: bool) -> Extractor:
    dim = 6 if halves else 3
    return Extractor(name, f"fd_{name}", dim, Means(halves), CPU, {"extractor": name}, version="1")


def load_other(params: MetricsParams, device: torch.device) -> Extractor:
    return extractor("other", True)


def load_absent(params: MetricsParams, device: torch.device) -> Extractor:
    assert params.weights is None  # metrics.weights are the first one's
    WeightsFile("absent", Path("nowhere.pth"), "0", "fetch it").load(False)
    raise AssertionError


@pytest.fixture(autouse=True)
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRACTORS, "other", load_other)
    monkeypatch.setitem(EXTRACTORS, "absent", load_absent)


def images(count: int, seed: int, low: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 256, (count, 3, 4, 4), dtype=np.uint8)


def distance(halves: bool, first: np.ndarray, second: np.ndarray) -> float:
    network = Means(halves)
    rows = [network(torch.from_numpy(side).float()).numpy() for side in (first, second)]
    return frechet_distance(*map(Gaussian.from_features, rows))


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    folder = tmp_path / "prepared"
    folder.mkdir()
    np.save(folder / "train.npy", images(40, 0))
    np.save(folder / "test.npy", images(20, 1))
    return folder


DESCRIPTION = {"sha256": "d" * 64, "classes": []}


def test_each_has_its_own_reference_and_floor(
    prepared: Path, tmp_path: Path, metrics_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    params = metrics_params("first", further_extractors=["other", "absent"], weights="of_the_first.pth")
    first, out = extractor("first", False), tmp_path / "reference"
    floor = measure_reference(prepared, DESCRIPTION, first, params, out)
    assert floor == json.loads((out / "floor.json").read_text())
    verify_checksums(out)
    sides = images(40, 0), images(20, 1)
    assert (floor["metric"], floor["value"]) == ("fd_first", pytest.approx(distance(False, *sides)))
    assert floor["metrics"]["fd_other"] == pytest.approx(distance(True, *sides), rel=1e-5)
    assert {"precision", "kd_first", "other/precision", "kd_other"} <= floor["metrics"].keys()
    assert "fd_absent is not measured: the weights nowhere.pth do not exist: fetch it" in capsys.readouterr().err
    other = load_reference(out / "other", extractor("other", True))
    assert other.train.features.shape == (40, 6) and load_reference(out, first).train.features.shape == (40, 3)
    assert other.floor["value"] == floor["metrics"]["fd_other"] and other.floor["metric"] == "fd_other"
    assert not (out / "absent").exists()
    alone = measure_reference(prepared, DESCRIPTION, first, metrics_params("first"), tmp_path / "alone")
    assert {key: floor["metrics"][key] for key in alone["metrics"]} == alone["metrics"]  # bit for bit


def test_numbers_stand_beside_those_of_the_first(prepared: Path, tmp_path: Path, metrics_params: Params) -> None:
    metrics = metrics_params("first", further_extractors=["other", "absent"], bootstrap=2)
    first, out = extractor("first", False), tmp_path / "reference"
    measure_reference(prepared, DESCRIPTION, first, metrics, out)
    params = tiny_params().model_copy(update={"metrics": metrics})
    shown = {"images": images(30, 2, 60), "best": images(30, 3, 20)}

    def score(further: list[Further], name: str) -> dict[str, Any]:
        reference = load_reference(out, first)
        closest = tmp_path / "closest.png"
        return score_samples(
            shown, None, images(40, 0), INFO, params, first, reference, tmp_path / name, closest, further
        )

    loaded: list[Further] = [
        (name, one, None if isinstance(one, str) else load_reference(out / name, one))
        for name, one in further_extractors(metrics, CPU)
    ]
    alone, both = score([], "alone"), score(loaded, "both")
    assert json.loads((tmp_path / "both/record.json").read_text()) == both
    assert both["fd_other"] == pytest.approx(distance(True, images(40, 0), shown["images"]), rel=1e-5)
    assert both["best"]["fd_other"] == pytest.approx(distance(True, images(40, 0), shown["best"]), rel=1e-5)
    assert both["other/ratio_to_floor"] == pytest.approx(both["fd_other_at_floor"] / both["other/floor"])
    assert both["sampling_error"]["fd_other"] > 0 and "other/precision" in both
    assert both["not_available"].pop("fd_absent") == "the weights nowhere.pth do not exist: fetch it"
    assert both["further"].keys() == {"other"}
    assert both["further"]["other"]["metric"] == "fd_other"
    assert both["further"]["other"]["protocol"]["extractor"] == "other"
    assert both["protocol"] == alone["protocol"]  # the ranking is by the first, whatever stands beside it
    assert both["not_available"] == alone["not_available"]
    for key, value in alone.items():
        assert key in ("best", "sampling_error") or both[key] == value
    assert json.loads((tmp_path / "both/metrics.json").read_text()) == json.loads(
        (tmp_path / "alone/metrics.json").read_text()
    )


def test_where_the_final_generator_is_the_best_it_has_the_same_numbers(
    prepared: Path, tmp_path: Path, metrics_params: Params
) -> None:
    metrics, first, out = (
        metrics_params("first", further_extractors=["other"]),
        extractor("first", False),
        tmp_path / "r",
    )
    measure_reference(prepared, DESCRIPTION, first, metrics, out)
    params = tiny_params().model_copy(update={"metrics": metrics})
    other: Further = ("other", load_other(metrics, CPU), load_reference(out / "other", load_other(metrics, CPU)))
    found = score_samples(
        {"images": images(30, 2)}, None, images(40, 0), INFO, params, first, load_reference(out, first), tmp_path / "s",
        tmp_path / "s.png", [other],
    )  # fmt: skip
    assert found["best"]["fd_other"] == found["fd_other"]


def test_names_under_a_further_extractor() -> None:
    values = {"fd_other": 1.0, "fd_other_at_floor": 2.0, "kd_other": 3.0, "recall": 4.0, "floor": 5.0}
    assert named(values, extractor("other", True)) == {
        "fd_other": 1.0, "fd_other_at_floor": 2.0, "kd_other": 3.0, "other/recall": 4.0, "other/floor": 5.0,
    }  # fmt: skip
    assert not {"classes", "class_votes"} & {*further_metrics()} and {"fid", "kid", "prdc"} <= {*further_metrics()}


def test_wrong_weights_are_no_missing_ones(
    metrics_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    params = metrics_params("efficientnet_lite0", further_extractors=["inception"])
    assert "fetch it from https://" in str(dict(further_extractors(params, CPU))["inception"])
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/pt_inception-2015-12-05-6726825d.pth").write_bytes(b"planted")
    with pytest.raises(PipelineError, match="are not the known ones"):
        list(further_extractors(params, CPU))


def test_a_further_extractor_trains_nothing_anew(metrics_params: Params) -> None:
    before = code_version(tiny_recipe(), "efficientnet_lite0")
    EXTRACTORS["another"] = load_other
    try:
        assert code_version(tiny_recipe(), "efficientnet_lite0") == before
        first = load_extractor(metrics_params(), CPU)
        with_more = load_extractor(metrics_params(further_extractors=["another"]), CPU)
        assert with_more.protocol == first.protocol and with_more.version == first.version
    finally:
        del EXTRACTORS["another"]
