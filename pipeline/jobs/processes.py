"""Processes side by side on this machine: each with its share of the cores, or a GPU, and tied to its parent's life."""

import os
import subprocess
import time
from collections.abc import Iterable, Sequence

import torch

from pipeline.core.processes import threads_each

GRACE = 60.0  # seconds for a process to end when it is asked to


def share(index: int, count: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of process `index` of `count`: its threads, its GPU, and the process that started it.

    Args:
        gpus: the names, for CUDA_VISIBLE_DEVICES, of the GPUs that the processes have in turn; empty = none.
    """
    variables = {"OMP_NUM_THREADS": threads_each(count)}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    return {**os.environ, **variables, "PIPELINE_PARENT": str(os.getpid())}


def visible_gpus() -> list[str]:
    """The names, for CUDA_VISIBLE_DEVICES, of the GPUs that this process sees."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return names.split(",") if names else [str(index) for index in range(torch.cuda.device_count())]


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask processes to stop, which write their checkpoints first; kill one that has not within `GRACE`."""
    processes = [process for process in processes if process.poll() is None]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
