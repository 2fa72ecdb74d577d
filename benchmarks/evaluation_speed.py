"""Evaluation beside the `pytorch-fid` command, in one run, on the same PNGs and the same Inception weights.

    python -m benchmarks.evaluation_speed [--images 2000]

It prints, as time and as a ratio: the distance of a folder from saved statistics, by each tool as a process of its own
(torch-fidelity and clean-fid, too, where they are installed); the trace term at 2,048 dimensions beside
scipy.linalg.sqrtm; and the peak memory of the statistics of 50,000 x 2,048 features. The weights are seeded, not
trained (benchmarks/seeded_inception.py): the distances are no FID, but must agree.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.seeded_inception import write_weights
from pipeline.metrics.extractors import inception
from pipeline.metrics.frechet import factorise

DIM = 2048
FIDELITY = """
import sys, numpy as np, torch_fidelity.metric_fid as fid
from torch_fidelity.utils import create_feature_extractor
known, (_, statistics, images, weights) = {"batch_size": 50, "cuda": False, "verbose": False, "cache": False}, sys.argv
network = create_feature_extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=weights, **known)
found = fid.fid_input_id_to_statistics(1, network, "2048", input1=images, samples_find_deep=False, **known)
given = {name: np.load(statistics)[name].astype(value.dtype) for name, value in found.items()}
print(*fid.fid_statistics_to_metric(given, found, False).values())
"""
CLEAN = """
import sys, numpy as np, torch
from cleanfid import fid
(_, statistics, images), device = sys.argv, torch.device("cpu")
network = fid.build_feature_extractor("legacy_pytorch", device, use_dataparallel=False)
features = fid.get_folder_features(images, network, num_workers=0, batch_size=50, device=device, mode="legacy_pytorch")
given = np.load(statistics)
print(fid.frechet_distance(given["mu"], given["sigma"], features.mean(axis=0), np.cov(features, rowvar=False)))
"""


@dataclass(frozen=True)
class Run:
    """What one process took: wall seconds, CPU seconds and peak memory (MiB); and the distance that it printed."""

    seconds: float
    cpu: float
    peak: float
    distance: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--only", choices=["command", "trace", "memory"])
    parser.add_argument("--compile", action="store_true", help="also with the network compiled")
    options = parser.parse_args()
    if options.only in (None, "memory"):
        few, many = memory()
        print(f"statistics of 50,000 x {DIM}: {many:.0f} MiB above an idle process, of 256: {few:.0f} MiB", flush=True)
    if options.only in (None, "trace"):
        ours, theirs, gap = trace_term()
        print(
            f"trace term at {DIM}: ours {ours:.1f} s, scipy.linalg.sqrtm {theirs:.1f} s: {theirs / ours:.1f}x", end=""
        )
        print(f" (relative difference {gap:.1e})", flush=True)
    if options.only in (None, "command"):
        runs = commands(options.images, compiled=options.compile)
        (base,) = runs["ours"]
        for tool, (run,) in runs.items():
            print(f"{tool}: {run.seconds:.0f} s, CPU {run.cpu:.0f} s, peak {run.peak:.0f} MiB, ", end="")
            print(f"distance {run.distance:.6f}, {run.seconds / base.seconds:.2f}x ours", flush=True)


def memory() -> tuple[float, float]:
    """The peaks (MiB) of processes that fit statistics to 256 and to 50,000 x 2,048 features, above an idle one's."""
    peaks = []
    for count in (0, 256, 50_000):
        code = (
            "import numpy as np; from pipeline.metrics.frechet import Moments\n"
            "source, moments = np.random.default_rng(0), Moments()\n"
            f"for start in range(0, {count}, 256): moments.add(source.random((256, {DIM}), dtype=np.float32))\n"
            f"{count} and moments.covariance.trace()\n"
            # Not ru_maxrss: it begins with what the process had that started this one.
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    return peaks[1] - peaks[0], peaks[2] - peaks[0]


def trace_term() -> tuple[float, float, float]:
    """tr (S1 S2)^1/2 of two full-rank covariances: seconds of ours with the reference's factor known and of scipy's
    sqrtm, and the relative difference of the two results."""
    import scipy.linalg

    source = np.random.default_rng(0)
    features = [source.standard_normal((3 * DIM, DIM)) @ np.diag(1 / np.arange(1, DIM + 1) ** 0.5) for _ in range(2)]
    first, second = (np.cov(values, rowvar=False) for values in features)
    factor = factorise(first)
    start = time.perf_counter()
    shared = scipy.linalg.svdvals(factor.T @ factorise(second)).sum()
    ours = time.perf_counter() - start
    start = time.perf_counter()
    root = np.trace(scipy.linalg.sqrtm(first @ second)).real
    return ours, time.perf_counter() - start, abs(shared - root) / root


def commands(count: int, rounds: int = 1, compiled: bool = False) -> dict[str, list[Run]]:
    """Each tool's distance of the same PNGs from statistics that it is given, in its own process, in turn.

    Tools that are not installed are left out; all have the same seeded weights.
    """
    found: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_weights(folder / "torch/hub/checkpoints" / inception.FILE)
        _write_pngs(folder / "generated", count, 1)
        _write_statistics(folder / "real.npz")
        environment = {**os.environ, "TORCH_HOME": str(folder / "torch"), "PYTHONWARNINGS": "ignore"}
        programs = tools(folder / "real.npz", folder / "generated", weights)
        if compiled:
            programs["ours, --compile"] = [*programs["ours"], "--compile"]
        for _ in range(rounds):
            for tool, command in programs.items():
                found.setdefault(tool, []).append(_run(tool, command, environment))
    return found


def tools(statistics: Path, images: Path, weights: Path) -> dict[str, list[object]]:
    """The command of each tool that is installed; it prints the distance last.

    torch-fidelity and clean-fid have no command that takes saved statistics: a few lines call their own functions, the
    latter's with pytorch-fid's resize, since its own network cannot be seeded.
    """
    python = sys.executable
    programs: dict[str, list[object]] = {
        "ours": [python, "-m", "pipeline.metrics", statistics, images, "--extractor", "inception", "--weights",
                 weights, "--allow-unknown-weights", "--no-cache", "--metrics", "fid", "--bootstrap", "0"],
        "pytorch-fid": [python, "-m", "pytorch_fid", statistics, images, "--device", "cpu", "--num-workers", "0",
                        "--batch-size", "50"],
        "torch-fidelity": [python, "-c", FIDELITY, statistics, images, weights],
        "clean-fid": [python, "-c", CLEAN, statistics, images],
    }  # fmt: skip
    needed = {"torch-fidelity": "torch_fidelity", "clean-fid": "cleanfid"}
    return {tool: call for tool, call in programs.items() if tool not in needed or find_spec(needed[tool])}


def _write_pngs(folder: Path, count: int, seed: int) -> None:
    """Smooth seeded noise of 32 x 32 pixels."""
    source = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        coarse = source.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.png")


def _write_statistics(path: Path) -> None:
    """Mean and covariance of seeded features, as pytorch-fid saves them: all are given the same reference."""
    features = np.abs(np.random.default_rng(0).standard_normal((2 * DIM, DIM)))
    np.savez(path, mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))


def _run(tool: str, command: list[object], environment: dict[str, str]) -> Run:
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        errors.seek(0)
        if status:
            sys.exit(f"{tool} failed with status {os.waitstatus_to_exitcode(status)}:\n{errors.read()}")
    process.returncode = 0
    seconds = time.perf_counter() - start
    is_ours = output.lstrip().startswith("{")
    distance = next(iter(json.loads(output)["metrics"].values())) if is_ours else float(output.split()[-1])
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, distance)


if __name__ == "__main__":
    main()
