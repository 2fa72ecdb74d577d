"""What README and docs name exists, their examples run, and they are as short as they are meant to be."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.cli import COMMANDS
from pipeline.gan.augment import AUGMENTATIONS, Augmentation
from pipeline.gan.losses import LOSSES, AdversarialLoss
from pipeline.gan.penalties import PENALTIES, Penalty, Update
from pipeline.gan.step import create_state, train
from pipeline.metrics import METRICS, Comparison, Estimate, FeatureSet, measure
from pipeline.params import Params, load
from tests.pages import PAGES, ROOT
from tests.recipes import CLASSES, SHAPE, image_set, tiny_budget, tiny_recipe

TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
SECTIONS = "data|metrics|train|recipe|compare|generate|search|runtime"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_readme_and_the_glossary_are_short() -> None:
    assert len(TEXTS[ROOT / "README.md"].splitlines()) <= 250
    rows = [line for line in TEXTS[ROOT / "docs" / "glossary.md"].splitlines() if line.startswith("| ")]
    words = [row.split("|")[1].strip() for row in rows[1:]]
    assert len(words) == len(set(words)) <= 15
    assert {"FID", "floor", "protocol", "recipe", "fingerprint"} <= set(words) and all(
        "," not in word for word in words
    )


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for text, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", TEXTS[path]):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file) if file else path
        assert page.exists(), f"[{text}]({target})"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}, target


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_and_tests_that_are_named_exist(path: Path) -> None:
    created = set(re.findall(r'python title="([^"]+)"', TEXTS[path]))  # by who follows a walkthrough
    named = re.findall(r"(?<![\w/])((?:pipeline|tests|benchmarks|presets|docs)/[\w/.-]*\w/?)(?:::(\w+))?", TEXTS[path])
    for file, function in named:
        assert file in created or (ROOT / file).exists(), file
        assert not function or f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), function


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_that_are_named_exist(path: Path) -> None:
    text = TEXTS[path]
    for module in re.findall(r"python -m ((?:pipeline|benchmarks|tests)[\w.]*\w)", text):
        assert importlib.util.find_spec(module), module
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    # in code only: "make sure" is English
    assert set(re.findall(r"(?m)(?:`|^    |&& )make ([a-z-]+)", text)) <= targets
    assert set(re.findall(r"(?m)(?:`|^    )gan ([a-z][a-z-]*)", text)) <= set(COMMANDS)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_parameters_that_are_named_exist(path: Path) -> None:
    for section, field in re.findall(rf"(?<![\w./-])({SECTIONS})\.([a-z][a-z_]*)(?![\w./(*])", TEXTS[path]):
        if field not in ("md", "json", "py", "yaml", "csv", "html", "sbatch"):
            assert field in Params.model_fields[section].annotation.model_fields, f"{section}.{field}"  # type: ignore[union-attr]


def test_values_that_are_set_are_valid() -> None:
    """`params set name=value` and `exp run -S name=value` in the docs are names of params.yaml."""
    params, count = load(ROOT / "presets" / "digits.yaml"), 0
    for text in TEXTS.values():
        lines = [line for line in text.splitlines() if "params set " in line or " -S " in line]
        for name, value in re.findall(r"(?<![\w.-])'?\+*((?:\w+\.)+\w+)=([\w.]+)", "\n".join(lines)):
            if re.fullmatch(r"[\d.]+(e-?\d+)?", value):
                params.override({name: float(value) if "." in value or "e" in value else int(value)})
                count += 1
    assert count >= 5


# Examples.


def example_blocks(name: str) -> str:
    """The Python of a page: its fenced blocks, one after another."""
    return "\n".join(re.findall(r"(?s)```python\n(.*?)```", TEXTS[ROOT / "docs" / name]))


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries of docs/extend.md, in the registries until the test is over."""
    registries: dict[str, dict[str, Any]] = {
        "LOSSES": LOSSES, "PENALTIES": PENALTIES, "AUGMENTATIONS": AUGMENTATIONS, "METRICS": METRICS,  # type: ignore
    }  # fmt: skip
    known = {name: dict(registry) for name, registry in registries.items()}
    names = {
        "torch": torch, "Tensor": Tensor, "AdversarialLoss": AdversarialLoss, "Penalty": Penalty, "Update": Update,
        "Augmentation": Augmentation, "Comparison": Comparison, "Estimate": Estimate,
    }  # fmt: skip
    exec(compile(example_blocks("extend.md"), "docs/extend.md", "exec"), names | known)
    for name, registry in registries.items():
        for key, entry in known[name].items():
            if key not in registry:
                monkeypatch.setitem(registry, key, entry)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_examples_of_the_step_train(examples: None, device: str) -> None:
    recipe = tiny_recipe(
        loss="relativistic", penalty="smooth", penalty_every=2, augment=["mirror"], network="dcgan_conditional"
    )
    budget = tiny_budget(steps=4, report_every=4)
    state = create_state(recipe, budget, SHAPE, CLASSES, 0, torch.device(device))
    steps = train(state, image_set(device=device), LOSSES["relativistic"], recipe, budget)
    names = {"loss/d", "loss/g", "penalty/smooth", "penalty/smooth/mean", "augment/mirror/strength"}
    if device == "meta":  # where only the last step reports, which reads values
        for _ in range(3):
            next(steps)
        assert set(state.names) == names
        return
    *_, last = steps
    assert last.losses is not None and set(last.losses) == names
    assert last.losses["penalty/smooth"] > 0 and last.losses["penalty/smooth/mean"] > 0
    strength = state.own["augment/mirror/strength"].item()
    assert 0 <= strength <= 0.04 and strength == pytest.approx(round(strength, 2), abs=1e-6)  # four steps of 0.01


def test_the_example_of_a_metric_is_measured(examples: None) -> None:
    real = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    comparison = Comparison(FeatureSet(real), FeatureSet(real + 2), None, "fd", None, 0, False)
    assert measure(comparison, ["mean_distance"]).values["mean_distance"] == pytest.approx(16, rel=1e-5)


def test_the_readmes_python_imports_what_exists() -> None:
    lines = re.findall(r"(?m)^    (from pipeline\S* import .*)$", TEXTS[ROOT / "README.md"])
    assert len(lines) >= 2
    for line in lines:
        exec(line, {})
