"""Files that someone could send: nothing in them is run, nothing is waited for, and memory and time are bounded."""

import functools
import hashlib
import io
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core import paths as layout
from pipeline.core.errors import PipelineError
from pipeline.data.prepared import load_array, load_images, prepare
from pipeline.evaluate import arrays as arrays_module
from pipeline.evaluate import images as images_module
from pipeline.evaluate.images import open_images
from pipeline.evaluate.statistics import read_statistics
from pipeline.gan.checkpoint import RunHistory, load_checkpoint, load_generator
from pipeline.gan.step import create_state
from pipeline.gan.warm_start import origin, warm_start
from pipeline.metrics import load_extractor
from pipeline.metrics.gaussian_file import load_gaussian
from pipeline.params import DataParams, MetricsParams, load
from tests.test_fuzz import assert_clear

ROOT = Path(__file__).resolve().parent.parent
DIM = 4


class Hang(BaseException):
    """Not an OSError, as TimeoutError is: nothing takes it for an unreadable file."""


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """No test here may take much longer, on a busy machine: what waits for ever is interrupted."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(25)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(PipelineError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert_clear(str(caught.value))
    return str(caught.value)


def data_params(root: Path, **changes: Any) -> DataParams:
    return DataParams(**{"dataset": "folder", "root": str(root), "image_size": 8, "channels": 3, "test_fraction": 0.4,
                         "limit": None, "bad_images": "refuse", "max_megapixels": 100.0, "seed": 0,
                         **changes})  # fmt: skip


# --- pickles ---


class Trap:
    """What makes the file `executed` in the current folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, in which no trap has gone off when the test is over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    yield tmp_path
    assert not (tmp_path / "executed").exists()


def trapped(path: Path) -> Path:
    """The trap as torch saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"fc.weight": Trap()}, path)
    return path


def test_the_trap_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Trap()))
    (tmp_path / "executed").rmdir()
    torch.load(trapped(tmp_path / "a.pt"), weights_only=False)
    (tmp_path / "executed").rmdir()
    np.savez(tmp_path / "a.npz", mu=np.array([Trap()], object))
    assert np.load(tmp_path / "a.npz", allow_pickle=True)["mu"].shape == (1,)
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize("key", ["mu", "sigma", "factor", "count", "protocol"])
def test_statistics_unpickle_nothing(here: Path, key: str) -> None:
    arrays: dict[str, Any] = {"mu": np.zeros(DIM), "sigma": np.eye(DIM), "factor": np.eye(DIM), "count": np.array(9)}
    np.savez(here / "s.npz", **arrays | {key: np.array([Trap()], object)})
    assert "Object arrays cannot be loaded" in refused(lambda: read_statistics(here / "s.npz", DIM, {}))
    if key in ("mu", "factor", "count"):
        assert "Object arrays" in refused(lambda: load_gaussian(here / "s.npz"))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "bare.npy", "bare.npz"])
def test_arrays_unpickle_nothing(here: Path, name: str) -> None:
    path, objects = here / name, np.array([[[Trap()] * 4] * 4] * 4, object)
    if name.startswith("bare"):
        path.write_bytes(pickle.dumps(Trap()))
    else:
        np.savez(path, objects) if name.endswith("z") else np.save(path, objects, allow_pickle=True)
    refused(lambda: open_images(path, 1.0, "refuse", None))
    refused(lambda: load_array(path, np.uint8, (4, 4, 4)))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["inception", "efficientnet_lite0"])
@pytest.mark.parametrize("unknown", ["refuse", "allow"])
def test_weights_unpickle_nothing(here: Path, name: str, unknown: str, legacy: bool) -> None:
    torch.save({"fc.weight": Trap()}, here / "w.pth", _use_new_zipfile_serialization=not legacy)
    params = MetricsParams(extractor=name, further_extractors=(), weights=str(here / "w.pth"), unknown_weights=unknown,
                           batch_size=8, compile=False, bootstrap=0, infinity=False)  # fmt: skip
    sentence = refused(lambda: load_extractor(params, torch.device("cpu")))
    assert ("cannot be read" if unknown == "allow" else "are not the known ones") in sentence


@pytest.mark.slow
def test_a_checkpoint_unpickles_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = load(ROOT / "params.yaml")
    recipe = params.models["gan"].model_copy(update={"width_g": 8, "width_d": 8, "latent_dim": 2})
    state = create_state(recipe, params.train, (1, 16, 16), 10, 0, torch.device("cpu"))
    content = trapped(here / "a.pt").read_bytes()
    for step, held in enumerate([content, pickle.dumps(Trap()), *ABSURD.values()]):
        digest = hashlib.sha256(held).hexdigest()[:16]
        (here / f"step-{step:08d}-{digest}.safetensors").write_bytes(held)
    assert load_checkpoint(here, state) == RunHistory() and state.step == 0
    assert capsys.readouterr().err.count("is damaged and passed over") == 2 + len(ABSURD)


def _safetensors(header: Any, length: int | None = None, data: bytes = b"\0" * 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


ABSURD = {
    "a header of 2**63 bytes": _safetensors({}, 2**63),
    "a header beyond the file": _safetensors({}, 2**20),
    "deep JSON": _safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "a huge shape": _safetensors({"ema.x": _tensor([2**40, 2**40], 0, 64)}),
    "a negative shape": _safetensors({"ema.x": _tensor([-1], 0, 64)}),
    "overlapping tensors": _safetensors({"ema.x": _tensor([16], 0, 64), "ema.y": _tensor([16], 0, 64)}),
    "a hole": _safetensors({"ema.x": _tensor([4], 0, 16), "ema.y": _tensor([4], 48, 64)}),
    "offsets beyond the file": _safetensors({"ema.x": _tensor([2**30], 0, 2**32)}),
    "an unknown type": _safetensors({"ema.x": _tensor([16], 0, 64, "PICKLE")}),
    "nothing": b"",
}


@pytest.mark.parametrize("name", ["a pickle", *ABSURD])
def test_a_generator_is_nothing_but_tensors(here: Path, name: str) -> None:
    content = ABSURD[name] if name in ABSURD else trapped(here / "a.pt").read_bytes()
    (here / "generator.json").write_text("{}")
    (here / "generator.safetensors").write_bytes(content)
    assert "is damaged" in refused(lambda: load_generator(here, "ema"))


@pytest.mark.parametrize("name", ["a pickle", *ABSURD])
def test_a_warm_start_is_nothing_but_tensors(here: Path, name: str) -> None:
    folder = layout.PRETRAINED / "mine"
    content = ABSURD[name] if name in ABSURD else trapped(here / "a.pt").read_bytes()
    folder.mkdir(parents=True)
    for file in ("generator.safetensors", "discriminator.safetensors"):
        (folder / file).write_bytes(content)
    info = {"model": "gan", "seed": 0, "steps": 1, "data_sha256": "0"}
    (folder / "generator.json").write_text(json.dumps(info))
    init_from = refused(lambda: origin("mine")).rpartition("write ")[2]
    params = load(ROOT / "params.yaml")
    recipe = params.models["gan"].model_copy(update={"width_g": 8, "width_d": 8, "latent_dim": 2})
    state = create_state(recipe, params.train, (1, 16, 16), 10, 0, torch.device("cpu"))
    assert "is damaged" in refused(lambda: warm_start(state, init_from))


@pytest.mark.parametrize(
    "change",
    [{"train": "x"}, {"train": -1}, {"train": 2**70}, {"image_shape": 3}, {"image_shape": [1, 2**40, 2**40]},
     {"classes": 3}, {"classes": [[]]}, {"sha256": 0}, {"class_counts": "x"},
     {"test": None}],
)  # fmt: skip
def test_a_forged_description_of_the_data(here: Path, change: dict[str, Any]) -> None:
    prepare(data_params(here, dataset="digits", channels=1), here / "ready")
    path = here / "ready" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "is damaged" in refused(lambda: load_images(here / "ready", "train", "cpu"))


# --- folders ---


def pictures(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    return folder


def both(root: Path, out: Path, bad_images: str = "skip") -> tuple[dict[str, Any], dict[str, Any]]:
    """What the prepare stage and the metrics command say of a folder."""
    description = prepare(data_params(root, bad_images=bad_images), out)
    source = open_images(root, 100.0, bad_images, None)  # type: ignore[arg-type]
    source.content_sha256()
    assert sum(len(batch) for batch in source.batches(4, 2)) == source.stats.images
    return description, source.record()


PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 8, 8, 8, 2, 0, 0, 0)
WEBP = b"RIFF\xff\xff\xff\x7fWEBPVP8L\xff\xff\xff\x7f"


def _sparse(path: Path, head: bytes) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(2**40)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")  # its own path may be too long for a socket
        os.close(folder)


TRAPS: dict[str, Callable[[Path], object]] = {
    "pipe.png": os.mkfifo,
    "socket.png": _socket,
    "zeros.png": lambda path: path.symlink_to("/dev/zero"),
    "passwd.png": lambda path: path.symlink_to("/etc/passwd"),
    "kernel.png": lambda path: path.symlink_to("/proc/kcore"),
    "itself.png": lambda path: path.symlink_to(path.name),
    "terabyte.png": functools.partial(_sparse, head=PNG),
    "terabyte.webp": functools.partial(_sparse, head=WEBP),
    "new\nline\x1b[2J.png": lambda path: path.write_bytes(b"x"),
    "<script>alert(1)<.png": lambda path: path.write_bytes(b"x"),
    os.fsdecode(b"\xff\xfe.png"): lambda path: path.write_bytes(b"x"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_what_lies_in_a_folder_is_an_image_or_bad(tmp_path: Path, name: str) -> None:
    TRAPS[name](pictures(tmp_path / "images") / name)
    description, record = both(tmp_path / "images", tmp_path / "out")
    assert description["train"] + description["test"] == record["images"] == 6
    assert sum(description["skipped"].values()) == sum(record["skipped"].values()) == 1
    sentence = refused(lambda: both(tmp_path / "images", tmp_path / "refused", "refuse"))
    assert "root:" not in sentence  # nothing of /etc/passwd
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


def test_folders_that_are_links_or_end_like_images(tmp_path: Path) -> None:
    pictures(tmp_path / "elsewhere")
    images = pictures(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "out.png").symlink_to(tmp_path / "elsewhere")
    (images / "loop.png").symlink_to(tmp_path / "images")
    description, record = both(tmp_path / "images", tmp_path / "out")
    assert description["train"] + description["test"] == record["images"] == 6
    assert description["skipped"] == record["skipped"] == {"linked_folders": 2}


def test_folders_without_end(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    place = os.open(tmp_path / "images", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    for call in (prepare, lambda params, out: open_images(Path(params.root), 100.0, "skip", None)):
        refused(functools.partial(call, data_params(tmp_path / "images"), tmp_path / "out"))
    subprocess.run(["rm", "-rf", tmp_path / "images"], check=True)  # shutil's own stops at such a depth, too


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\xe9"])
def test_a_class_is_named_in_utf8(tmp_path: Path, name: bytes) -> None:
    for folder in (b"whole", name):
        pictures(tmp_path / "images" / os.fsdecode(folder))
    assert "is not UTF-8: rename it" in refused(lambda: prepare(data_params(tmp_path / "images"), tmp_path / "out"))


@pytest.mark.parametrize(
    "root", ["~nobody-at-all/x", "x" * 5000, "\0", "a\nb", "\ud800", "/dev/null/x", "", "/dev/null"]
)
@pytest.mark.parametrize("dataset", ["folder", "mnist", "cifar10"])
def test_any_root_is_a_sentence(here: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, root: str) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    refused(lambda: prepare(data_params(Path("."), dataset=dataset).model_copy(update={"root": root}), here / "out"))


# --- bombs ---


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    rows = zlib.compress(bytes(min(width, 10_000) * 3 + 1) * 8)
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + b"".join(chunks) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b""))  # fmt: skip


def _animated(kind: str, count: int) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (16, 16), index % 256) for index in range(count)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


ZEROS = zlib.compress(bytes(2**28), 1)  # 256 MB in about 1
BOMBS: dict[str, Callable[[], bytes]] = {
    "wide.png": lambda: _png(2**31 - 1, 2**31 - 1),
    "large.png": lambda: _png(20_000, 20_000),
    "text.png": lambda: _png(8, 8, _chunk(b"zTXt", b"a\0\0" + ZEROS)),
    "itxt.png": lambda: _png(8, 8, _chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS)),
    "profile.png": lambda: _png(8, 8, _chunk(b"iCCP", b"a\0\0" + ZEROS)),
    "frames.gif": lambda: _animated("GIF", 2000),
    "frames.webp": lambda: _animated("WEBP", 300),
    "frames.png": lambda: _animated("PNG", 300),
}


def _bombs(folder: Path) -> None:
    for name, content in BOMBS.items():
        (folder / name).write_bytes(content())


MEASURE = """
import resource, sys
from pathlib import Path
from pipeline.core.errors import PipelineError
from pipeline.evaluate.images import open_images
from pipeline.evaluate.statistics import read_statistics
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    for read in (lambda path: [*open_images(path, 100.0, "skip", None).batches(64, 2)],
                 lambda path: read_statistics(path, 4, {})):
        try:
            read(Path(name))
        except PipelineError as error:
            print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def measured(*paths: Path) -> tuple[list[str], int]:
    """What a process says of hostile sets, and by how many MiB it grew."""
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *said, grown = done.stdout.splitlines()
    return said, int(grown)


def _packed(path: Path, shape: tuple[int, ...], dtype: str, names: list[str], size: int = 17 * 2**24) -> Path:
    """An .npz whose arrays announce `shape`, and hold `size` zeros in a thousandth of that."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
                for _ in range(size // 2**24):
                    file.write(bytes(2**24))
    return path


@pytest.mark.slow
def test_bombs_take_no_memory(tmp_path: Path) -> None:
    signal.alarm(90)  # a process of its own, and all bombs at once
    _bombs(pictures(tmp_path / "images"))
    paths = [
        tmp_path / "images",
        _packed(tmp_path / "announced.npz", (10**7, 10**7), "<f8", ["mu", "sigma"], 0),
        _packed(tmp_path / "zeros.npz", (17, 2**21), "<f8", ["mu", "sigma"]),
        _packed(tmp_path / "longheader.npz", (1,), "<f8", ["arr_0"]),
    ]
    content = bytearray(paths[-1].read_bytes())
    paths[-1].write_bytes(content.replace(b"\x93NUMPY\1\0", b"\x93NUMPY\2\0"))
    started = time.monotonic()
    said, grown = measured(*paths)
    assert time.monotonic() - started < 40 and grown < 500, (said, grown)
    assert all(any(path.name in line for line in said) for path in paths[1:]), said


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_large_images_of_an_array_are_refused(tmp_path: Path, name: str) -> None:
    (np.savez if name.endswith("z") else np.save)(tmp_path / name, np.zeros((2, 40, 40, 3), np.uint8))
    assert len(open_images(tmp_path / name, 0.0016, "refuse", None).content) == 2
    assert "more than --max-megapixels 0.0015" in refused(lambda: open_images(tmp_path / name, 0.0015, "refuse", None))


def test_large_images_are_not_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images of 192 bytes wait for the eleventh to be asked for; here 500 bytes may wait."""
    monkeypatch.setattr(images_module, "MOST_WAITING", 500)
    decoded, decode = [], images_module.decode

    def counting(*arguments: Any) -> Image.Image:
        decoded.append(arguments[0])
        return decode(*arguments)

    monkeypatch.setattr(images_module, "decode", counting)
    batches: Any = open_images(pictures(tmp_path, 30), 1.0, "refuse", None).batches(20, 2)
    first = next(batches)
    time.sleep(0.1)
    assert len(first) == 3 and len(decoded) <= 3 + 3 + 2
    assert sum(map(len, batches)) == 27
    batches.close()


def test_large_rows_of_an_array_are_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((30, 8, 8, 3), np.uint8))
    monkeypatch.setattr(images_module, "MOST_WAITING", 500)
    read, rows = [], arrays_module._rows
    monkeypatch.setattr(arrays_module, "_rows", lambda *given: (read.append(1) or row for row in rows(*given)))
    batches: Any = open_images(tmp_path / "a.npz", 1.0, "refuse", None).batches(20, 2)
    assert len(next(batches)) == 3 and len(read) <= 3 + 3
    assert sum(map(len, batches)) == 27


def test_a_reader_that_stops_leaves_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "MOST_WAITING", 1)
    batches: Any = open_images(pictures(tmp_path, 30), 1.0, "refuse", None).batches(20, 4)
    assert len(next(batches)) == 1
    batches.close()  # waits for its threads, which wait for room
