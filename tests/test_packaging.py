"""The package: its metadata, the command `gan` beside `python -m`, and what the wheel holds."""

import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import COMMANDS, main
from pipeline.params import PRESETS
from pipeline.tracking.play import GRADIO

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What `python -m` starts for each command of `gan`; the doctor is a subcommand there.
MODULES = {
    "metrics": "pipeline.metrics.__main__",
    "params": "pipeline.params.__main__",
    "check": "pipeline.check",
    "models": "pipeline.models.__main__",
    "jobs": "pipeline.jobs.__main__",
    "search": "pipeline.search.__main__",
    "warm-start": "pipeline.warm_start",
    "tracking": "pipeline.tracking.__main__",
    "report": "pipeline.report.__main__",
    "serve": "pipeline.tracking.serve",
    "play": "pipeline.tracking.play",
    "ui": "pipeline.tracking.ui",
}
INTERNAL = {
    "pipeline.cli",
    "pipeline.core.seconds",
    "pipeline.search.workers.worker",
}  # and the stages, which dvc.yaml starts


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return sorted(line for line in lines if line and not line.startswith(("#", "-r")))


# Metadata.


def test_requirements_are_those_of_the_package() -> None:
    extras = PROJECT["optional-dependencies"]
    assert sorted(PROJECT["dependencies"]) == requirements("requirements.txt")
    assert sorted(extras["cluster"]) == requirements("requirements-cluster.txt")
    assert sorted(extras["dev"]) == sorted(["gan-pipeline[cluster]", *requirements("requirements-dev.txt")])
    assert sorted(extras["docs"]) == requirements("requirements-docs.txt")
    assert extras["play"] == [GRADIO]
    assert "-r requirements-cluster.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()


def test_the_licence_is_mit_and_in_the_repository() -> None:
    assert (PROJECT["license"], PROJECT["license-files"]) == ("MIT", ["LICENSE"])
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n") and re.search(r"Copyright \(c\) \d{4} the gan-pipeline authors\n", text)


# One parser for both forms.


def help_of(command: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` prints, without the command's name and the line breaks that depend on its length."""
    with pytest.raises(SystemExit) as ended:
        command(arguments)  # type: ignore[operator]
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    return re.sub(r"(gan [\w-]+|python -m pipeline\.[\w.]*\w)( doctor)?", "COMMAND", text)


def test_gan_has_every_command_of_the_package() -> None:
    started = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "pipeline").rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    assert {name for name in started if not name.startswith("pipeline.stages.")} == {*MODULES.values()} | INTERNAL
    assert set(COMMANDS) == {*MODULES, "doctor"}


@pytest.mark.parametrize("name", [*MODULES, "doctor"])
def test_the_help_of_gan_names_the_command_as_it_was_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert f"gan {name}" in text and "python -m pipeline" not in text


@pytest.mark.parametrize("name", MODULES)
def test_both_forms_are_one_function_with_the_same_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(MODULES[name])
    assert module.main is importlib.import_module(COMMANDS[name][0]).main
    by_module = help_of(module.main, ["--help"], capsys)
    assert help_of(main, [name, "--help"], capsys) == by_module and "-h, --help" in by_module


def test_the_doctor_is_the_same_by_three_names(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = importlib.import_module("pipeline.metrics.__main__").main
    forms = [(main, ["doctor", "--help"]), (main, ["metrics", "doctor", "--help"]), (metrics, ["doctor", "--help"])]
    texts = {help_of(command, arguments, capsys) for command, arguments in forms}
    assert len(texts) == 1 and "--explain PROTOCOL" in texts.pop()


def test_gan_alone_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    alone = capsys.readouterr().out
    main(["--help"])
    assert alone == capsys.readouterr().out
    assert [line.split()[0] for line in alone.splitlines()[2:-2]] == list(COMMANDS)


@pytest.mark.parametrize(
    ("name", "told"), [("metric", "did you mean 'metrics'?"), ("zzz", "Choices: check, "), ("--version", "Choices: ")]
)
def test_an_unknown_command_is_one_sentence(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name])
    text = capsys.readouterr().err
    assert ended.value.code == 2 and text.startswith(f"error: {name}: no such command; ")
    assert told in text and text.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["params", "show", "sagan"], ["params", "set", "train.steps=5"], ["check"], ["models"],
        ["search", "--model", "sagan", "--trials", "2"], ["ui"],
        ["doctor", "--explain", "sngan", "--experiment", "sngan-0"],
    ],
)  # fmt: skip
def test_outside_a_checkout_what_needs_params_says_so(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    text = capsys.readouterr().err
    assert ended.value.code == 2 and text.startswith("error: params.yaml ") and text.count("\n") == 1
    assert "the repository's root" in text and not list(tmp_path.iterdir())


def test_without_the_packages_it_says_what_to_install(tmp_path: Path) -> None:
    """As for one who forgot to activate the environment; -S hides what is installed."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipeline.check"], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert re.match(r"error: \w+ is not installed: run `make setup`, then", done.stderr)


# The wheel.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("gan_pipeline-*-py3-none-any.whl")
    return path


def visible(folder: Path, pattern: str) -> set[str]:
    """Files below `folder`, relative to the repository."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern) if path.is_file()}


@pytest.mark.slow
def test_the_wheel_holds_code_templates_and_presets_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if ".dist-info/" not in name}
        information = {name.partition(".dist-info/")[2]: name for name in packed.namelist() if ".dist-info/" in name}
        metadata = packed.read(information["METADATA"]).decode()
        assert packed.read(information["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
        assert packed.read(information["entry_points.txt"]).decode().split() == [
            "[console_scripts]", "gan", "=", "pipeline.cli:main",
        ]  # fmt: skip
    templates = visible(Path("pipeline"), "templates/*")
    assert len(templates) > 5 and all(name.endswith((".html", ".css", ".js")) for name in templates)
    presets = {f"pipeline/presets/{path.name}" for path in PRESETS.glob("*.yaml")}
    assert len(presets) == 5
    assert held == visible(Path("pipeline"), "*.py") | templates | presets
    assert "License-Expression: MIT" in metadata and "Which GAN for your images?" in metadata


@pytest.mark.slow
def test_installed_it_works_far_from_any_checkout(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which borrows the installed dependencies."""
    place, images = tmp_path / "environment", tmp_path / "images"
    venv.create(place, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(place), "platbase": str(place)}))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    install = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, wheel], check=True)
    pixels = np.random.default_rng(0).integers(256, size=(2, 12, 20, 20, 3), dtype=np.uint8)
    for name, stack in zip("ab", pixels, strict=True):
        (images / name).mkdir(parents=True)
        for index, image in enumerate(stack):
            Image.fromarray(image).save(images / name / f"{index}.png")

    def gan(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        command = [place / "bin" / "gan", *arguments]
        return subprocess.run(command, cwd=images, env=environment, capture_output=True, text=True, timeout=300)

    measured = gan("metrics", "a", "b", "--extractor", "efficientnet_lite0", "--bootstrap", "0", "--no-cache")
    assert measured.returncode == 0, measured.stderr
    result = json.loads(measured.stdout)
    assert result["a"]["images"] == result["b"]["images"] == 12
    assert result["metrics"]["fd_efficientnet_lite0"] > 0
    written = gan("params", "use", "fashion_mnist")
    assert written.returncode == 0, written.stderr
    shown = gan("params", "show", "sagan")
    assert "* network: sagan" in shown.stdout and (images / "params.yaml").is_file()
    wrong = gan("metrics", "a", "nowhere", "--extractor", "efficientnet_lite0")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: nowhere") and "Traceback" not in wrong.stderr
