"""Evaluation beside the `pytorch-fid` command, in one run, on the same PNGs and the same Inception weights.

    python -m benchmarks.evaluation_speed [--images 2000]

It prints, as time and as a ratio: a second model's distance to a reference that is measured already, by the command
with its saved .npz and by ours with its cache; the trace term at 2,048 dimensions beside
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
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.seeded_inception import write_weights
from pipeline.metrics.extractors import inception
from pipeline.metrics.frechet import factorise

DIM = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--only", choices=["command", "trace", "memory"])
    parser.add_argument("--compile", action="store_true", help="also with the network compiled")
    options = parser.parse_args()
    if options.only in (None, "memory"):
        memory()
    if options.only in (None, "trace"):
        trace_term()
    if options.only in (None, "command"):
        commands(options.images, options.compile)


def memory() -> None:
    """The peak of a process that fits statistics to 50,000 x 2,048 features, above what it needs without."""
    peaks = []
    for count in (256, 50_000):
        code = (
            "import resource, numpy as np; from pipeline.metrics.frechet import Moments\n"
            "source, moments = np.random.default_rng(0), Moments()\n"
            f"for start in range(0, {count}, 256): moments.add(source.random((256, {DIM}), dtype=np.float32))\n"
            "moments.covariance.trace(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    code = "import resource, numpy, pipeline.metrics.frechet; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    idle = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) / 1024
    print(f"statistics of 50,000 x {DIM}: {peaks[1] - idle:.0f} MiB above the idle process ({idle:.0f} MiB); ", end="")
    print(f"of 256 x {DIM}: {peaks[0] - idle:.0f} MiB", flush=True)


def trace_term() -> None:
    """tr (S1 S2)^1/2 of two full-rank covariances: ours with the reference's factor known, and scipy's."""
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
    theirs = time.perf_counter() - start
    print(f"trace term at {DIM}: ours {ours:.1f} s, scipy.linalg.sqrtm {theirs:.1f} s: {theirs / ours:.1f}x ", end="")
    print(f"(relative difference {abs(shared - root) / root:.1e})", flush=True)


def commands(count: int, compiled: bool) -> None:
    """Both commands on the same PNGs, against a reference whose statistics both have already."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_weights(folder / "torch/hub/checkpoints" / inception.FILE)
        for number, part in enumerate(("real", "generated")):
            _write_pngs(folder / part, count, number)
        environment = {**os.environ, "TORCH_HOME": str(folder / "torch"), "PYTHONWARNINGS": "ignore"}
        ours = [sys.executable, "-m", "pipeline.metrics", folder / "real"]
        flags = ["--extractor", "inception", "--weights", weights, "--allow-unknown-weights", "--cache",
                 folder / "cache", "--metrics", "fid", "--bootstrap", "0"]  # fmt: skip
        print("measuring the reference, which both then have", flush=True)
        _run([*ours, "--save", folder / "real.npz", *flags], environment)
        theirs = [sys.executable, "-m", "pytorch_fid", folder / "real.npz", folder / "generated",
                  "--device", "cpu", "--num-workers", "0", "--batch-size", "50"]  # fmt: skip
        output, their_seconds, peak = _run(theirs, environment)
        print(f"pytorch-fid: {their_seconds:.0f} s, peak {peak:.0f} MiB, distance {float(output.split()[-1]):.6f}")
        variants: dict[str, list[str]] = {"ours": []} | ({"ours, --compile": ["--compile"]} if compiled else {})
        for name, extra in variants.items():
            output, seconds, peak = _run([*ours, folder / "generated", *flags, *extra], environment)
            value = next(iter(json.loads(output)["metrics"].values()))
            ratio = their_seconds / seconds
            print(f"{name}: {seconds:.0f} s, peak {peak:.0f} MiB, distance {value:.6f}: {ratio:.2f}x", flush=True)


def _write_pngs(folder: Path, count: int, seed: int) -> None:
    """Smooth seeded noise of 32 x 32 pixels."""
    source = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        coarse = source.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.png")


def _run(command: list[object], environment: dict[str, str]) -> tuple[str, float, float]:
    """What a command printed, its seconds, and its peak memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[2]} failed with status {os.waitstatus_to_exitcode(status)}")
    process.returncode = 0
    return output, time.perf_counter() - start, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
