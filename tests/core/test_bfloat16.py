"""What `train.precision` means on a device, and where `auto` is bf16."""

import pytest
import torch

from pipeline.core import bfloat16
from pipeline.core.bfloat16 import autocast, native, settled

CPU = torch.device("cpu")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True)])
def test_cuda_has_it_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native(torch.device("cuda:0")) is expected


def test_cuda_without_a_number_is_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = [(9, 0), (7, 5)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
    assert [native(torch.device(name)) for name in ("cuda:0", "cuda:1", "cuda")] == [True, False, False]
    capabilities[1] = (8, 0)
    assert native(torch.device("cuda"))


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ],
)
def test_a_cpu_has_it_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert native(CPU) is expected


def test_a_torch_that_does_not_tell_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not native(CPU)


@pytest.mark.parametrize("device", ["meta", "mps"])
def test_other_devices_have_none(device: str) -> None:
    assert not native(torch.device(device))


@pytest.mark.parametrize("has", [True, False])
def test_networks_compute_in_it(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(bfloat16, "native", lambda device: has)
    made = {"fp32": torch.float32, "bf16": torch.bfloat16, "auto": torch.bfloat16 if has else torch.float32}
    for precision, dtype in made.items():
        with autocast(precision, CPU):
            assert torch.nn.Linear(2, 2)(torch.ones(2, 2)).dtype == dtype, precision
    told = [settled(precision, CPU) for precision in made]
    assert told == ["fp32", "bf16", "bf16" if has else "fp32"]
