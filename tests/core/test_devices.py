"""Which device is chosen, and what is switched off so that it repeats itself."""

import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from pipeline.core.devices import choose_device, make_deterministic
from pipeline.core.errors import PipelineError


def machine(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(0, False, "cpu"), (2, False, "cuda"), (1, True, "cuda"), (0, True, "mps")]
)
def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str) -> None:
    machine(monkeypatch, cuda, mps)
    assert choose_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", "mps", "meta"])
def test_a_named_device_that_is_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch, 2, True)
    assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(("name", "cuda"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:7", 2), ("mps", 2)])
def test_a_named_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str, cuda: int) -> None:
    machine(monkeypatch, cuda, False)
    with pytest.raises(PipelineError, match=rf"^runtime.device: {name} is not available .*; use auto or cpu$"):
        choose_device(name)


@pytest.fixture
def restored() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    kept = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    warn_only, fill = (
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    yield
    cudnn.benchmark, cudnn.deterministic = kept[:2]
    torch.use_deterministic_algorithms(kept[2], warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.usefixtures("restored")
def test_determinism_is_asked_for() -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    make_deterministic()
    assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.deterministic
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_for_the_next_tensor() -> None:
    """40 MiB are 10,240 pages of 4 KiB, each a fault when it is first written."""
    code = """if True:
        import resource, sys, torch
        from pipeline.core.devices import keep_freed_memory
        if sys.argv[1] == "keep":
            keep_freed_memory()
        torch.set_num_threads(1)
        def step():
            torch.ones(10 * 2**20)
        for _ in range(20):
            step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    ways = ("keep", "free")
    kept, freed = (int(subprocess.check_output([sys.executable, "-c", code, way])) for way in ways)
    assert kept < freed / 10  # with huge pages 20 faults, not 10,240
