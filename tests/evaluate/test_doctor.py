"""The doctor's table and its explanations, on the real extractor and on a faked experiment."""

import contextlib
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import params
from pipeline.core.checksums import write_sums
from pipeline.core.errors import PipelineError
from pipeline.evaluate import doctor, explain
from pipeline.evaluate.explain import PROTOCOLS
from pipeline.metrics import (
    Gaussian,
    extract,
    frechet_distance,
    in_batches,
    load_extractor,
    measure_reference,
)
from pipeline.metrics.reference import CIFAR10_SHA256

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with params.yaml, and a torch hub without weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def table(text: str) -> dict[str, list[str]]:
    """The rows of a printed table by their first cell; cells stand two blanks or more apart."""
    rows = [[cell for cell in line.split("  ") if cell] for line in text.splitlines() if "  " in line]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_sound_installation_without_inceptions_weights(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main([])
    versions, _, checks = capsys.readouterr().out.partition("\n\n")
    assert table(versions)["torch"] == [metadata.version("torch")] and "git commit" in table(versions)
    rows = table(checks)
    assert rows.pop("check") == ["result"]
    passed = [name for name, (result, *_) in rows.items() if result == "pass"]
    assert passed == [
        "a set of features is 0 from itself", "a shift by v gives |v|²", "the value is pytorch-fid's",
        "weights of efficientnet_lite0", "the batch size does not matter (efficientnet_lite0)",
    ]  # fmt: skip
    unknown = [name for name, (result, *_) in rows.items() if result == "cannot be checked here"]
    assert sorted(passed + unknown) == sorted(rows)
    assert "fetch it from https://github.com/mseitzer" in rows["weights of inception"][1]


@pytest.mark.parametrize(
    ("break_it", "failed"),
    [
        (lambda a, b: frechet_distance(a, b) + 1e-6 * a.trace, ["a set of features is 0 from itself"]),
        (lambda a, b: frechet_distance(a, b) * (1 + 1e-6), ["a shift by v gives |v|²", "the value is pytorch-fid's"]),
    ],
)
def test_a_wrong_distance_is_a_failure(break_it, failed, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(doctor, "frechet_distance", break_it)
    monkeypatch.setattr(doctor, "EXTRACTORS", {})
    with pytest.raises(SystemExit) as end:
        doctor.main([])
    assert end.value.code == 1
    rows = table(capsys.readouterr().out)
    assert set(failed) <= {name for name, (result, *_) in rows.items() if result == "FAIL"}


def test_wrong_weights_are_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.pth").write_bytes(b"planted")
    params.save({"metrics.weights": str(tmp_path / "weights.pth")})
    with pytest.raises(SystemExit):
        doctor.main([])
    row = table(capsys.readouterr().out)["weights of efficientnet_lite0"]
    assert row[0] == "FAIL"
    assert "are not the known ones" in row[1]


KNOWN = "FID 3.1512 between CIFAR-10's training and test images, 3.151 is known"


@pytest.mark.parametrize(
    ("floor", "result", "told"),
    [
        ({"value": 3.1512, "metric": "fid", "data_sha256": CIFAR10_SHA256}, "pass", KNOWN),
        ({"value": 3.1612, "metric": "fid", "data_sha256": CIFAR10_SHA256}, "FAIL", "self-check failed: CIFAR-10's"),
        ({"value": 3.1512, "metric": "fid", "data_sha256": "0"}, "cannot be checked here", "`dvc repro reference`"),
        ({"value": 3.1512, "metric": "fd_x", "data_sha256": CIFAR10_SHA256}, "cannot be checked here", "`dvc repro"),
        ({"value": None}, "cannot be checked here", "`dvc repro reference` checks it"),
        ([], "cannot be checked here", "`dvc repro reference` checks it"),
    ],
)
def test_the_known_value_is_looked_for_in_what_the_reference_stage_measured(
    floor: object, result: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(doctor, "EXTRACTORS", {})
    (tmp_path / "data/reference").mkdir(parents=True)
    (tmp_path / "data/reference/floor.json").write_text(json.dumps(floor))
    with pytest.raises(SystemExit) if result == "FAIL" else contextlib.nullcontext():
        doctor.main([])
    row = table(capsys.readouterr().out)["CIFAR-10: training to test images is 3.151"]
    assert row[0] == result and row[1].startswith(told)


@pytest.fixture
def images(elsewhere: Path) -> dict[str, np.ndarray]:
    """A prepared data set and the samples of `dcgan-0`, which was measured by 24 images of each side."""
    source = np.random.default_rng(0)
    made = {name: source.integers(low, 255, (24, 1, 16, 16), dtype=np.uint8)
            for name, low in [("train", 0), ("test", 40), ("images", 120)]}  # fmt: skip
    for folder, name in [("data/prepared", "train"), ("data/prepared", "test"), ("samples/dcgan-0", "images")]:
        (elsewhere / folder).mkdir(parents=True, exist_ok=True)
        np.save(elsewhere / folder / f"{name}.npy", made[name])
    keys = {"name": "x", "train": 24, "test": 24, "image_shape": [1, 16, 16], "classes": [], "class_counts": [24],
            "source_size": {}, "skipped": {}, "sha256": "0"}  # fmt: skip
    (elsewhere / "data/prepared/dataset.json").write_text(json.dumps(keys))
    settings = params.load().metrics
    extractor = load_extractor(settings, torch.device("cpu"))
    measure_reference(elsewhere / "data/prepared", keys, extractor, settings, elsewhere / "data/reference")
    protocol = {"extractor": "efficientnet_lite0", "weights_sha256": "57", "input_size": 64, "quantisation": "uint8",
                "resize": "bilinear, no antialias", "real_split": "train", "real_images": 24, "generated_images": 24,
                "generator": "ema"}  # fmt: skip
    (elsewhere / "scores/dcgan-0").mkdir(parents=True)
    scores = {"fd_efficientnet_lite0": 5.0, "protocol": protocol}
    (elsewhere / "scores/dcgan-0/record.json").write_text(json.dumps(scores))
    for folder in ("data/prepared", "samples/dcgan-0", "scores/dcgan-0"):
        write_sums(elsewhere / folder)
    return made


@pytest.mark.slow
def test_each_field_that_differs_is_named_and_measured_where_possible(
    images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"real_split": "test", "generated_images": 12, "real_images": 25}
    monkeypatch.setitem(PROTOCOLS, "toy", {"extractor": "inception", "quantisation": "uint8", **asked})
    loaded = params.load()
    metric, value, rows = explain.explain("toy", "dcgan-0", loaded)
    assert (metric, value) == ("fd_efficientnet_lite0", 5.0)
    outcome = {row.field: row.outcome for row in rows}
    assert list(outcome) == ["extractor", "real_split", "generated_images", "real_images", "generator"]
    extractor = load_extractor(loaded.metrics, torch.device("cpu"))

    def distance(real: np.ndarray, generated: np.ndarray) -> float:
        sides = [np.concatenate(list(extract(extractor, in_batches(side, 64)))) for side in (real, generated)]
        return frechet_distance(*map(Gaussian.from_features, sides))

    assert float(outcome["real_split"]) == pytest.approx(distance(images["test"], images["images"]), abs=1e-3)
    chosen = np.sort(np.random.default_rng(0).choice(24, 12, replace=False))
    fewer = distance(images["train"], images["images"][chosen])
    assert float(outcome["generated_images"]) == pytest.approx(fewer, abs=1e-3)
    assert outcome["real_images"] == "cannot be computed here: 24 images are there"
    assert outcome["extractor"].startswith("cannot be computed here: the weights")
    assert outcome["generator"].startswith("cannot be computed here: ")


@pytest.mark.slow
def test_samples_of_one_class_are_explained_against_the_images_of_this_class(
    images: dict[str, np.ndarray], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, scores = elsewhere / "data/prepared", elsewhere / "scores/dcgan-0"
    labels = np.arange(24) % 2
    for split in ("train", "test"):
        np.save(prepared / f"{split}_labels.npy", labels)
    described = json.loads((prepared / "dataset.json").read_text()) | {"classes": ["a", "b"], "class_counts": [12, 12]}
    (prepared / "dataset.json").write_text(json.dumps(described))
    loaded = params.load()
    extractor = load_extractor(loaded.metrics, torch.device("cpu"))
    measure_reference(prepared, described, extractor, loaded.metrics, elsewhere / "data/reference")
    record = json.loads((scores / "record.json").read_text())
    record["protocol"] |= {"real_split": "train, class 1", "labels": "class 1", "real_images": 12}
    (scores / "record.json").write_text(json.dumps(record))
    for folder in (prepared, scores):
        (folder / "SHA256SUMS").unlink()
        write_sums(folder)
    monkeypatch.setitem(PROTOCOLS, "toy", {"real_split": "train", "generated_images": 12})
    outcome = {row.field: row.outcome for row in explain.explain("toy", "dcgan-0", loaded)[2]}

    def distance(real: np.ndarray, generated: np.ndarray) -> float:
        sides = [np.concatenate(list(extract(extractor, in_batches(side, 64)))) for side in (real, generated)]
        return frechet_distance(*map(Gaussian.from_features, sides))

    chosen = np.sort(np.random.default_rng(0).choice(24, 12, replace=False))
    fewer = distance(images["train"][labels == 1], images["images"][chosen])
    assert float(outcome["generated_images"]) == pytest.approx(fewer, abs=1e-3)
    assert float(outcome["real_split"]) == pytest.approx(distance(images["train"], images["images"]), abs=1e-3)
    assert abs(fewer - distance(images["train"], images["images"][chosen])) > 1  # so that the two can be told apart


def test_unknown_names_are_one_sentence(images: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    for protocol, name, message in [
        ("sngna", "dcgan-0", r"^--explain sngna: no such protocol; did you mean 'sngan'\? Choices: adm, cfm,"),
        ("sngan", "dcgan-1", r"^--experiment dcgan-1: not measured here; did you mean 'dcgan-0'\? Choices: dcgan-0$"),
    ]:
        with pytest.raises(PipelineError, match=message):
            explain.explain(protocol, name, params.load())
    with pytest.raises(SystemExit):
        doctor.main(["--explain", "sngan"])
    assert capsys.readouterr().err == "error: --explain PROTOCOL and --experiment NAME go together: give both\n"


def test_who_measures_by_which_protocol_of_fid() -> None:
    found = {name: PROTOCOLS[protocol]["extractor"] for name, protocol in explain.ALIASES.items()}
    assert {name for name, extractor in found.items() if extractor == "inception_tf"} == {
        "legacy_tensorflow", "ttur", "stylegan", "stylegan2-ada", "stylegan3", "adm", "edm", "r3gan", "torch-fidelity",
        "cfm",
    }  # fmt: skip
    assert found["legacy_pytorch"] == "inception" and found["clean"] == "inception_clean"
    asked = {name: fields["extractor"] for name, fields in PROTOCOLS.items()}
    assert asked["pytorch-fid"] == asked["train50k-50k"] == asked["sngan"] == "inception"
    assert asked["torchmetrics"] == "inception_torchmetrics"
