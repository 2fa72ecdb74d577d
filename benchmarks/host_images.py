"""Training from images on disk beside training from resident ones: speed, memory, and whether the bits are the same.

    python -m benchmarks.host_images [--images 40000] [--size 128] [--steps 40] [--folder /tmp]

A set of seeded noise is written to a temporary folder (2 GB by default). Memory is that of one process for each way, to
its end. Speed is that of a third process, in which both train, step by step in turn, so that other load on the machine
falls on both alike; the ratio is the median over these pairs. The model is the dcgan of params.yaml at width 16: the
faster a step, the less time is there to read the next batch in.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.devices import choose_device, make_deterministic
from pipeline.core.files import ArrayWriter, write_json
from pipeline.data.prepared import load_images
from pipeline.gan.losses import LOSSES
from pipeline.gan.step import create_state, train
from pipeline.params import load

WARM = 3  # steps before the clock starts
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def write_set(folder: Path, count: int, size: int) -> None:
    """A prepared folder with `count` training images of noise."""
    source = np.random.default_rng(0)
    for split, images in (("train", count), ("test", 2)):
        with ArrayWriter(folder / f"{split}.npy", (3, size, size), np.uint8) as rows:
            for start in range(0, images, 256):
                rows.append(source.integers(256, size=(min(256, images - start), 3, size, size), dtype=np.uint8))
        np.save(folder / f"{split}_labels.npy", np.zeros(images, np.int64))
    description = {"name": "noise", "train": count, "test": 2, "image_shape": [3, size, size], "classes": [],
                   "class_counts": [], "source_size": {}, "skipped": {}, "sha256": "0" * 64}  # fmt: skip
    write_json(folder / "dataset.json", description)


class Run:
    """One training of the set in `folder`."""

    def __init__(self, folder: Path, resident: str, steps: int, device: torch.device) -> None:
        params = load()
        self.images = load_images(folder, "train", device, resident)
        self.recipe = params.models["dcgan"].model_copy(update={"width_g": 16, "width_d": 16, "batch_size": 32})
        budget = params.train.model_copy(update={"steps": WARM + steps})
        _, channels, height, width = self.images.images.shape
        self.state = create_state(self.recipe, budget, (channels, height, width), 0, 0, device)
        self._steps = train(self.state, self.images, LOSSES[self.recipe.loss], self.recipe, budget)

    def step(self) -> tuple[float, float]:
        """One step: how many seconds it took, and how many of CPU time."""
        started, busy = time.perf_counter(), time.process_time()
        next(self._steps)
        if self.state.losses.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started, time.process_time() - busy

    def digest(self) -> str:
        """A hash of all weights."""
        digest = hashlib.sha256()
        for tensor in self.state.tensors().values():
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def measure(folder: Path, ways: list[str], steps: int, device: torch.device) -> dict[str, Any]:
    """Train in this process, in turn by each way: seconds of the steps, hashes, the most memory of the process."""
    make_deterministic()
    runs = {way: Run(folder, way, steps, device) for way in ways}
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(WARM + steps):
        for way in ways[:: -1 if turn % 2 else 1]:  # each is as often the first
            seconds[way].append(runs[way].step())
    return {
        "seconds": {way: values[WARM:] for way, values in seconds.items()},
        "batch": next(iter(runs.values())).recipe.batch_size,
        "digests": [run.digest() for run in runs.values()],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 40_000), ("size", 128), ("steps", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="a disk with room for the set")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        folder, *ways = options.measure
        print(json.dumps(measure(Path(folder), ways, options.steps, choose_device(options.device))))
        return

    def measured(*ways: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.host_images", f"--steps={options.steps}"]
        command += [f"--device={options.device}", "--measure", folder, *ways]
        found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        return found

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_set(Path(folder), options.images, options.size)
        memory = {way: measured(way) for way in ("device", "host")}
        both = measured("device", "host")
    print(f"{options.images:,} images of 3 x {options.size} x {options.size}, torch {torch.__version__}", end=", ")
    print(
        f"{torch.get_num_threads()} threads\n\n| resident | images/s | CPU s a step | memory, MiB |\n|---|---|---|---|"
    )
    for way, found in memory.items():
        wall, busy = (statistics.median(column) for column in zip(*both["seconds"][way], strict=True))
        print(f"| {way} | {both['batch'] / wall:.1f} | {busy:.4f} | {found['memory']:,.0f} |")
    pairs = zip(both["seconds"]["device"], both["seconds"]["host"], strict=True)
    ratio = statistics.median(device[0] / host[0] for device, host in pairs)
    same = len({digest for found in (*memory.values(), both) for digest in found["digests"]}) == 1
    print(f"\nhost trains {ratio:.2f} times as fast as device; the bits are {'' if same else 'NOT '}the same")


if __name__ == "__main__":
    main()
