"""`python -m pipeline.params use | set | show`: what it says, writes and refuses."""

import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.params import __main__ as command
from pipeline.params import file as params_file
from pipeline.params import load, save
from tests.params.trees import PRESETS, ROOT, TEXT, TREE


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command's exit status, output and error output."""
    code = 0
    try:
        command.main(list(arguments))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else -1
    out, error = capsys.readouterr()
    return code, out, error


def test_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "set", "train.steps=77", "models.dcgan.lr_g=1e-3", "data.limit=null", "data.root=a=b") == (
        0,
        "wrote train.steps=77, models.dcgan.lr_g=1e-3, data.limit=null, data.root=a=b to params.yaml\n",
        "",
    )
    new = load()
    assert (new.train.steps, new.models["dcgan"].lr_g, new.data.limit, new.data.root) == (77, 1e-3, None, "a=b")


def test_set_back_to_the_shared_value_removes_the_difference(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "set", "models.sagan.n_critic=2")[0] == 0
    assert "  sagan: {network: sagan, spectral_norm_g: true, init: xavier, lr_d: 2e-4, n_critic: 2}\n" in (
        Path("params.yaml").read_text()
    )
    assert run(capsys, "set", "models.sagan.n_critic=1")[0] == 0
    assert Path("params.yaml").read_text() == TEXT


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["train.steps"], "train.steps: write it as name=value, for example train.steps=500\n"),
        (["train.steps="], "params.yaml: train.steps: must be a whole number, got None\n"),
        (["train.steps=many"], "params.yaml: train.steps: must be a whole number, got 'many'\n"),
        (["models.sngan.lr_g=0"], "params.yaml: models.sngan.lr_g: must be > 0.0, got 0\n"),
        (["recipe.lr_g=0"], "params.yaml: recipe.lr_g: must be > 0.0, got 0\n"),
        (["=5"], ": no such parameter; Choices: compare, data, generate, metrics, models, recipe, runtime, search, "),
        (["train.steps=["], "train.steps: line 1, column 2: expected the node content, but found '<stream end>'\n"),
        (["train.steps=5", "x.y=1"], "x: no such parameter; Choices: compare, "),
        (["train=5"], "params.yaml: train: must be a section of `key: value` lines, got 5\n"),
        (["data.root=!!bool x"], "data.root: not valid YAML ("),
        ([f"train.steps=0x{'f' * 5000}"], "params.yaml: train.steps: "),
    ],
)
def test_bad_assignments(here: Path, capsys: pytest.CaptureFixture[str], assignments: list[str], sentence: str) -> None:
    code, out, error = run(capsys, "set", *assignments)
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {sentence}") and error.count("\n") == 1
    assert Path("params.yaml").read_text(encoding="utf-8") == TEXT


def test_set_refuses_what_check_would(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "set", "models.sagan.loss=hinqe", "train.steps=77")
    assert (code, out) == (2, "")
    fault, last = error.splitlines()
    assert fault.startswith("error: models.sagan.loss: unknown name 'hinqe'; did you mean 'hinge'? Choices: ")
    assert last.endswith("params.yaml stays as it was") and Path("params.yaml").read_text() == TEXT
    # what was unsound before is no reason to refuse another value
    Path("params.yaml").write_text(TEXT.replace("sagan: {network: sagan,", "sagan: {network: sagn,"))
    assert run(capsys, "set", "train.steps=77")[0] == 0
    assert load().train.steps == 77


def test_bad_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["set"], ["use"], ["show"], ["nonsense"]):
        code, out, error = run(capsys, *arguments)
        assert (code, out) == (2, "") and "usage: python -m pipeline.params" in error
    Path("params.yaml").unlink()
    for arguments in (["set", "train.steps=4"], ["show", "sagan"]):
        assert run(capsys, *arguments) == (
            2,
            "",
            "error: params.yaml cannot be read (No such file or directory): run from the repository's root\n",
        )


# show


def test_show_prints_every_field_and_marks_what_the_model_changes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save({"models.sagan.lr_g": {"start": 2e-4, "end": 1e-4, "shape": "linear", "until": 0.5}})
    code, out, error = run(capsys, "show", "sagan")
    assert (code, error) == (0, "")
    title, *lines = out.splitlines()
    assert title == "sagan (* = differs from recipe: in params.yaml)"
    assert [line[2:].split(":")[0] for line in lines] == list(TREE["recipe"])
    assert {line[0] for line in lines} == {" ", "*"}
    marked = {re.sub(r" +# ", " # ", line) for line in lines if line.startswith("*")}
    assert marked == {
        "* network: sagan # shared: cnn",
        "* spectral_norm_g: true # shared: false",
        "* init: xavier # shared: normal",
        "* lr_d: 0.0002 # shared: 0.0004",
        "* lr_g: {start: 0.0002, end: 0.0001, shape: linear, until: 0.5} # shared: 0.0004",
    }
    assert "  augment: []" in lines and "  clip: null" in lines and "  batch_size: 32" in lines


def test_show_prints_yaml_that_means_the_recipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "show", "wgan")[1].splitlines()[1:]
    before = load().models["wgan"]
    whole = "\n".join(f"    {line[2:]}" for line in lines)
    start, end = TEXT.index("  wgan: {"), TEXT.index("  # WGAN-GP (Gulrajani")
    Path("params.yaml").write_text(f"{TEXT[:start]}  wgan:\n{whole}\n{TEXT[end:]}")
    assert load().models["wgan"] == before


def test_show_of_a_model_without_differences(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "sngan")
    assert code == 0 and all(line.startswith("  ") for line in out.splitlines()[1:])


def test_show_of_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "show", "sagn")
    assert (code, out) == (2, "")
    known = ", ".join(sorted(TREE["models"]))
    assert error == f"error: sagn: no such recipe under models:; did you mean 'sagan'? Choices: {known}\n"


# use


@pytest.fixture
def preset() -> Path:
    return ROOT / "presets" / "cifar10.yaml"


def test_use_shows_and_writes_the_difference(here: Path, preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "use", preset.stem)
    assert (code, error) == (0, "")
    new = preset.read_text(encoding="utf-8")
    assert out.startswith("--- params.yaml\n+++ ")
    shown = [line for line in out.splitlines() if line.startswith(("+", "-")) and not line.startswith(("---", "+++"))]
    removed, added = (Counter(line[1:] for line in shown if line[0] == sign) for sign in "-+")
    assert Counter(TEXT.splitlines()) - removed + added == Counter(new.splitlines())
    assert removed <= Counter(TEXT.splitlines())
    assert sum(removed.values()) < len(TEXT.splitlines()) * 2 / 3  # a difference, not the whole file twice
    assert out.endswith(f"wrote params.yaml from {preset.name}; the former one is params.previous.yaml\n")
    assert Path("params.yaml").read_bytes() == preset.read_bytes()
    assert Path("params.previous.yaml").read_bytes() == TEXT.encode()
    assert run(capsys, "use", preset.stem) == (0, f"params.yaml is the preset {preset.stem} already\n", "")
    assert Path("params.previous.yaml").read_bytes() == TEXT.encode()


def test_use_without_a_params_file(here: Path, preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").unlink()
    code, out, _ = run(capsys, "use", preset.stem)
    assert code == 0 and out.endswith(f"wrote params.yaml from {preset.name}\n")
    assert Path("params.yaml").read_bytes() == preset.read_bytes()
    assert not Path("params.previous.yaml").exists()


def test_use_of_a_preset_with_a_base_writes_a_whole_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "use", "fashion_mnist")
    assert (code, error) == (0, "")
    base, written = (ROOT / "presets" / "mnist.yaml").read_text(), Path("params.yaml").read_text()
    assert "base:" not in written
    body, own = (text[text.index("\ndata:") :].splitlines() for text in (base, written))
    assert [(old, new) for old, new in zip(body, own, strict=True) if old != new] == [
        (next(line for line in body if "dataset: " in line), next(line for line in own if "dataset: " in line))
    ]
    assert written.startswith("# FashionMNIST") and load().data.dataset == "fashion_mnist"
    assert load() == load(ROOT / "presets" / "mnist.yaml").override({"data.dataset": "fashion_mnist"})
    assert run(capsys, "use", "fashion_mnist")[1] == "params.yaml is the preset fashion_mnist already\n"


@pytest.mark.parametrize("content", [b"data: [\n", b"caf\xe9\n", b"\x00"])
def test_use_mends_a_broken_file_and_keeps_it(
    here: Path, preset: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_bytes(content)
    code, _, error = run(capsys, "use", preset.stem)
    assert (code, error) == (0, "")
    assert Path("params.yaml").read_bytes() == preset.read_bytes()
    assert Path("params.previous.yaml").read_bytes() == content


@pytest.mark.parametrize("name", ["nope", "../params", "", "Digits"])
def test_use_of_no_preset(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "use", name)
    assert (code, out) == (2, "")
    assert error.startswith(f"error: no preset is called {name!r}; ")
    assert error.endswith(f"Choices: {', '.join(path.stem for path in PRESETS)}\n")
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (re.sub(r"  steps: \d+", "  steps: 0", TEXT, count=1), "{path}: train.steps: must be >= 1, got 0"),
        ("base: nope\ndata: {seed: 1}\n", "no preset is called 'nope'; Choices: bad, whole"),
        ("base: whole\ndata: {sead: 1}\n", "data.sead: no such parameter; did you mean 'seed'? Choices: "),
        ("base: whole\ntrain: {steps: 0}\n", "{path}: train.steps: must be >= 1, got 0"),
    ],
)
def test_use_of_a_broken_preset(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str, sentence: str
) -> None:
    (here / "presets").mkdir()
    (here / "presets" / "whole.yaml").write_text(TEXT)
    path = here / "presets" / "bad.yaml"
    path.write_text(content)
    monkeypatch.setattr(params_file, "PRESETS", here / "presets")
    code, out, error = run(capsys, "use", "bad")
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {sentence.format(path=path)}") and error.count("\n") == 1
    assert Path("params.yaml").read_text(encoding="utf-8") == TEXT
