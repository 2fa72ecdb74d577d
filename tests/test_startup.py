"""What a command imports before it needs it: each of these libraries costs every start of a stage its time."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "mlflow", "optuna", "sklearn", "scipy.stats", "pandas", "dvc"}
ALLOWED = {
    "pipeline.cli": set[str](),
    "pipeline.params.__main__": set[str](),
    "pipeline.tracking.tracker": set[str](),
    "pipeline.stages.report": {"pandas"},
    "pipeline.stages.check": {"torch"},
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
