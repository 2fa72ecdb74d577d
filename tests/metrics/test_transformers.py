"""DINOv2's and CLIP's extractors: against the authors' own networks, and a plain forward pass in numpy."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import erf

from benchmarks.seeded_transformers import (
    CLIP_GRID,
    DIM,
    GRID,
    WIDTH,
    clip_state,
    dinov2_state,
    pictures,
    write_clip,
    write_dinov2,
)
from pipeline.core.errors import PipelineError
from pipeline.metrics import Extractor, load_extractor
from pipeline.metrics.extractors import clip_vitl14_336, dinov2_vitb14, dinov2_vitl14, dinov2_vits14
from pipeline.metrics.extractors.dinov2 import interpolated
from pipeline.metrics.reference import KNOWN
from pipeline.params import MetricsParams

Array = np.ndarray
CPU = torch.device("cpu")
SIZES = {"dinov2_vitl14": (1024, 24), "dinov2_vitb14": (768, 12), "dinov2_vits14": (384, 12)}
# As `python -m benchmarks.seeded_transformers` prints them: dinov2 0.0.1.dev2 and transformers 5.24.0.
THEIRS = {
    "dinov2_vits14": [
        [0.68152821, 0.67608708, -0.17209795, 0.10618838, -2.85476041],
        [1.17183495, 0.93713909, 0.34546232, -0.03943976, -3.43656373],
    ],
    "clip_vitl14_336": [
        [0.00785046, -0.00842305, 0.00878057, 0.04651951, 0.12314545],
        [0.01077637, -0.00557465, 0.00750504, 0.03387332, 0.11410344],
    ],
}


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def norm(x: Array, state: dict[str, Array], name: str, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return np.asarray(scaled * state[f"{name}.weight"] + state[f"{name}.bias"])


def attention(x: Array, weight: Array, bias: Array) -> Array:
    """x (P, D), with heads of 64."""
    q, k, v = np.split(x @ weight.T + bias, 3, axis=1)
    heads = [slice(start, start + 64) for start in range(0, x.shape[1], 64)]
    return np.concatenate([softmax(q[:, h] @ k[:, h].T / 8) @ v[:, h] for h in heads], axis=1)


def tokens(image: Array, weight: Array, bias: Array | float) -> Array:
    """(3, S, S) -> (P, D): each patch of 14 x 14 by a matrix."""
    side = image.shape[1] // 14
    patches = image.reshape(3, side, 14, side, 14).transpose(1, 3, 0, 2, 4).reshape(side * side, -1)
    return np.asarray(patches @ weight.reshape(len(weight), -1).T + bias)


def cubic(x: float) -> float:
    """The weight at distance x of torch's bicubic, a = -3/4."""
    x, a = abs(x), -0.75
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def along(values: Array, count: int) -> Array:
    """Axis 0 of `values` to `count` places by DINOv2's factor, (count + 0.1) / n, edges repeated."""
    n = len(values)
    result = np.zeros((count, *values.shape[1:]))
    for i in range(count):
        place = (i + 0.5) * n / (count + 0.1) - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            result[i] += cubic(place - j) * values[min(max(j, 0), n - 1)]
    return result


def positions(embedding: Array) -> Array:
    grid = embedding[1:].reshape(GRID, GRID, -1)
    small = along(along(grid, 16).transpose(1, 0, 2), 16).transpose(1, 0, 2)
    return np.concatenate([embedding[:1], small.reshape(256, -1)])


def plain_dinov2(image: Array, state: dict[str, Array]) -> Array:
    x = tokens(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"])
    x = np.concatenate([state["cls_token"][0], x]) + positions(state["pos_embed"][0])
    for n in range(2):
        s = {name.removeprefix(f"blocks.{n}."): value for name, value in state.items()}
        y = attention(norm(x, s, "norm1", 1e-6), s["attn.qkv.weight"], s["attn.qkv.bias"])
        x = x + s["ls1.gamma"] * (y @ s["attn.proj.weight"].T + s["attn.proj.bias"])
        y = norm(x, s, "norm2", 1e-6) @ s["mlp.fc1.weight"].T + s["mlp.fc1.bias"]
        y = y * (1 + erf(y / np.sqrt(2))) / 2
        x = x + s["ls2.gamma"] * (y @ s["mlp.fc2.weight"].T + s["mlp.fc2.bias"])
    return norm(x, state, "norm", 1e-6)[0]


def plain_clip(image: Array, state: dict[str, Array]) -> Array:
    state = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    x = np.concatenate([state["class_embedding"][None], tokens(image, state["conv1.weight"], 0.0)])
    x = norm(x + state["positional_embedding"], state, "ln_pre", 1e-5)
    for n in range(2):
        s = {name.removeprefix(f"transformer.resblocks.{n}."): value for name, value in state.items()}
        y = attention(norm(x, s, "ln_1", 1e-5), s["attn.in_proj_weight"], s["attn.in_proj_bias"])
        x = x + y @ s["attn.out_proj.weight"].T + s["attn.out_proj.bias"]
        y = norm(x, s, "ln_2", 1e-5) @ s["mlp.c_fc.weight"].T + s["mlp.c_fc.bias"]
        x = x + (y / (1 + np.exp(-1.702 * y))) @ s["mlp.c_proj.weight"].T + s["mlp.c_proj.bias"]
    found = norm(x, state, "ln_post", 1e-5)[0] @ state["proj"]
    return np.asarray(found / np.sqrt(found @ found))


def shown(image: Array, size: int, mean: list[float], deviation: list[float]) -> Array:
    """uint8 (H, W, 3) -> (3, size, size)"""
    resized = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    return ((resized / 255 - mean) / deviation).transpose(2, 0, 1)


Loaded = Callable[..., Extractor]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics_params: Callable[..., MetricsParams]) -> Loaded:
    """An extractor of seeded weights that pass for the known ones; the network is small."""

    def load(name: str, **changes: Any) -> Extractor:
        clip = name == "clip_vitl14_336"
        module = clip_vitl14_336 if clip else dinov2_vits14
        path = write_clip(tmp_path / "w.pt") if clip else write_dinov2(tmp_path / "w.pth")
        monkeypatch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        monkeypatch.setattr(module, "DIM", DIM if clip else WIDTH)
        monkeypatch.setattr(module, "LAYERS", 2)
        monkeypatch.setattr(clip_vitl14_336, "WIDTH", WIDTH)
        return load_extractor(metrics_params(name, weights=str(path), **changes), CPU)

    return load


def features(extractor: Extractor) -> Array:
    return extractor(torch.from_numpy(pictures()).permute(0, 3, 1, 2)).numpy()


@pytest.mark.parametrize("name", THEIRS)
def test_features_are_those_of_the_authors_networks(name: str, small: Loaded) -> None:
    found = features(small(name))
    np.testing.assert_allclose(found[:, :5], THEIRS[name], rtol=0, atol=1e-5 * np.abs(found).max())


def test_dinov2_by_a_plain_forward_pass(small: Loaded) -> None:
    state = {name: value.double().numpy() for name, value in dinov2_state().items()}
    found = features(small("dinov2_vits14"))
    for one, image in zip(found, pictures(), strict=True):
        expected = plain_dinov2(shown(image, 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), state)
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_clip_by_a_plain_forward_pass_of_the_square_at_the_centre(small: Loaded) -> None:
    state = {name: value.double().numpy() for name, value in clip_state().items()}
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    found = features(small("clip_vitl14_336"))
    for one, image in zip(found, pictures(), strict=True):
        expected = plain_clip(shown(image[:, 4:44], 336, mean, deviation), state)  # of 40 x 48
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert CLIP_GRID * 14 == 336 and np.abs(found[0] - found[1]).max() > 1e-3


def test_positions_are_interpolated_as_dinov2s_code_does() -> None:
    embedding = dinov2_state()["pos_embed"][0]
    found = interpolated(embedding, 16).numpy()
    np.testing.assert_allclose(found, positions(embedding.double().numpy()), rtol=0, atol=1e-6)
    assert torch.equal(interpolated(embedding, GRID), embedding)
    plain = torch.nn.functional.interpolate(embedding[1:].T.reshape(1, -1, GRID, GRID), (16, 16), mode="bicubic")
    assert np.abs(found[1:] - plain[0].flatten(1).T.numpy()).max() > 1e-3  # without the offset they are others


@pytest.mark.parametrize("module", [dinov2_vitl14, dinov2_vitb14, dinov2_vits14])
def test_each_of_dinov2s_has_its_own_weights_size_and_place(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics_params: Callable[..., MetricsParams]
) -> None:
    name = module.__name__.rsplit(".", 1)[1]
    assert SIZES[name] == (module.DIM, module.LAYERS)
    assert module.SHA256[:8] == {"l": "d5383ea8", "b": "0b8b82f8", "s": "b938bf1b"}[name[10]]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(PipelineError) as caught:
        load_extractor(metrics_params(name), CPU)
    place = tmp_path / "checkpoints" / f"{name}_pretrain.pth"
    url = f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth"
    assert str(caught.value).startswith(f"the weights {place} do not exist: fetch it from {url} on")


def test_weights_of_another_size_are_refused(tmp_path: Path, metrics_params: Callable[..., MetricsParams]) -> None:
    path = write_dinov2(tmp_path / "w.pth")
    params = metrics_params("dinov2_vits14", weights=str(path), unknown_weights="allow")
    with pytest.raises(PipelineError, match=r"are not dinov2_vits14's \(width 128 and 2 layers, not 384 and 12\)"):
        load_extractor(params, CPU)
    state = dinov2_state()
    del state["blocks.1.norm2.bias"]
    torch.save(state, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dinov2_vits14, "DIM", WIDTH)
        patch.setattr(dinov2_vits14, "LAYERS", 2)
        with pytest.raises(PipelineError, match="are not dinov2_vits14's"):
            load_extractor(params, CPU)


def test_clips_archive_is_opened_only_where_it_is_the_known_one(
    tmp_path: Path, metrics_params: Callable[..., MetricsParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is TorchScript, that is, code. Other weights must be tensors alone."""
    path = write_clip(tmp_path / "w.pt")
    allowed = metrics_params("clip_vitl14_336", weights=str(path), unknown_weights="allow")
    with pytest.warns(UserWarning, match="TorchScript"), pytest.raises(PipelineError, match=r"cannot be read .*Script"):
        load_extractor(allowed, CPU)
    torch.save(clip_state(), path)
    for name, value in {"DIM": DIM, "WIDTH": WIDTH, "LAYERS": 2}.items():
        monkeypatch.setattr(clip_vitl14_336, name, value)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    extractor = load_extractor(allowed, CPU)
    assert extractor.metric == f"fd_clip_vitl14_336_{digest[:8]}"
    np.testing.assert_allclose(features(extractor)[:, :5], THEIRS["clip_vitl14_336"], atol=1e-5)


def test_compiling_leaves_the_features_as_they_are(small: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def compile_(network: torch.nn.Module, dynamic: bool) -> torch.nn.Module:
        called.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compile_)
    plain = features(small("dinov2_vits14"))
    assert np.array_equal(features(small("dinov2_vits14", compile=True)), plain) and called


def test_the_self_check_knows_fd_dinov2(small: Loaded) -> None:
    """The published distance of CIFAR-10's test images: under ViT-L/14's own weights only."""
    assert KNOWN["fd_dinov2_vitl14"] == (31.07, 0.1)
    extractor = small("dinov2_vits14")
    assert extractor.metric == "fd_dinov2_vits14" and extractor.metric not in KNOWN
    assert dataclasses.replace(extractor, version="").protocol["resize"] == "PIL bicubic, uint8"
