"""Images that stay in their file: the same bits as resident ones, one batch ahead, and no bus error."""

import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.devices import free_memory
from pipeline.core.errors import PipelineError
from pipeline.core.files import ArrayWriter
from pipeline.data import prepared
from pipeline.data.batches import ImageSet, batch
from pipeline.data.host_images import HostImages
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import create_state, train
from tests.recipes import image_set, tiny_budget, tiny_recipe

COUNT, SHAPE = 23, (3, 4, 5)


def images_of(index: int) -> np.ndarray:
    """Image `index`: each of its bytes tells which one it is, and where the byte stands."""
    return ((np.arange(math.prod(SHAPE)) * 7 + index * 11) % 256).astype(np.uint8).reshape(SHAPE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with ArrayWriter(tmp_path / "train.npy", SHAPE, np.uint8) as rows:
        rows.append(np.stack([images_of(index) for index in range(COUNT)]))
    return tmp_path / "train.npy"


@pytest.fixture
def sets(path: Path) -> tuple[ImageSet, ImageSet]:
    """The same images, resident and in their file."""
    host, labels = HostImages(path, (COUNT, *SHAPE), "cpu"), torch.arange(COUNT)
    return ImageSet(torch.from_numpy(np.load(path)), labels, COUNT), ImageSet(host, labels, COUNT)


def test_batches_have_the_same_bits(sets: tuple[ImageSet, ImageSet]) -> None:
    order = [(index, seed) for index in range(12) for seed in (0, 1)] + [(3, 0), (40, 1), (0, 0)]
    for index, seed in order:  # six epochs of two sequences, then others
        wanted, found = (batch(images, index, 5, seed, True, True) for images in sets)
        assert torch.equal(wanted[0], found[0]) and torch.equal(wanted[1], found[1]), (index, seed)
    for index in (0, 1):
        values, labels = batch(sets[1], index, 5, 0, False, False)
        for value, label in zip(values, labels.tolist(), strict=True):
            assert np.array_equal(((value + 1) * 127.5).round().numpy(), images_of(label))


def test_a_training_has_the_same_bits(tmp_path: Path) -> None:
    resident, recipe, budget = image_set(), tiny_recipe(n_critic=2), tiny_budget(steps=9)
    assert isinstance(resident.images, torch.Tensor)
    np.save(tmp_path / "train.npy", resident.images.numpy())
    host = HostImages(tmp_path / "train.npy", resident.images.shape, "cpu")
    ends = []
    for images in (resident.images, host):
        state = create_state(recipe, budget, (1, 16, 16), 3, 0, torch.device("cpu"))
        list(train(state, ImageSet(images, resident.labels, 3), LOSSES[recipe.loss], recipe, budget))
        ends.append(state.tensors())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_next_batch_is_read_by_a_thread(sets: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[str] = []
    read = HostImages._read

    def spied(self: HostImages, index: torch.Tensor) -> Any:
        readers.append(threading.current_thread().name.split("_")[0])
        return read(self, index)

    monkeypatch.setattr(HostImages, "_read", spied)
    for index in range(9):
        batch(sets[1], index, 5, 0, False, False)
    assert readers[0] == "MainThread" and readers[1:9] == ["images"] * 8 and len(readers) <= 10
    host = sets[1].images
    assert isinstance(host, HostImages) and len(host._waiting) == 1
    for seed in range(1, 8):
        batch(sets[1], 0, 5, seed, False, False)
    assert len(host._waiting) == 4  # what nobody asks for does not pile up


@pytest.mark.parametrize("ahead", [False, True])
def test_a_file_that_is_cut_short_is_an_error(sets: tuple[ImageSet, ImageSet], path: Path, ahead: bool) -> None:
    size = path.stat().st_size
    if ahead:
        batch(sets[1], 0, 20, 0, False, False)
    os.truncate(path, size - 1)
    where = rf"^{path} is damaged \(image 22 is cut short\): delete .* and run `dvc repro` again$"
    with pytest.raises(PipelineError, match=where):
        sets[1].images[torch.tensor([3, 22])]
    with pytest.raises(PipelineError, match="is damaged"):
        for index in range(1, 4):
            batch(sets[1], index, 20, 0, False, False)


def test_a_file_that_is_written_to_is_an_error(sets: tuple[ImageSet, ImageSet], path: Path) -> None:
    batch(sets[1], 0, 5, 0, False, False)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(0, 0))
    with pytest.raises(PipelineError, match="it was written to while it was read"):
        for index in (1, 2):
            batch(sets[1], index, 5, 0, False, False)


def test_another_file_at_its_place_is_not_read(sets: tuple[ImageSet, ImageSet], path: Path) -> None:
    path.rename(path.with_suffix(".former"))
    np.save(path, np.zeros((COUNT, *SHAPE), np.uint8))
    assert torch.equal(batch(sets[0], 2, 5, 0, False, False)[0], batch(sets[1], 2, 5, 0, False, False)[0])


def test_on_the_meta_device_no_number_is_waited_for(path: Path) -> None:
    host = HostImages(path, (COUNT, *SHAPE), "meta")
    values, labels = batch(ImageSet(host, torch.arange(COUNT, device="meta"), COUNT), 1, 4, 0, True, True)
    assert values.is_meta and values.shape == (4, *SHAPE) and labels.is_meta


def test_where_images_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(path.with_name("train_labels.npy"), np.zeros(COUNT, np.int64))
    described = {"train": COUNT, "image_shape": list(SHAPE), "classes": ["a"]}
    monkeypatch.setattr(prepared, "load_description", lambda folder: described)

    def kind(resident: str, free: float) -> type:
        monkeypatch.setattr(prepared, "free_memory", lambda device: free)
        return type(prepared.load_images(path.parent, "train", "cpu", resident).images)

    size = COUNT * math.prod(SHAPE)
    assert kind("auto", size / 0.6 * 1.01) is torch.Tensor and kind("auto", size / 0.6 * 0.99) is HostImages
    assert kind("device", 0) is torch.Tensor and kind("host", math.inf) is HostImages


def test_free_memory_is_that_of_this_machine() -> None:
    cpu, whole = free_memory(torch.device("cpu")), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < cpu <= (whole if sys.platform == "linux" else math.inf)
    assert free_memory(torch.device("meta")) == math.inf


LARGE = """if True:
    import resource, sys, torch
    from pathlib import Path
    from pipeline.data.batches import ImageSet, batch
    from pipeline.data.host_images import HostImages
    images = ImageSet(HostImages(Path(sys.argv[1]), (200_000, 3, 128, 128), "cpu"), torch.zeros(200_000), 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = sum(float(batch(images, index, 64, 0, False, False)[0].sum()) for index in range(40))
    print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_200_000_large_images_need_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "train.npy"
    with path.open("wb") as file:  # a hole in a file: zeros that take no room on the disk
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (200_000, 3, 128, 128)}
        )
        file.truncate(file.tell() + 200_000 * 3 * 128 * 128)
    done = subprocess.run([sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True, check=True)
    total, grown = done.stdout.split()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    assert float(total) == -40 * 64 * 3 * 128 * 128 and int(grown) * unit < 100 * 2**20


def test_faults_of_a_header(path: Path) -> None:
    def refused(content: bytes | None = None, shape: tuple[int, ...] = (COUNT, *SHAPE)) -> str:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(PipelineError) as caught:
            HostImages(path, shape, "cpu")
        return str(caught.value)

    whole = path.read_bytes()
    assert f"does not hold uint8 {(COUNT + 1, *SHAPE)}" in refused(shape=(COUNT + 1, *SHAPE))
    assert "bytes, not those of" in refused(whole + b"x") and "bytes, not those of" in refused(whole[:-1])
    for content in (b"", b"PK\x03\x04", whole[:20], whole[:10] + b"{'''" + whole[14:]):
        assert f"{path} is damaged" in refused(content)
    np.save(path, np.asfortranarray(np.zeros((COUNT, *SHAPE), np.uint8)))
    assert "does not hold uint8" in refused()
    path.unlink()
    assert f"{path} does not exist: run `dvc repro`" in refused()
