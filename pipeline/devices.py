"""Which device computes, and that it computes the same every time."""

import os

import torch

from pipeline.errors import PipelineError


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU; any other name is taken at its word.

    Raises:
        PipelineError: the named device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True, "meta": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    device = torch.device(name)
    if not available[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise PipelineError(f"runtime.device: {name} is not available on this machine; use auto or cpu")
    return device


def make_deterministic() -> None:
    """Ask the libraries for the same result every time: no autotuned kernels, deterministic ones where they exist."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may differ from run to run
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # an aid that costs time
