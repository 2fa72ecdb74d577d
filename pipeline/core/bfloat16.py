"""What `train.precision` means on a device: float32, or autocast to bfloat16."""

import contextlib
from collections.abc import Mapping

import torch

SM = (8, 0)  # CUDA's compute capability from which on a GPU multiplies bfloat16 by itself: Ampere
INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # with which a CPU does; others go through float32 and gain nothing


def native(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 by instructions of its own; `cuda` without a number: whether all GPUs do.

    Of MPS and `meta` it is not known: they count as devices that do not.
    """
    if device.type == "cuda":
        places = range(torch.cuda.device_count()) if device.index is None else [device.index]
        return all(torch.cuda.get_device_capability(place) >= SM for place in places)
    if device.type != "cpu":
        return False
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch that is allowed
    return any(known.get(name) is True for name in INSTRUCTIONS)


def settled(precision: str, device: torch.device) -> str:
    """What a precision is on a device: `auto` is bf16 where that is native, else fp32; the others are themselves."""
    if precision != "auto":
        return precision
    return "bf16" if native(device) else "fp32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """In its body networks compute in `precision`: fp32, bf16 or auto."""
    half = settled(precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()


def whole_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """In its body nothing is computed in bfloat16, whatever `autocast` it stands in."""
    able = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if able else contextlib.nullcontext()
