"""The check of a CUDA machine, as far as a CPU takes it."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Failed, Machine, NotChecked
from pipeline.params import load

ROOT = Path(__file__).resolve().parent.parent
MISSING = ["mlflow", "torchvision", "scipy", "pandas", "sklearn", "dvc", "optuna", "pytorch_fid", "PIL", "sqlalchemy"]
BLOCKED = f"""if True:
    import sys
    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {MISSING}:
                raise ModuleNotFoundError(name, name=name)
    sys.meta_path.insert(0, Blocked())
    from benchmarks import gpu_check
    try:
        gpu_check.features(None)
    except gpu_check.NotChecked as reason:
        print(reason)
"""


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine(torch.device("cpu"), load(gpu_check.PRESET))


def test_checks_on_a_cpu(machine: Machine) -> None:
    found = dict(gpu_check.checks(machine))
    assert {f"step: {name}" for name in machine.params.models} <= set(found)
    with pytest.raises(NotChecked, match="no CUDA here"):
        found["machine"]()
    assert found["step: wgan_gp"]().startswith("finite; one step on the meta device")
    assert "all 88 tensors have the same bits" in found["exact resume: dcgan"]()
    assert found["host-resident images: dcgan"]().startswith("the same bits as resident images; ")


@pytest.mark.parametrize(
    ("rows", "fails"),
    [("a | 1e-14 | 1e-3 | 0 | 0 | yes | 5 | 9", False), ("a | 1e-9 | 1e-3 | 0 | 0 | yes | 5 | 9", True),
     ("a | 1e-14 | 1e-3 | 0 | 0 | NO | 5 | 9", True)],
)  # fmt: skip
def test_two_ranks(rows: str, fails: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, f"recipe | ...\n---\n{rows}\n", "")
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(Failed, match="not the same training") if fails else contextlib.nullcontext():
        assert "to 1e-14, the same bits again; a 5 ms a step alone, 9 by two" in gpu_check.two_ranks(machine)


def test_a_resume_that_is_not_exact_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    load_checkpoint = gpu_check.load_checkpoint

    def changed(folder: Path, state: gpu_check.TrainState) -> None:
        load_checkpoint(folder, state)
        with torch.no_grad():
            next(state.gan.generator.parameters()).add_(1e-3)

    monkeypatch.setattr(gpu_check, "load_checkpoint", changed)
    with pytest.raises(Failed, match="tensors differ after a resume"):
        gpu_check.exact_resume(machine, "dcgan", "fp32")


def test_the_table_and_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> str:
        raise Failed("a | b")

    def breaks() -> str:
        raise RuntimeError("called a synchronizing CUDA operation\nsecond line")

    def skips() -> str:
        raise NotChecked("no GPU")

    def run(*checks: tuple[str, Callable[[], str]]) -> tuple[object, list[str]]:
        def given(_: Machine) -> Iterator[tuple[str, Callable[[], str]]]:
            yield from checks

        monkeypatch.setattr(gpu_check, "checks", given)
        with pytest.raises(SystemExit) as stop:
            gpu_check.main(["--device=cpu"])
        return stop.value.code, capsys.readouterr().out.splitlines()

    assert run(("fine", lambda: "7 images/s"), ("skips", skips))[0] == 0
    code, lines = run(("fine", lambda: "7 images/s"), ("x", fails), ("y", breaks), ("z", skips))
    assert code == 1 and lines[:2] == ["| check | result | what was seen |", "|---|---|---|"]
    assert lines[2:6] == [
        "| fine | passed | 7 images/s |", "| x | FAILED | a / b |",
        "| y | FAILED | called a synchronizing CUDA operation |", "| z | not checked | no GPU |",
    ]  # fmt: skip
    assert lines[-1].startswith("2 failed, ")
    monkeypatch.setattr(gpu_check, "SECONDS", -1)
    assert "| fine | not checked | the time was over |" in run(("fine", lambda: ""))[1]


def test_it_needs_torch_and_little_else() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("is not installed")
