"""An experiment's fingerprint: what makes a trained model another one, and what does not."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch

from pipeline import experiment as experiments
from pipeline.core import bfloat16, versions
from pipeline.core.errors import PipelineError
from pipeline.experiment import SHAPING, Experiment, code_version, fingerprint
from pipeline.gan.augment import AUGMENTATIONS
from pipeline.gan.losses import LOSSES
from pipeline.gan.optimisers import OPTIMISERS
from pipeline.gan.penalties import PENALTIES
from pipeline.metrics import sources_of
from pipeline.models import NETWORKS, Network
from pipeline.params import Params, Recipe, load
from pipeline.params.schema import Neutral
from tests.recipes import RECIPE, ROOT, tiny_budget, tiny_params, tiny_recipe

EXTRACTOR = "efficientnet_lite0"
DESCRIPTION = {"name": "toy", "image_shape": [1, 16, 16], "classes": ["a", "b"], "class_counts": [5, 5], "sha256": "e"}


def version_of(**changes: Any) -> str:
    return code_version(tiny_recipe(**changes), EXTRACTOR)


# Values.


def test_each_part_counts() -> None:
    parts = {"budget": tiny_budget().effective(), "data": "abc", "seed": 0}
    first = fingerprint(tiny_recipe(), EXTRACTOR, **parts)
    assert len(first) == 16 and set(first) <= set("0123456789abcdef")
    assert fingerprint(tiny_recipe(), EXTRACTOR, **dict(reversed(parts.items()))) == first  # in whatever order
    others = [
        {**parts, "seed": 1},
        {**parts, "data": "abd"},
        {**parts, "budget": tiny_budget(steps=7).effective()},
        {**parts, "origin": "x"},
    ]
    found = [fingerprint(tiny_recipe(), EXTRACTOR, **other) for other in others]
    found += [fingerprint(tiny_recipe(), "inception", **parts)]
    found += [fingerprint(tiny_recipe(lr_g=1.0001e-3), EXTRACTOR, **parts)]
    found += [fingerprint(tiny_recipe(flip=False), EXTRACTOR, **parts)]
    assert len({first, *found}) == 8


def test_an_experiment_knows_its_seed_its_data_and_its_budget() -> None:
    def of(changes: dict[str, Any] | None = None, seed: int = 0, **described: Any) -> str:
        return Experiment(tiny_params(changes, dcgan={}, other={}), "dcgan", seed, DESCRIPTION | described).fingerprint

    first = of()
    assert of({"runtime.checkpoint_every": 3, "generate.samples": 50, "models.other.lr_g": 0.5}) == first
    assert of({"train.rollbacks": 0, "compare.seeds": [0, 1]}) == first
    changed = [of(seed=1), of(sha256="f"), of({"train.steps": 5}), of({"train.rollbacks": 1}), of({"recipe.lr_g": 0.5})]
    changed += [of({"models.dcgan.lr_g": 0.25}), of({"metrics.extractor": "inception"}), of({"metrics.weights": "x"})]
    assert len({first, *changed}) == 9


def test_a_class_that_is_not_there_is_said_before_training() -> None:
    described = DESCRIPTION | {"train": 9, "classes": ["square", "disc", "none"], "class_counts": [5, 4, 0]}
    for label in ("data", "balanced", 0, 1):
        Experiment(tiny_params({"generate.labels": label}, dcgan={}), "dcgan", 0, described)
    for label, said in [(2, "class 2 has 0 training images"), (3, "must be data, balanced or a class below 3, got 3")]:
        with pytest.raises(PipelineError, match=f"^generate.labels: {said}"):
            Experiment(tiny_params({"generate.labels": label}, dcgan={}), "dcgan", 0, described)


def test_a_shared_value_counts_for_those_who_share_it() -> None:
    def of(model: str, changes: dict[str, Any] | None = None) -> str:
        values = tiny_params(changes, shares={}, overrides={"n_critic": 2})
        return Experiment(values, model, 0, DESCRIPTION).fingerprint

    change = {"recipe.n_critic": 3}
    assert of("shares", change) != of("shares")
    assert of("overrides", change) == of("overrides")


@pytest.mark.parametrize(("native", "stands_for"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_the_precision_that_it_stands_for(
    monkeypatch: pytest.MonkeyPatch, native: bool, stands_for: str
) -> None:
    monkeypatch.setattr(bfloat16, "native", lambda device: native)

    def asked(precision: str) -> Params:
        return tiny_params({"train.precision": precision, "runtime.device": "cpu"}, dcgan={})

    def of(precision: str) -> Experiment:
        return Experiment(asked(precision), "dcgan", 0, DESCRIPTION)

    found = {precision: of(precision) for precision in ("fp32", "bf16", "auto")}
    assert found["auto"].params.train.precision == stands_for
    assert found["auto"].params.override({"train.precision": "auto"}) == asked("auto")  # nothing else has changed
    assert found["auto"].fingerprint == found[stands_for].fingerprint
    assert found["fp32"].fingerprint != found["bf16"].fingerprint


def test_another_torch_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprint(tiny_recipe(), EXTRACTOR, seed=0)
    monkeypatch.setattr(torch, "__version__", "0.0.0")
    assert fingerprint(tiny_recipe(), EXTRACTOR, seed=0) != first


# A field that is added later.


class Later(Recipe):
    """A recipe of a later version: two fields more, both off at their neutral values."""

    mirrored: Annotated[bool, Neutral(False)]
    strength: Annotated[float | None, Neutral(None)]


@pytest.mark.parametrize("model", load(ROOT / "params.yaml").models)
def test_a_new_field_that_is_off_leaves_every_fingerprint(model: str) -> None:
    recipe = load(ROOT / "params.yaml").models[model]
    old = fingerprint(recipe, EXTRACTOR, seed=0)

    def later(**values: Any) -> str:
        new = Later.model_validate(recipe.model_dump() | {"mirrored": False, "strength": None} | values)
        return fingerprint(new, EXTRACTOR, seed=0)

    assert later() == old
    assert len({old, later(mirrored=True), later(strength=0.0), later(strength=0.5)}) == 4


def test_a_neutral_value_is_left_out_and_any_other_stands() -> None:
    effective = tiny_recipe().effective()
    assert set(RECIPE) - set(effective) == {
        "label_smoothing", "penalty", "penalty_every", "clip", "spectral_norm_g", "init_from", "ema_warmup", "augment",
        "augment_strength", "instance_noise", "regularisers", "minibatch_std", "pack", "top_k", "ema_half_life",
        "ema_ramp_up", "reuse_fakes", "sampling_steps", "solver",
    }  # fmt: skip
    assert effective["flip"] is True and effective["network"] == "dcgan"
    halving = {"start": 1.0, "end": 0.5, "shape": "linear", "until": 1.0}
    asked = {"label_smoothing": 0.1, "penalty": "r1", "clip": 0.1, "augment": ["colour"], "augment_strength": halving}
    assert {name: tiny_recipe(**asked).effective()[name] for name in asked} == asked
    assert json.loads(json.dumps(tiny_recipe(**asked).effective())) == tiny_recipe(**asked).effective()


# Code: a copy of the package is edited, file by file.


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, which `code_version` takes for the code that runs."""
    copy, original = tmp_path / "pipeline", experiments.PACKAGE
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def moved(files: Any) -> list[Path]:
        return [copy / Path(file).resolve().relative_to(original) for file in files]

    sources = Network.sources
    monkeypatch.setattr(experiments, "PACKAGE", copy)
    monkeypatch.setattr(Network, "sources", lambda self: moved(sources(self)))
    monkeypatch.setattr(experiments, "sources_of", lambda name: moved(sources_of(name)))
    for registry in ("losses", "penalties", "regularisers", "augment", "ada", "optimisers"):
        monkeypatch.setattr(sys.modules[f"pipeline.gan.{registry}"], "__file__", str(copy / f"gan/{registry}.py"))
    versions._tree.cache_clear()  # which reads a file once in a process
    yield copy
    versions._tree.cache_clear()


def after(package: Path, recipe: Recipe, edit: Callable[[str], str], files: str = "**/*.py") -> str:
    """The version of the code after an edit of each of these files, which are then as before."""
    texts = {path: path.read_text(encoding="utf-8") for path in package.glob(files)}
    assert any(edit(text) != text for text in texts.values()), "nothing was edited"
    for path, text in texts.items():
        path.write_text(edit(text), encoding="utf-8")
    versions._tree.cache_clear()
    found = code_version(recipe, EXTRACTOR)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    versions._tree.cache_clear()
    return found


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: f"# A comment.\n{text}  # and one more\n",
        lambda text: text.replace('"""', '"""Changed: ', 1),
        lambda text: text.replace('    """A', '    """Changed: a').replace("\n    # ", "\n    # Changed: "),
        lambda text: text.replace("\n\n\n", "\n\n\n\n"),
    ],
)
def test_comments_docstrings_and_layout_are_no_code(package: Path, edit: Callable[[str], str]) -> None:
    recipe = tiny_recipe(penalty="r1", augment=["colour"])
    assert after(package, recipe, edit) == code_version(recipe, EXTRACTOR)


@pytest.mark.parametrize(("network", "own"), [("dcgan", "dcgan"), ("mlp", "mlp"), ("sagan", "resnet")])
@pytest.mark.slow
def test_only_the_code_that_a_recipe_runs_counts(package: Path, network: str, own: str) -> None:
    recipe = tiny_recipe(network=network)
    before = code_version(recipe, EXTRACTOR)
    extractor = {path.relative_to(ROOT / "pipeline").as_posix() for path in sources_of(EXTRACTOR)}
    for file in (
        "gan/step.py",
        "training/monitor.py",
        "metrics/frechet.py",
        f"models/{own}.py",
        *sorted(extractor)[:1],
    ):
        assert after(package, recipe, lambda text: f"{text}added = 1\n", file) != before, file
    needed = {package / file for file in (*SHAPING, f"models/{own}.py", *extractor)}
    assert {"gan/step.py", "data/batches.py", "core/randomness.py", "training/trainer.py"} < set(SHAPING)
    for path in package.rglob("*.py"):
        if path not in needed:
            path.write_text(f"{path.read_text()}added = 1\n")
    versions._tree.cache_clear()
    assert code_version(recipe, EXTRACTOR) == before


PIECES = {  # of each entry of a registry a piece of its own code, and what changes it
    "losses.py hinge": ("relu(1 - real)", "relu(2 - real)"),
    "losses.py bce": ("softplus(-real)", "softplus(-2 * real)"),
    "penalties.py r1": ("labels).square().sum", "labels).abs().sum"),
    "penalties.py gradient": ("(norms - 1)", "(norms - 2)"),
    "augment.py cutout": ("first = centre - edge // 2", "first = centre - edge // 3"),
    "augment.py colour": ("by[0] - 0.5", "by[0] - 0.25"),
    "ada.py ada": ("TARGET = 0.6", "TARGET = 0.7"),
    "regularisers.py lecam": ("LECAM_DECAY = 0.99", "LECAM_DECAY = 0.9"),
    "optimisers.py rmsprop": ("alpha=beta2", "alpha=beta1"),
    "optimisers.py adam": ("betas=(beta1, beta2)", "betas=(beta2, beta2)"),
}


@pytest.mark.parametrize("entry", PIECES)
@pytest.mark.slow
def test_an_entry_counts_for_the_recipes_that_name_it(package: Path, entry: str) -> None:
    (old, new), (file, name) = PIECES[entry], entry.split()
    field = {"losses.py": "loss", "penalties.py": "penalty", "augment.py": "augment", "ada.py": "augment",
             "regularisers.py": "regularisers", "optimisers.py": "optimiser"}[file]  # fmt: skip
    uses = tiny_recipe(**{field: {"augment": [name], "regularisers": {name: 1.0}}.get(field, name)})
    others = {"loss": "least_squares", "penalty": "none", "augment": [], "optimiser": "rmsprop"}
    without = tiny_recipe(**others | ({"optimiser": "adam"} if name == "rmsprop" else {}))
    for recipe, counts in ((uses, True), (without, False)):
        edited = after(package, recipe, lambda text: text.replace(old, new), f"gan/{file}")
        assert (edited != code_version(recipe, EXTRACTOR)) is counts


def test_another_entry_of_a_registry_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"penalty": "gradient", "augment": ["translation", "colour"]}
    original = version_of(**recipe)
    registries: list[tuple[dict[str, Any], str, str]] = [
        (LOSSES, "bce", "hinge"),
        (PENALTIES, "gradient", "r1"),
        (OPTIMISERS, "adam", "rmsprop"),
        (AUGMENTATIONS, "colour", "cutout"),
    ]
    for registry, own, other in registries:
        with monkeypatch.context() as patch:
            patch.setitem(registry, other, registry[own])
            patch.setitem(registry, "new", registry[own])
            assert version_of(**recipe) == original
        with monkeypatch.context() as patch:
            patch.setitem(registry, own, registry[other])
            assert version_of(**recipe) != original


def test_what_an_entry_of_networks_adds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    original, plain = version_of(network="sagan"), version_of(network="resnet")
    assert original != plain  # the same file, with attention
    monkeypatch.setitem(NETWORKS, "sagan", NETWORKS["resnet"])
    assert version_of(network="sagan") == plain


@pytest.mark.parametrize(
    "name", ["smoothed", "input_gradients", "clip_weights", "augment_for_discriminator", "make_optimiser"]
)
def test_what_all_recipes_share_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = version_of()
    monkeypatch.setattr(experiments, name, version_of)
    assert version_of() != original
