"""Every command line of README and docs: run here, or by another test, or named with what it needs that is not here."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT

PROGRAMS = "make|gan|python|dvc|torchrun|srun|sbatch|docker|pip|mkdir"
LINE = re.compile(rf"(?m)^    (?:\w+=\S+ )?((?:{PROGRAMS}) .*)$")

GPU, NETWORK, CLUSTER, DOCKER = "a GPU", "the network", "several machines", "Docker"
ELSEWHERE = [  # what begins so: the test that runs it, or what it needs
    ("make run GPUS", GPU),
    ("make run", "tests/test_makefile.py::test_what_is_asked_is_what_is_run"),
    ("make compare", "tests/test_makefile.py::test_what_is_asked_is_what_is_run"),
    ("make search", "tests/test_makefile.py::test_what_is_asked_is_what_is_run"),
    ("make ui", "tests/tracking/test_mlflow_habits.py::test_the_experiment_has_a_view_of_its_runs_by_rank"),
    ("gan play", "tests/tracking/test_play.py::test_the_page_is_served_on_this_machine_alone"),
    ("make test", ".ci/run"),
    ("make lint", ".ci/run"),
    ("make quick", ".github/workflows/checks.yml"),
    ("make setup", ".ci/run"),
    ("make gpu-check", "tests/test_gpu_check.py"),
    ("dvc exp run", "tests/test_pipeline.py::test_an_experiment_of_dvc_reruns_only_its_own_legs"),
    ("dvc exp show", "tests/test_pipeline.py::test_an_experiment_of_dvc_reruns_only_its_own_legs"),
    ("dvc repro", "tests/test_pipeline.py::test_every_output_is_there"),
    ("mkdir", NETWORK),
    ("pip install", NETWORK),
    ("docker", DOCKER),
    ("torchrun", CLUSTER),
    ("srun", CLUSTER),
    ("sbatch", CLUSTER),
    ("python -m pipeline.check", "tests/test_check.py"),
    ("python -m pipeline.search", "tests/search/test_pipeline.py"),
    ("python -c 'import optuna", "tests/search/test_storage.py::test_ten_make_the_same_study_through_a_grpc_proxy"),
    ("python -m pipeline.metrics REAL", "tests/evaluate/test_pytorch_fid_command.py"),
    ("python -m pipeline.metrics doctor", "tests/evaluate/test_doctor.py"),
    ("python -m pipeline.warm_start", "tests/gan/test_warm_start.py"),
    ("python -m pipeline.params set models.sagan.init_from", "tests/gan/test_warm_start.py"),
    ("python -m benchmarks.dirac", "tests/test_benchmarks_dynamics.py"),
    ("python -m benchmarks.gaussians", "tests/test_benchmarks_dynamics.py"),
    ("python -m benchmarks.few_images", "tests/test_benchmarks_evidence.py"),
    ("python -m benchmarks.stacked_mnist", "tests/test_benchmarks_evidence.py"),
    ("python -m benchmarks.bf16", "tests/test_benchmarks_evidence.py"),
    ("python -m benchmarks.equal_budget", "tests/test_benchmarks_evidence.py"),
    ("python -m benchmarks.mnist_recipes", "tests/test_benchmarks_mnist.py"),
    ("python -m benchmarks.digits_recipes", "tests/test_benchmarks_digits.py"),
]


def commands(page: Path) -> list[str]:
    """The commands of a page, in their order; those that stand in one line apart."""
    lines = LINE.findall(page.read_text(encoding="utf-8"))
    return [part for line in lines for part in re.split(r"\s+#\s.*|\s+&& ", line) if re.match(PROGRAMS, part)]


def elsewhere(command: str) -> str | None:
    return next((place for begin, place in ELSEWHERE if command.startswith(begin)), None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with all that a user may change."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_runs(page: Path, folder: Path) -> None:
    done = 0
    for command in commands(page):
        if elsewhere(command) is None:
            python, _, module, *arguments = shlex.split(command)
            program = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
            assert python == "python", command
            importlib.import_module(program).main(arguments)
            done += 1
    assert done or page.name not in ("README.md", "params.md", "recipes.md", "gpu.md")


def test_every_place_exists_and_is_needed() -> None:
    used = {elsewhere(command) for page in PAGES for command in commands(page)}
    places = {place for _, place in ELSEWHERE}
    assert places <= used
    for place in places - {GPU, NETWORK, CLUSTER, DOCKER}:
        file, _, function = place.partition("::")
        assert f"def {function}" in (ROOT / file).read_text(encoding="utf-8") if function else (ROOT / file).is_file()
