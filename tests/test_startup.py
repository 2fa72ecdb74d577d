"""What a command imports before it needs it: each of these libraries costs every start of a stage its time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "torchvision", "mlflow", "optuna", "sklearn", "scipy.stats", "pandas", "dvc"}
ALLOWED = {
    "pipeline.cli": set[str](),
    "pipeline.params.__main__": set[str](),
    "pipeline.tracking.tracker": set[str](),
    "pipeline.stages.report": {"pandas"},
    "pipeline.check": set[str](),
    "pipeline.stages.check": set[str](),
    "pipeline.stages.prepare": {"torch"},
    "pipeline.stages.reference": {"torch"},
    "pipeline.stages.train": {"torch"},
    "pipeline.stages.generate": {"torch"},
    "pipeline.stages.fid": {"torch"},
}


@pytest.mark.slow
@pytest.mark.parametrize("module", ALLOWED)
def test_a_command_imports_no_library_that_it_may_not_need(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert set(done.stdout.split()) <= ALLOWED[module]


@pytest.mark.slow
def test_params_that_were_found_sound_are_checked_without_torch_and_dvc(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (tmp_path / ".dvc").mkdir()
    subprocess.run(["git", "init", "-q"], check=True, cwd=tmp_path)
    code = f"import sys; from pipeline import check; check.main([]); print(*sorted({HEAVY!r} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
                       env=environment).stdout.splitlines()
        for _ in range(2)
    )  # fmt: skip
    assert first[0] == second[0] == "params.yaml is sound"
    assert "torch" in first[1].split() and second[1] == ""


def test_the_probe_sees_what_is_imported() -> None:
    code = f"import sys, pandas; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["pandas"]


@pytest.mark.slow
def test_asking_for_determinism_does_not_import_the_compiler() -> None:
    code = "import sys; from pipeline.core.devices import make_deterministic as ask; ask(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "torch" in done.stdout.split()
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & set(done.stdout.split())
