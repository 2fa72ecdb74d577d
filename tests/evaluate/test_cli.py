"""The command for anyone's two sets of images: the same numbers whatever the route, one sentence for each bad input."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pipeline.core.files import exclusive
from pipeline.evaluate import cli as entry
from pipeline.evaluate import images as images_module
from pipeline.evaluate.images import ImageSource
from pipeline.evaluate.statistics import read_statistics
from pipeline.metrics import EXTRACTORS, METRICS, Extractor, Gaussian, frechet_distance, load_extractor
from pipeline.metrics.extractors.weights import WeightsFile
from pipeline.params import MetricsParams

ROOT = Path(__file__).resolve().parents[2]
DIM = 6


class _Thumbnail(nn.Module):
    """Six means over the halves of each channel: features that are quickly had, and fewer than images."""

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, (2, 1)).flatten(1)  # (N, 3, 8, 8) -> (N, 3, 2, 1) -> (N, 6)


def _resize(images: Tensor) -> Tensor:
    return F.interpolate(images, size=(8, 8), mode="bilinear", align_corners=False)


TOY = Extractor("toy", "fd_toy", DIM, _Thumbnail(), torch.device("cpu"), {"extractor": "toy"}, None, _resize)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The toy extractor in place of the others; the cache's default place, which is returned."""
    monkeypatch.setattr(entry, "load_extractor", lambda params, device: TOY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "gan-metrics"


@pytest.fixture(scope="module")
def efficientnet(metrics_params: Callable[..., MetricsParams]) -> Callable[..., Extractor]:
    """The bundled extractor, loaded once."""
    loaded = load_extractor(metrics_params(), torch.device("cpu"))  # the module's own, whatever is patched
    return lambda params, device: loaded


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> dict[str, Any]:
        entry.main([*map(str, arguments), "--bootstrap", "2"])
        return json.loads(capsys.readouterr().out)

    return call


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one sentence of a refusal: exit 2, nothing on stdout, nothing half-written; with bars where it had begun."""

    def call(*arguments: object, begun: bool = False) -> str:
        for bar in list(getattr(tqdm, "_instances", ())):  # of a call before that an error has ended
            bar.close()
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            entry.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        *before, last = err.splitlines()
        assert caught.value.code == 2 and out == "" and last.startswith("error: ")
        assert all(line.startswith("features of ") for line in before) and (begun or not before)
        return last.removeprefix("error: ")

    return call


def pixels(count: int, seed: int, size: tuple[int, int] = (16, 12)) -> np.ndarray:
    """uint8 (N, H, W, 3): smooth pictures of different colours, so that features differ."""
    source = np.random.default_rng(seed)
    base = source.integers(20, 200, (count, 1, 1, 3)) + source.integers(-20, 55, (count, *size, 3))
    return base.clip(0, 255).astype(np.uint8)


def folder(path: Path, images: np.ndarray, start: int = 0) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images, start):
        Image.fromarray(image).save(path / f"{index:03}.png")
    return path


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    return folder(tmp_path / "a", pixels(30, 0)), folder(tmp_path / "b", pixels(25, 1))


# --- what it gives ---


class _Colours(nn.Module):
    """Three means: another network's features."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def load_colours(params: MetricsParams, device: torch.device) -> Extractor:
    return Extractor("colours", "fd_colours", 3, _Colours(), device, {"extractor": "colours"}, None, _resize)


def load_absent(params: MetricsParams, device: torch.device) -> Extractor:
    assert params.weights is None
    raise AssertionError(WeightsFile("absent", Path("nowhere.pth"), "", "fetch it").load(False))


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRACTORS, "colours", load_colours)
    monkeypatch.setitem(EXTRACTORS, "absent", load_absent)


@pytest.mark.usefixtures("others")
def test_further_extractors_stand_beside_the_first(
    toy: Path, run: Run, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, decoded, count = run(*sets), list[object](), ImageSource._count
    monkeypatch.setattr(ImageSource, "_count", lambda self, seen: decoded.append(seen) or count(self, seen))
    found = run(*sets, "--further-extractors", "colours,absent", "--held-out", sets[1], "--weights", "of_the_first")
    for key in ("protocol", "versions", "b"):
        assert found[key] == alone[key]
    rows = [
        load_colours(None, torch.device("cpu"))(  # type: ignore[arg-type]
            [torch.from_numpy(image).permute(2, 0, 1) for image in side]
        ).numpy()
        for side in (pixels(30, 0), pixels(25, 1))
    ]
    expected = frechet_distance(*map(Gaussian.from_features, rows))
    assert found["metrics"]["fd_colours"] == pytest.approx(expected, rel=1e-6)
    assert found["metrics"]["fd_toy"] == alone["metrics"]["fd_toy"]
    assert {"kd_colours", "md_colours", "colours/recall", "colours/ratio_to_floor"} <= found["metrics"].keys()
    assert found["sampling_error"]["fd_colours"] > 0
    assert found["not_available"]["fd_absent"] == "the weights nowhere.pth do not exist: fetch it"
    own = found["further"]
    assert own.keys() == {"colours"} and own["colours"]["metric"] == "fd_colours"
    assert own["colours"]["protocol"]["extractor"] == "colours" != found["protocol"]["extractor"]
    assert len(decoded) == 30 + 25 + 25  # each image once: A (under `colours` alone), the held-out ones, and B
    again = run(*sets, "--further-extractors", "colours", "--held-out", sets[1])
    assert len(decoded) == 80 + 25 and again["a"]["cached"] and again["metrics"] == found["metrics"]
    assert "colours/recall" not in run(*sets, "--further-extractors", "colours", "--metrics", "fid,kid")["metrics"]


@pytest.mark.usefixtures("others", "toy")
def test_what_further_extractors_need(refused: Refused, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    more = ("--further-extractors", "colours")
    assert "unknown name 'colour'; did you mean 'colours'?" in refused(*sets, "--further-extractors", "colour")
    assert "names an extractor twice" in refused(*sets, "--further-extractors", "colours,colours")
    assert "leave out --further-extractors" in refused(sets[0], "--save", tmp_path / "s.npz", *more)
    run(sets[0], "--save", tmp_path / "s.npz")
    assert refused(tmp_path / "s.npz", sets[1], *more) == (
        f"{tmp_path / 's.npz'} holds no images, and --further-extractors needs them: name the images"
    )


def test_the_record(toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    found = run(*sets, "--out", tmp_path / "out.json")
    assert list(found) == [
        "metrics", "sampling_error", "not_available", "protocol", "versions", "a", "b", "warnings"
    ]  # fmt: skip
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert {"fd_toy", "kd_toy", "precision", "coverage"} <= set(found["metrics"])
    assert "fd_toy" in found["sampling_error"] and found["not_available"]["fid_infinity"] == "not asked for"
    assert found["protocol"]["extractor"] == "toy" and found["versions"].keys() == METRICS.keys()
    assert found["protocol"]["distance_version"] == found["versions"]["fid"] != found["versions"]["kid"]
    assert (found["a"]["images"], found["b"]["images"]) == (30, 25)
    assert found["a"]["path"] == str(sets[0]) and found["a"]["sizes"] == {"12x16": 30} and not found["a"]["cached"]
    assert found["warnings"] == []


def test_the_distance_is_that_of_the_features(toy: Path, run: Run, sets: tuple[Path, Path]) -> None:
    real, generated = (
        TOY(torch.from_numpy(pixels(count, seed).transpose(0, 3, 1, 2))).numpy() for count, seed in [(30, 0), (25, 1)]
    )
    expected = frechet_distance(Gaussian.from_features(real), Gaussian.from_features(generated))
    assert expected > 1 and run(*sets)["metrics"]["fd_toy"] == pytest.approx(expected, rel=1e-9)


def test_a_set_against_itself(toy: Path, run: Run, sets: tuple[Path, Path]) -> None:
    found = run(sets[0], sets[0])
    features = TOY(torch.from_numpy(pixels(30, 0).transpose(0, 3, 1, 2))).numpy()
    assert abs(found["metrics"]["fd_toy"]) <= 1e-9 * Gaussian.from_features(features).trace
    assert any("hold the same images" in sentence for sentence in found["warnings"])


def test_chosen_metrics_only(toy: Path, run: Run, sets: tuple[Path, Path]) -> None:
    alone = run(*sets, "--metrics", "fid")
    assert list(alone["metrics"]) == ["fd_toy"] and list(alone["versions"]) == ["fid"]
    assert set(run(*sets, "--metrics", "kid,fid")["metrics"]) == {"fd_toy", "kd_toy"}
    both = run(*sets, "--metrics", "all")
    assert set(both["not_available"]) < set(METRICS) and "kd_toy" in both["metrics"]


def test_held_out_images_and_infinity(toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    found = run(*sets, "--held-out", folder(tmp_path / "c", pixels(20, 2)), "--infinity")
    assert {"nearest_ratio", "copies", "fd_toy_infinity"} <= set(found["metrics"])
    assert found["held_out"]["images"] == 20


def mixed(path: Path) -> Path:
    """Pictures of three sizes, grey, transparent and palette ones among them."""
    folder(path, pixels(9, 3))
    folder(path, pixels(8, 4, (20, 9)), 9)
    folder(path, pixels(8, 5)[..., 0], 17)
    for index, mode in enumerate(["RGBA", "P", "LA", "CMYK"]):
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.fromarray(pixels(1, 6 + index)[0]).convert(mode).save(path / f"{30 + index}.{suffix}")
    return path


def test_neither_batches_nor_threads_change_a_digit(toy: Path, run: Run, tmp_path: Path) -> None:
    a, b = mixed(tmp_path / "a"), folder(tmp_path / "b", pixels(16, 9, (16, 16)))
    results = []
    for size, workers in [(64, 1), (7, 3), (1, 2)]:
        found = run(a, b, "--batch-size", size, "--workers", workers, "--no-cache")
        results.append(found)
        assert found["a"]["images"] == 29
    assert results[0] == results[1] == results[2]
    assert any("the images have 2 sizes" in sentence for sentence in results[0]["warnings"])
    assert any("differ in image sizes" in sentence for sentence in results[0]["warnings"])


def forms(path: Path, rgb: np.ndarray) -> dict[str, list[object]]:
    """The same pictures in many forms, each with the options that it needs."""
    folder(path / "png", rgb)
    np.save(path / "last.npy", rgb)
    np.save(path / "first.npy", rgb.transpose(0, 3, 1, 2))
    np.savez_compressed(path / "batch.npz", rgb)
    np.save(path / "unit.npy", (rgb / 255).astype(np.float32))
    np.save(path / "signed.npy", (rgb / 127.5 - 1).clip(-1, 1).astype(np.float32))
    np.savez(path / "byte.npz", rgb.astype(np.float64))
    options: dict[str, list[object]] = {"signed.npy": ["--value-range", "-1,1"], "byte.npz": ["--value-range", "0,255"]}
    return {
        name: [path / name, *options.get(name, [])]
        for name in ("png", "last.npy", "first.npy", "batch.npz", "unit.npy", "signed.npy", "byte.npz")
    }


def test_the_form_of_the_images_changes_nothing(toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    expected = run(*sets)["metrics"]
    for name, arguments in forms(tmp_path / "forms", pixels(25, 1)).items():
        assert run(sets[0], *arguments)["metrics"] == expected, name
    subfolders = tmp_path / "nested"
    for index, image in enumerate(pixels(25, 1)):
        folder(subfolders / ("x/y" if index > 12 else "x"), image[None], index)
    assert run(sets[0], subfolders, "--metrics", "fid")["metrics"]["fd_toy"] == pytest.approx(expected["fd_toy"])


def test_grey_is_its_rgb_and_16_bits_are_8(toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    grey = pixels(25, 1)[..., 0]
    expected = run(sets[0], folder(tmp_path / "rgb", np.repeat(grey[..., None], 3, axis=3)))["metrics"]
    assert run(sets[0], folder(tmp_path / "8", grey))["metrics"] == expected
    assert run(sets[0], folder(tmp_path / "16", grey.astype(np.uint16) * 257))["metrics"] == expected
    np.save(tmp_path / "grey.npy", grey)
    assert run(sets[0], tmp_path / "grey.npy")["metrics"] == expected


def test_gifs_and_junk(toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    grey = pixels(25, 1)[..., 0]
    expected = run(sets[0], folder(tmp_path / "png", grey))["metrics"]
    for index, image in enumerate(grey):
        (tmp_path / "gif").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "gif" / f"{index:03}.GIF")
    for junk in ("._000.png", "readme.txt"):
        (tmp_path / "gif" / junk).write_bytes(b"junk")
    found = run(sets[0], tmp_path / "gif")
    assert found["metrics"] == expected and found["b"]["skipped"] == {"hidden_files": 1, "other_files": 1}


def test_bad_images_are_skipped_on_wish(toy: Path, run: Run, sets: tuple[Path, Path]) -> None:
    expected = run(*sets)["metrics"]
    for side in sets:
        (side / "000b.png").write_bytes(b"")
        Image.new("L", (2000, 600)).save(side / "large.png")
    found = run(*sets, "--bad-images", "skip", "--max-megapixels", "1")
    assert found["metrics"] == expected and found["a"]["skipped"] == {"broken": 1, "too_large": 1}
    assert f"{sets[0]}: 2 bad images were skipped" in found["warnings"]


def classed(path: Path, names: dict[str, int], seed: int) -> Path:
    for index, (name, count) in enumerate(names.items()):
        images = pixels(count, seed + index) // 4 + 60 * (ord(name[0]) % 3)
        folder(path / name, images.clip(0, 255).astype(np.uint8))
    return path


def test_classes_are_matched_by_name(toy: Path, run: Run, tmp_path: Path) -> None:
    a = classed(tmp_path / "a", {"ant": 12, "bee": 12, "cat": 12}, 0)
    b = classed(tmp_path / "b", {"bee": 10, "cat": 10}, 10)
    found = run(a, b, "--metrics", "classes,class_votes")
    assert {"fd_toy_class/1", "fd_toy_class/2"} <= set(found["metrics"])
    assert "fd_toy_class/0" not in found["metrics"]
    assert found["metrics"]["class_agreement"] > 0.9  # 0 if bee were taken for ant
    assert found["a"]["classes"] == ["ant", "bee", "cat"] and found["b"]["classes"] == ["bee", "cat"]
    other = classed(tmp_path / "c", {"bee": 10, "dog": 10}, 10)
    found = run(a, other, "--metrics", "classes,class_votes")
    assert "class_agreement" not in found["metrics"] and "class_balance" in found["metrics"]
    assert any("has no class dog" in sentence for sentence in found["warnings"])


def test_labels_come_from_the_cache_too(toy: Path, run: Run, tmp_path: Path) -> None:
    a = classed(tmp_path / "a", {"ant": 12, "bee": 12}, 0)
    (a / "ant" / "000b.png").write_bytes(b"")
    b = classed(tmp_path / "b", {"ant": 10, "bee": 10}, 10)
    first, second = (run(a, b, "--bad-images", "skip") for _ in range(2))
    assert first["metrics"] == second["metrics"] and second["a"]["cached"] and "class_agreement" in first["metrics"]


# --- warnings ---


def test_warnings_are_told_twice(
    toy: Path, run: Run, tmp_path: Path, sets: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    few = folder(tmp_path / "few", np.repeat(pixels(3, 8), 2, axis=0))
    Image.new("RGB", (12, 16), "red").save(few / "plain.png")
    for path in list(few.iterdir())[:1]:
        path.unlink()
    entry.main([str(sets[0]), str(few), "--bootstrap", "0"])
    out, err = capsys.readouterr()
    warnings = json.loads(out)["warnings"]
    assert [line.removeprefix("warning: ") for line in err.splitlines() if line.startswith("warning: ")] == warnings
    text = "\n".join(warnings)
    assert "6 images are too few for 6 dimensions: the covariance is rank-deficient" in text
    assert "repeat an earlier one exactly" in text
    assert all(str(few) in sentence for sentence in warnings)


def test_one_image_more_than_dimensions_is_enough(toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    found = run(sets[0], folder(tmp_path / "seven", pixels(7, 8)), "--metrics", "fid")
    assert not any("too few" in sentence for sentence in found["warnings"])


# --- statistics ---


def test_saved_statistics_give_the_same_distance(toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    expected = run(*sets)["metrics"]["fd_toy"]
    saved = {}
    for side in sets:
        saved[side] = tmp_path / f"{side.name}.npz"
        found = run(side, "--save", saved[side])
        assert found["saved"] == str(saved[side]) and found["warnings"] == []
    found = run(saved[sets[0]], sets[1])
    assert found["metrics"]["fd_toy"] == pytest.approx(expected, rel=1e-9)
    assert found["a"] == {"path": str(saved[sets[0]]), "images": 30, "statistics": True}
    assert found["not_available"]["kid"] == "one side is statistics without features"
    found = run(*saved.values())
    assert list(found["metrics"]) == ["fd_toy"] and found["metrics"]["fd_toy"] == pytest.approx(expected, rel=1e-9)
    assert found["sampling_error"] == {} and found["warnings"] == []


def test_pytorch_fid_gives_the_same_distance_from_our_file(
    toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    from pytorch_fid.fid_score import calculate_frechet_distance

    if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18):
        pytest.skip("pytorch-fid calls scipy's sqrtm with `disp`, which scipy 1.18 no longer has")
    sides: list[np.ndarray] = []
    for side in sets:
        run(side, "--save", tmp_path / "s.npz")
        with np.load(tmp_path / "s.npz") as saved:
            sides += [saved["mu"], saved["sigma"]]
    with pytest.warns(DeprecationWarning):
        theirs = float(calculate_frechet_distance(*sides))
    assert run(*sets)["metrics"]["fd_toy"] == pytest.approx(theirs, rel=1e-9)


def test_a_foreign_statistics_file_is_warned_of(toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(DIM), sigma=np.eye(DIM))
    found = run(tmp_path / "theirs.npz", sets[1])
    assert found["a"]["images"] is None and len(found["warnings"]) == 1 and "does not say" in found["warnings"][0]


# --- the cache ---


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The folders of the files that are decoded from now on."""
    seen: list[str] = []
    decode = images_module.decode

    def counting(path: Path, *rest: Any) -> Image.Image:
        seen.append(path.parent.name)
        return decode(path, *rest)

    monkeypatch.setattr(images_module, "decode", counting)
    yield seen


def kept_in(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.name != "locks")


def test_a_cached_reference_gives_the_same_numbers(
    toy: Path, run: Run, sets: tuple[Path, Path], decoded: list[str], tmp_path: Path
) -> None:
    Image.new("L", (5, 5)).save(sets[0] / "plain.png")
    plain = run(*sets, "--no-cache")
    assert not toy.exists() and not plain["a"]["cached"]
    first, second = run(*sets), run(*sets)
    assert decoded.count("a") == 2 * 31 and decoded.count("b") == 3 * 25
    assert not first["a"]["cached"] and second["a"]["cached"] and not second["b"]["cached"]
    assert first == plain
    second["a"]["cached"] = False
    assert second == plain and len(plain["warnings"]) == 3  # one colour, two sizes, other sizes than B
    (kept,) = kept_in(toy)
    assert {path.name for path in kept.iterdir()} == {
        "features.npy", "statistics.npz", "stats.json", "neighbours.npy"
    }  # fmt: skip
    moved = sets[0].rename(tmp_path / "moved")
    third = run(moved, sets[1])
    assert third["a"]["cached"] and third["a"]["path"] == str(moved) and third["metrics"] == plain["metrics"]


def test_what_shapes_the_features_is_in_the_key(
    toy: Path, run: Run, sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ("--cache", tmp_path / "cache")
    assert not run(*sets, *cache)["a"]["cached"]
    assert run(*sets, *cache, "--batch-size", "3", "--workers", "1", "--metrics", "fid")["a"]["cached"]
    for options in (["--bad-images", "skip"], ["--value-range", "0,255"], ["--max-megapixels", "2"]):
        assert not run(*sets, *cache, *options)["a"]["cached"]
    for change in ({"protocol": {"extractor": "toy", "x": 1}}, {"version": "another"}):
        other = dataclasses.replace(TOY, **change)
        monkeypatch.setattr(entry, "load_extractor", lambda params, device, other=other: other)
        assert not run(*sets, *cache)["a"]["cached"]
    monkeypatch.setattr("pipeline.evaluate.features.reading_version", lambda: "another")
    assert not run(*sets, *cache)["a"]["cached"]
    Image.new("RGB", (12, 16), "red").save(sets[0] / "000.png")
    assert not run(*sets, *cache)["a"]["cached"]
    assert len(kept_in(tmp_path / "cache")) == 8 and not toy.exists()


def test_neighbours_are_kept_once_they_were_asked_for(
    toy: Path, run: Run, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*sets, "--metrics", "fid")
    (kept,) = kept_in(toy)
    assert not (kept / "neighbours.npy").exists()
    expected = run(*sets)["metrics"]
    assert np.load(kept / "neighbours.npy").shape == (30, 5)
    monkeypatch.setattr("pipeline.metrics.types.nearest", lambda *_, **__: pytest.fail("looked up again"))
    monkeypatch.setattr("pipeline.metrics.types.FeatureSet.__len__", lambda self: 30)
    assert run(sets[0], sets[1], "--metrics", "fid")["metrics"]["fd_toy"] == expected["fd_toy"]


def flip_tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("name", ["features.npy", "statistics.npz", "stats.json", "neighbours.npy"])
@pytest.mark.parametrize("damage", [flip_tail, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_measured_again(
    toy: Path, run: Run, sets: tuple[Path, Path], name: str, damage: Callable[[Path], object]
) -> None:
    expected = run(*sets)
    (kept,) = kept_in(toy)
    damage(kept / name)
    again = run(*sets)
    assert again["metrics"] == expected["metrics"]
    assert again["a"]["cached"] == (name == "neighbours.npy" and damage is Path.unlink)
    assert run(*sets)["a"]["cached"] and len(kept_in(toy)) == 1


def test_a_cache_of_another_length_is_measured_again(toy: Path, run: Run, sets: tuple[Path, Path]) -> None:
    expected = run(*sets)
    (kept,) = kept_in(toy)
    np.save(kept / "features.npy", np.load(kept / "features.npy")[:-1])
    again = run(*sets)
    assert again["metrics"] == expected["metrics"] and not again["a"]["cached"]


def test_another_process_that_fills_the_cache_is_named(
    toy: Path, run: Run, refused: Refused, sets: tuple[Path, Path]
) -> None:
    run(*sets)
    (kept,) = kept_in(toy)
    shutil.rmtree(kept)
    with exclusive(toy / "locks" / kept.name, "x"):
        assert f"in use by process {os.getpid()}" in refused(*sets)
    assert not run(*sets)["a"]["cached"]


def test_a_refused_reference_leaves_nothing_in_the_cache(toy: Path, refused: Refused, sets: tuple[Path, Path]) -> None:
    (sets[0] / "zz.png").write_bytes(b"")
    assert "zz.png is empty (0 bytes)" in refused(*sets, begun=True)
    assert kept_in(toy) == []


# --- what is refused ---


def archive(path: Path) -> Path:
    path.write_bytes(b"PK")
    return path


def arrays(path: Path, **named: np.ndarray) -> Path:
    np.savez(path, **named)  # type: ignore[arg-type]
    return path


def statistics(path: Path, **changes: Any) -> Path:
    return arrays(path, **{"mu": np.zeros(DIM), "sigma": np.eye(DIM), **changes})


def array(path: Path, content: np.ndarray) -> Path:
    np.save(path, content)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "missing", "does not exist"),
    "empty": (lambda d: folder(d / "x", pixels(0, 0)), "holds no image"),
    "one": (lambda d: folder(d / "x", pixels(1, 0)), "holds 1 image"),
    "tar": (lambda d: archive(d / "x.tar"), "unpack it first"),
    "file": (lambda d: folder(d / "x", pixels(2, 0)) / "000.png", "neither a folder"),
    "ambiguous": (lambda d: array(d / "x.npy", np.zeros((9, 3, 8, 3), np.uint8)), "may come first or last"),
    "type": (lambda d: array(d / "x.npy", np.zeros((9, 8, 8), np.int64)), "holds int64"),
    "objects": (lambda d: array(d / "x.npy", np.array([{}, {}])), "cannot be read"),
    "keys": (lambda d: arrays(d / "x.npz", a=np.zeros(3), b=np.zeros(3)), "holds neither images"),
    "sigma lacking": (lambda d: arrays(d / "x.npz", mu=np.zeros(DIM)), "lacks sigma"),
    "sigma NaN": (lambda d: statistics(d / "x.npz", sigma=np.full((DIM, DIM), np.nan)), "sigma holds NaN"),
    "sigma asymmetric": (lambda d: statistics(d / "x.npz", sigma=np.triu(np.ones((DIM, DIM)))), "not symmetric"),
    "sigma negative": (lambda d: statistics(d / "x.npz", sigma=-np.eye(DIM)), "negative eigenvalue"),
    "dimension": (lambda d: statistics(d / "x.npz", mu=np.zeros(9), sigma=np.eye(9)), "has 9 dimensions"),
    "protocol": (lambda d: statistics(d / "x.npz", protocol='{"extractor": "other"}'), "another protocol (extractor:"),
}


@pytest.mark.parametrize("side", ["a", "b", "held_out"])
@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(toy: Path, refused: Refused, sets: tuple[Path, Path], tmp_path: Path, name: str, side: str) -> None:
    make, text = BAD[name]
    path = make(tmp_path)
    paths = {"a": sets[0], "b": sets[1], "held_out": sets[0], side: path}
    options = ["--held-out", paths["held_out"]] if side == "held_out" else []
    late = side == "b" and re.match(r"sigma [NAan]|dimension|protocol", name) is not None
    sentence = refused(paths["a"], paths["b"], *options, begun=late or side == "b")
    is_statistics = side == "held_out" and re.match(r"sigma|dimension|protocol", name)
    assert ("--held-out needs images" if is_statistics else text) in sentence and str(path) in sentence


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "text": (lambda path: path.write_bytes(b"<html>"), "is not a PNG, JPEG, WebP, GIF or BMP image"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:300]), "cannot be decoded"),
    "large": (lambda path: Image.new("1", (2000, 600)).save(path), "more than --max-megapixels: 1:"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("side", [0, 1])
def test_broken_files_are_named(toy: Path, refused: Refused, sets: tuple[Path, Path], name: str, side: int) -> None:
    damage, text = BROKEN[name]
    path = sets[side] / "007.png"
    damage(path)
    sentence = refused(*sets, "--max-megapixels", "1", begun=True)
    assert sentence.startswith(f"{path} ") and text in sentence and sentence.endswith("or give --bad-images skip")


@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "image 4 holds NaN"), (1.01, "outside 0..1: declare their range with --value-range")]
)
def test_floats_that_are_refused(
    toy: Path, refused: Refused, sets: tuple[Path, Path], tmp_path: Path, value: float, text: str
) -> None:
    floats = np.zeros((9, 8, 8))
    floats[4, 1, 1] = value
    assert text in refused(sets[0], array(tmp_path / "x.npy", floats), begun=True)


def test_fewer_than_two_after_skipping(toy: Path, refused: Refused, sets: tuple[Path, Path], tmp_path: Path) -> None:
    few = folder(tmp_path / "few", pixels(2, 0))
    (few / "000.png").write_bytes(b"")
    assert "holds 1 image that can be used (1 were skipped)" in refused(
        sets[0], few, "--bad-images", "skip", begun=True
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["A"], "name a second set B"),
        (["A", "B", "--save", "x.npz"], "name a second set B"),
        (["A", "--save", "x.npy"], "names that end in .npz"),
        (["A", "B", "--out", "nowhere/x.json"], "nowhere/x.json cannot be written"),
        (["A", "B", "--metrics", "fod"], "unknown name 'fod'; did you mean 'fid'?"),
        (["A", "B", "--metrics", ""], "unknown name ''"),
        (["A", "B", "--device", "gpu"], "must be auto, cpu, mps, cuda or cuda:N"),
        (["A", "B", "--device", "cuda:99"], "--device: cuda:99 is not available"),
        (["A", "B", "--value-range", "1,0"], "must be two numbers"),
        (["A", "B", "--value-range", "1"], "must be two numbers"),
        (["A", "B", "--value-range", "0,nan"], "must be two numbers"),
        (["A", "B", "--value-range"], "expected one argument"),
        (["A", "B", "--batch-size", "0"], "must be a whole number from 1 to 1,048,576,"),
        (["", "B"], "A: must be a path, got ''"),
        (["A", "B", "--held-out", ""], "--held-out: must be a path"),
        (["A", "B", "--workers", "2.5"], "must be a whole number from 1"),
        (["A", "B", "--max-megapixels", "nan"], "must be a number from"),
        (["A", "B", "--bootstrap", "-1"], "must be a whole number from 0"),
        (["A", "B", "--bad-images", "drop"], "invalid choice: 'drop'"),
        (["A", "B", "--extractor", "inseption"], "--extractor: unknown name 'inseption'; did you mean 'inception'?"),
        (["A", "B", "--cache", "x", "--no-cache"], "not allowed with argument"),
        (["A", "B", "--unknown"], "unrecognized arguments: --unknown"),
        (["A", "B", "--weights", "w.pth"], "the weights w.pth do not exist"),
        ([], "the following arguments are required: A"),
    ],
)
def test_options_that_are_refused(
    refused: Refused, sets: tuple[Path, Path], options: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sets[0].parent)
    places = {"A": str(sets[0]), "B": str(sets[1])}
    assert text in refused(*[places.get(word, word) for word in options])


def test_missing_inception_weights_name_the_ways_out(
    refused: Refused, sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    sentence = refused(*sets)
    assert "https://github.com/mseitzer/pytorch-fid/releases" in sentence and "or give --weights" in sentence
    assert sentence.endswith("or choose --extractor efficientnet_lite0, whose distance is no FID")
    (tmp_path / "w.pth").write_bytes(b"x")
    sentence = refused(*sets, "--weights", tmp_path / "w.pth")
    assert "give --allow-unknown-weights" in sentence and "metrics." not in sentence


def test_statistics_cannot_be_saved_again(toy: Path, refused: Refused, tmp_path: Path) -> None:
    path = statistics(tmp_path / "x.npz")
    assert "holds no images, and --save needs them" in refused(path, "--save", tmp_path / "y.npz")


# --- the process ---


def test_only_json_goes_to_stdout(
    toy: Path, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def chatty(params: Any, device: torch.device) -> Extractor:
        print("loading")
        return TOY

    monkeypatch.setattr(entry, "load_extractor", chatty)
    entry.main([*map(str, sets), "--metrics", "fid"])
    out, err = capsys.readouterr()
    assert list(json.loads(out)["metrics"]) == ["fd_toy"] and "loading" in err


def test_the_doctor_is_called_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], str]] = []
    monkeypatch.setattr("pipeline.evaluate.doctor.main", lambda *arguments: calls.append(arguments))
    entry.main(["doctor", "--quick"], "gan metrics")
    assert calls == [(["--quick"], "gan metrics doctor")]


@pytest.mark.slow
def test_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.metrics", "doctors", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: doctors does not exist: name a folder of images, a .zip, .npy or .npz file\n"


def test_the_bundled_extractor(
    toy: Path, run: Run, efficientnet: Callable[..., Extractor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(entry, "load_extractor", efficientnet)
    a, b = mixed(tmp_path / "a"), folder(tmp_path / "b", pixels(25, 1))
    found = run(a, b, "--metrics", "fid")
    saved = run(a, "--save", tmp_path / "s.npz")
    assert saved["a"]["cached"] and "weights_sha256" in found["protocol"]
    extractor = efficientnet(None, None)
    gaussian = read_statistics(tmp_path / "s.npz", extractor.dim, extractor.protocol)[0].gaussian
    features = extractor(torch.from_numpy(pixels(25, 1).transpose(0, 3, 1, 2))).numpy()
    expected = frechet_distance(gaussian, Gaussian.from_features(features))
    assert found["metrics"]["fd_efficientnet_lite0"] == pytest.approx(expected, rel=1e-9)
    assert sum("too few for 1280 dimensions" in sentence for sentence in found["warnings"]) == 2
    # Other batch sizes take other convolution kernels: the same features to about 5e-6.
    other = run(a, b, "--metrics", "fid", "--batch-size", "7", "--workers", "3", "--no-cache")
    assert other["metrics"]["fd_efficientnet_lite0"] == pytest.approx(expected, rel=1e-5)
