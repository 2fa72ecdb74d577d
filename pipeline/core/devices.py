"""The device that computes, and settings that make it compute the same every time."""

import contextlib
import ctypes
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.core.errors import PipelineError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
FULL = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")  # MPS, CPU, and CUDA's libraries


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU; any other device must be available.

    Raises:
        PipelineError: the named device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True, "meta": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    device = torch.device(name)
    if not available[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        problem = f"{name} is not available on this machine; use auto or cpu"
        raise PipelineError(f"runtime.device: {problem}", field="runtime.device", problem=problem)
    return device


def make_deterministic() -> None:
    """Ask the libraries for the same result every time: no autotuned kernels, deterministic ones if they exist."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may differ from run to run
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import torch's compiler: 1.3 s
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs time


def keep_freed_memory() -> None:
    """Keep what a training's tensors free on the CPU for its next step: glibc would give it back and fetch it anew.

    A step takes 2 to 12% less time, the process up to 20% more memory. It does nothing where the C library is another
    one. It is not for a process that holds few large arrays of many sizes, since the heap then only grows.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no mallopt, no C library to ask
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, -1)


def free_memory(device: torch.device) -> float:
    """Bytes that can still be taken on a device; of the CPU, and of what shares its memory, those of this machine.

    It is infinite where the system does not say, and on `meta`.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type == "meta":
        return math.inf
    limits = [math.inf]
    with contextlib.suppress(OSError, LookupError, ValueError):
        found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(1024 * float(found["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, LookupError, ValueError):  # of a container; "max" = none
        group = Path("/sys/fs/cgroup")
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        limits.append(float((group / "memory.max").read_text()) - float(used["anon"]))
    return min(limits)


class OutOfMemory(PipelineError):
    """An allocation failed."""


@contextlib.contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """Turn a failed allocation, on an accelerator or in the host's memory, into one sentence with its remedy.

    Raises:
        OutOfMemory: an allocation failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(sign in text for sign in FULL):
            raise
        size = re.search(r"allocate [\d.]+ \w+", text)
        raise OutOfMemory(f"out of memory{f' (tried to {size[0]})' if size else ''}: {remedy}") from error


def environment(device: torch.device, ranks: int = 1) -> dict[str, str | int]:
    """What decides the rounding of a result beside parameters and code."""
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "ranks": ranks,
    }
