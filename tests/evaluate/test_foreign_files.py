"""Files of other tools: each made as its tool writes it, and read to the right number; damaged and hostile ones."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.evaluate import cli as entry
from pipeline.evaluate.feature_files import feature_dim, is_feature_file, read_features
from pipeline.metrics import Gaussian, frechet_distance
from tests.evaluate.test_cli import TOY

Refused = Callable[..., str]
Run = Callable[..., dict[str, Any]]
COUNT, DIM = 40, 2048


def features(seed: int, count: int = COUNT, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(seed, 1, (count, dim)).astype(np.float32)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return frechet_distance(Gaussian.from_features(first), Gaussian.from_features(second))


def clean_fid(path: Path, rows: np.ndarray) -> Path:
    """cleanfid.fid.make_custom_stats, the file for KID"""
    np.savez_compressed(path.with_suffix(".npz"), feats=rows)
    return path.with_suffix(".npz")


def studiogan(path: Path, rows: np.ndarray) -> Path:
    """PyTorch-StudioGAN's metrics/preparation.py"""
    labels = np.arange(len(rows)) % 4
    probabilities = np.full((len(rows), 1000), 1e-3, np.float32)
    np.savez(path.with_suffix(".npz"), **{"real_feats": rows, "real_probs": probabilities, "real_labels": labels})
    return path.with_suffix(".npz")


def dgm_eval(path: Path, rows: np.ndarray) -> Path:
    """dgm_eval/representations.py; `hparams` is a dict, which numpy pickles"""
    hparams: Any = {"model": "inception", "nsample": len(rows)}
    np.savez(path.with_suffix(".npz"), model="inception", reps=rows, hparams=hparams)
    return path.with_suffix(".npz")


def torch_fidelity(path: Path, rows: np.ndarray) -> Path:
    """torch_fidelity.utils.atomic_torch_save of a feature tensor"""
    torch.save(torch.from_numpy(rows), path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def statistics(path: Path, rows: np.ndarray) -> Path:
    """pytorch-fid, clean-fid, TTUR, EDM, mimicry"""
    double = rows.astype(np.float64)
    np.savez(path.with_suffix(".npz"), mu=double.mean(axis=0), sigma=np.cov(double, rowvar=False))
    return path.with_suffix(".npz")


KINDS = [clean_fid, studiogan, dgm_eval, torch_fidelity, statistics]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on a machine that has no weights at all."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))

    def call(*arguments: object) -> dict[str, Any]:
        entry.main([*map(str, arguments), "--bootstrap", "0"])
        return json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    def call(*arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            entry.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        last = err.splitlines()[-1]
        assert caught.value.code == 2 and out == "" and last.startswith("error: ") and "Traceback" not in err
        return last.removeprefix("error: ")

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_features_in_files_give_their_distance_without_any_weights(kind: Any, run: Run, tmp_path: Path) -> None:
    real, generated = features(0), features(1)
    result = run(clean_fid(tmp_path / "real", real), kind(tmp_path / "made", generated), "--metrics", "fid,kid,prdc")
    assert result["metrics"]["fid"] == pytest.approx(distance(real, generated), rel=1e-6)
    assert ("kid" in result["metrics"]) == ("density" in result["metrics"]) == (kind is not statistics)
    assert result["protocol"]["extractor"] == "inception"
    assert len([text for text in result["warnings"] if "does not say by which weights" in text]) == 2
    assert result["b"]["images"] == (None if kind is statistics else COUNT)


def test_held_out_features_of_a_file(run: Run, refused: Refused, tmp_path: Path) -> None:
    sets = [clean_fid(tmp_path / name, features(seed)) for seed, name in enumerate(("real", "made", "held"))]
    result = run(*sets[:2], "--held-out", sets[2], "--metrics", "memorisation")
    assert result["metrics"]["nearest_ratio"] > 0 and result["held_out"]["images"] == COUNT
    path = statistics(tmp_path / "s", features(2))
    assert refused(*sets[:2], "--held-out", path) == (
        f"{path} holds statistics, and --held-out needs images: name the images"
    )


def test_a_protocol_that_the_caller_states(run: Run, refused: Refused, tmp_path: Path) -> None:
    paths = clean_fid(tmp_path / "a", features(0)), torch_fidelity(tmp_path / "b", features(1))
    for name, metric in {"tf": "fid_tf", "edm": "fid_tf", "clean": "fid_clean", "pytorch-fid": "fid"}.items():
        result = run(*paths, "--statistics-protocol", name, "--metrics", "fid")
        assert list(result["metrics"]) == [metric] and result["warnings"] == []
        assert result["metrics"][metric] == pytest.approx(distance(features(0), features(1)), rel=1e-6)
    assert "no such protocol; did you mean 'torchmetrics'" in refused(*paths, "--statistics-protocol", "torchmetric")
    other = refused(*paths, "--statistics-protocol", "tf", "--extractor", "inception_clean")
    assert other == "--statistics-protocol is of inception_tf: give --extractor inception_tf, whose numbers compare"
    assert "did you mean 'inception'" in refused(*paths, "--extractor", "inseption")
    small = statistics(tmp_path / "c", features(0, dim=6))
    assert "c.npz has 6 dimensions, " in refused(paths[0], small)
    assert "c.npz has 6 dimensions, the extractor 2048" in refused(small, small)
    np.savez(tmp_path / "e.npz", mu=np.zeros((1, 6)), sigma=np.eye(6))
    assert "e.npz: mu (1, 6) must be (D,)" in refused(small, tmp_path / "e.npz")
    result = run(small, clean_fid(tmp_path / "d", features(1, dim=6)), "--extractor", "efficientnet_lite0")
    assert result["metrics"]["fd_efficientnet_lite0"] == pytest.approx(distance(*(features(i, dim=6) for i in (0, 1))))


def test_two_of_our_own_files_need_no_weights(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = []
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
        np.save(tmp_path / f"{name}.npy", pixels)
        sets.append(tmp_path / f"{name}.npy")
    saved = [path.with_suffix(".npz") for path in sets]
    with monkeypatch.context() as patch:
        patch.setattr(entry, "load_extractor", lambda params, device: TOY)
        expected = run(*sets)["metrics"]["fd_toy"]
        for images, path in zip(sets, saved, strict=True):
            run(images, "--save", path)
    result = run(*saved)
    assert result["metrics"]["fd_toy"] == pytest.approx(expected, rel=1e-9) and result["warnings"] == []
    assert result["protocol"]["extractor"] == "toy"


def toy_features(pixels: np.ndarray) -> np.ndarray:
    found: np.ndarray = TOY(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    return found


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200 + 10 * seed, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "load_extractor", lambda params, device: TOY)


def test_labels_of_a_sample_batch(toy: None, run: Run, tmp_path: Path) -> None:
    """np.savez(path, arr, label_arr) of ADM's image_sample.py: arr_0 and arr_1."""
    sides = []
    for name, seed, labels in [("real", 1, [7, 3]), ("made", 2, [3, 7])]:
        np.savez(tmp_path / f"{name}.npz", pictures(40, seed), np.tile(labels, 20))
        sides.append(tmp_path / f"{name}.npz")
    result = run(*sides)
    assert result["a"]["classes"] == result["b"]["classes"] == ["3", "7"]
    assert "fd_toy_class/0" in result["metrics"]
    rows = [toy_features(pictures(40, seed)) for seed in (1, 2)]
    within = distance(rows[0][1::2], rows[1][0::2])  # those of label 3
    assert result["metrics"]["fd_toy_class/0"] == pytest.approx(within, rel=1e-4)
    np.savez(tmp_path / "float.npz", pictures(40, 1), np.linspace(0, 1, 40))  # no labels
    assert run(tmp_path / "float.npz", sides[1])["a"]["classes"] == []


def test_a_reference_batch_with_its_statistics(toy: None, run: Run, tmp_path: Path) -> None:
    """ADM's VIRTUAL_*.npz: the distance is to mu and sigma, of all images; all else is of arr_0."""
    everything, some, made = pictures(90, 1), pictures(30, 1), pictures(40, 2)
    rows = toy_features(everything).astype(np.float64)
    moments = {"mu": rows.mean(axis=0), "sigma": np.cov(rows, rowvar=False)}
    np.savez(tmp_path / "VIRTUAL.npz", arr_0=some, mu_s=np.zeros(3), sigma_s=np.eye(3), **moments)
    np.save(tmp_path / "some.npy", some)
    np.save(tmp_path / "made.npy", made)
    result = run(tmp_path / "VIRTUAL.npz", tmp_path / "made.npy", "--statistics-protocol", "efficientnet_lite0")
    plain = run(tmp_path / "some.npy", tmp_path / "made.npy")["metrics"]
    assert result["metrics"]["fd_toy"] == pytest.approx(distance(rows, toy_features(made)), rel=1e-4)
    assert abs(result["metrics"]["fd_toy"] / plain["fd_toy"] - 1) > 0.01
    for name in ("kd_toy", "precision", "coverage"):
        assert result["metrics"][name] == plain[name]
    assert result["a"]["images"] == 30 and not [text for text in result["warnings"] if "does not say" in text]
    assert [text for text in run(tmp_path / "VIRTUAL.npz", tmp_path / "made.npy")["warnings"] if "does not say" in text]
    np.savez(tmp_path / "VIRTUAL.npz", arr_0=some, mu=np.zeros(9), sigma=np.eye(9))  # of another network than this one
    assert run(tmp_path / "VIRTUAL.npz", tmp_path / "made.npy")["metrics"] == plain


def data_set(path: Path, pixels: np.ndarray, labels: list[int] | None) -> Path:
    """StyleGAN's dataset_tool.py: stored PNGs, a thousand in a folder, then dataset.json."""
    names = [f"{i // 20:05d}/img{i:08d}.png" for i in range(len(pixels))]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, image in zip(names, pixels, strict=True):
            bits = io.BytesIO()
            Image.fromarray(image).save(bits, format="png", compress_level=0)
            archive.writestr(name, bits.getbuffer())
        pairs = None if labels is None else [[name, label] for name, label in zip(names, labels, strict=True)]
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))
    return path


def test_a_data_set_in_a_zip(toy: None, run: Run, tmp_path: Path) -> None:
    real, made = pictures(40, 1), pictures(40, 2)
    np.save(tmp_path / "real.npy", real)
    np.save(tmp_path / "made.npy", made)
    plain = run(tmp_path / "real.npy", tmp_path / "made.npy")["metrics"]
    for labels in (None, [i % 3 for i in range(40)]):
        path = data_set(tmp_path / "a.zip", real, labels)
        result = run(path, tmp_path / "made.npy")
        assert {name: result["metrics"][name] for name in plain} == plain
        assert result["a"]["images"] == 40 and result["a"]["skipped"] == {}
        # without labels, the folders of a thousand images each are no classes: dataset.json says that there are none
        assert result["a"]["classes"] == ([] if labels is None else ["0", "1", "2"])


class Runs:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pickle": (lambda d: _write(d / "a.pkl", pickle.dumps({"fid": {}})), "is a pickle, which can run programs"),
    "pt of nothing": (lambda d: _write(d / "a.pt", b""), "cannot be read as one tensor"),
    "pt with code": (lambda d: _write(d / "a.pt", pickle.dumps(Runs(d / "ran"))), "cannot be read as one tensor"),
    "pt cut": (lambda d: _cut(torch_fidelity(d / "a", features(0))), "cannot be read"),
    "pt of a dict": (lambda d: _saved(d / "a.pt", {"a": torch.zeros(3, 2)}), "holds no tensor of floats"),
    "pt of whole numbers": (lambda d: _saved(d / "a.pt", torch.zeros(3, 2, dtype=torch.int64)), "no tensor of floats"),
    "pt of one row": (lambda d: _saved(d / "a.pt", torch.zeros(1, DIM)), "shape (1, 2048)"),
    "pt of three axes": (lambda d: _saved(d / "a.pt", torch.zeros(3, 2, 2)), "shape (3, 2, 2)"),
    "pt that grows": (lambda d: _saved(d / "a.pt", torch.zeros(1).expand(10**9, DIM)), "more than it holds"),
    "pt with NaN": (lambda d: torch_fidelity(d / "a", np.full((9, DIM), np.nan, np.float32)), "hold NaN or infinite"),
    "npz cut": (lambda d: _cut(clean_fid(d / "a", features(0))), "cannot be read"),
    "npz with inf": (lambda d: clean_fid(d / "a", np.full((9, DIM), np.inf, np.float32)), "hold NaN or infinite"),
    "npz too large for float32": (lambda d: clean_fid(d / "a", np.full((9, DIM), 1e300)), "hold NaN or infinite"),
    "npz of objects": (lambda d: dgm_eval(d / "a", np.array([{}, {}])), "Object arrays cannot be loaded"),
    "npz of one axis": (lambda d: clean_fid(d / "a", np.zeros(9, np.float32)), "shape (9,)"),
    "npz by columns": (lambda d: clean_fid(d / "a", np.asfortranarray(features(0))), "row by row"),
    "npz of text": (lambda d: clean_fid(d / "a", np.array([["a"], ["b"]])), "save it as floats"),
    "zip of nothing": (lambda d: _write(d / "a.zip", b"PK"), "a.zip cannot be read (File is not a zip file)"),
    "zip cut": (lambda d: _cut(data_set(d / "a.zip", pictures(9, 1), None)), "a.zip cannot be read"),
    "zip without images": (lambda d: data_set(d / "a.zip", pictures(0, 1), []), "holds no image"),
    "zip with false labels": (lambda d: data_set(d / "a.zip", pictures(3, 1), [0, -1, 2]), "labels must be pairs"),
}


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _cut(path: Path) -> Path:
    return _write(path, path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_and_hostile_files(name: str, refused: Refused, tmp_path: Path) -> None:
    make, text = HOSTILE[name]
    path = make(tmp_path)
    other = clean_fid(tmp_path / "other", features(0))
    sentence = refused(path, other)
    assert text in sentence and path.name in sentence
    assert not (tmp_path / "ran").exists()


def test_a_zip_whose_image_is_damaged_names_it(toy: None, refused: Refused, tmp_path: Path) -> None:
    path = data_set(tmp_path / "a.zip", pictures(9, 1), None)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 40] ^= 1  # of the first image: the zip's own checksum no longer fits
    path.write_bytes(content)
    np.save(tmp_path / "b.npy", pictures(9, 2))
    sentence = refused(path, tmp_path / "b.npy")
    assert "a.zip/00000/img00000000.png cannot be read (Bad CRC-32" in sentence and "--bad-images skip" in sentence


def test_a_packed_torch_file_is_refused(tmp_path: Path) -> None:
    """A few bytes that would unpack to many: torch itself packs nothing."""
    plain, packed = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save(torch.zeros(1000, DIM), plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert feature_dim(plain) == DIM
    with pytest.raises(PipelineError, match="is packed, as no file of torch is"):
        read_features(packed)


def test_what_is_read_of_each_kind(tmp_path: Path) -> None:
    rows = features(3, 1500, 7).astype(np.float64)  # more than are read at once
    for kind in KINDS[:-1]:
        path = kind(tmp_path / kind.__name__, rows)
        assert is_feature_file(path) and feature_dim(path) == 7
        found = read_features(path)
        assert np.array_equal(found.features, rows.astype(np.float32)) and found.features.dtype == np.float32
        assert (found.labels is None) == (kind is not studiogan)
    labels = read_features(studiogan(tmp_path / "s", rows)).labels
    assert labels is not None and labels.tolist() == [i % 4 for i in range(1500)]
    half = torch.from_numpy(rows).bfloat16()
    torch.save(half, tmp_path / "half.pt")
    assert np.array_equal(read_features(tmp_path / "half.pt").features, half.float().numpy())
    assert not is_feature_file(statistics(tmp_path / "t", rows))
    assert not is_feature_file(tmp_path / "missing.pt")
