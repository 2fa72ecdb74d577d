"""Values are changed in memory and in the file: what was not named stays, comments and layout too."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PipelineError
from pipeline.params import load, parse, save
from pipeline.params.schema import parse_yaml
from pipeline.params.sections import find
from tests.params.trees import PRESETS, ROOT, TEXT, TREE, changed, value_of

CANDIDATES = [7, 12, 0.25, True, False, 3, "other", "allow", "skip", "bf16", "batch", "xavier", "orthogonal", "linear",
              "none", "raw", "gp", "median", "images", "cuda", [3, 4], ["dcgan"], ["colour", "cutout"]]  # fmt: skip
# One value of each kind and layout: in a section, in a recipe's line, in a recipe's block; a text, a list, null.
LINES = ["data.root", "data.limit", "data.test_fraction", "metrics.compile", "train.steps", "recipe.network",
         "recipe.lr_g", "recipe.ema_decay", "recipe.clip", "recipe.augment", "recipe.spectral_norm_g",
         "models.dcgan.lr_g", "models.sagan.init", "models.gan.beta2", "models.gan.network", "compare.models",
         "compare.seeds", "generate.samples", "generate.labels", "search.final_seeds",
         "search.against", "runtime.device"]  # fmt: skip


def other_value(name: str) -> Any:
    """A valid value that differs from the one in params.yaml, and for a model's field from the shared one too."""
    now = [value_of(name)]
    now += [TREE["recipe"][name.split(".")[2]]] if name.startswith("models.") else []
    for value in CANDIDATES:
        try:
            parse(changed(name, value), "file")
        except PipelineError:
            continue
        if value not in now:
            return value
    raise AssertionError(name)


def changed_lines(old: str, new: str) -> tuple[list[str], list[str]]:
    """The lines that were removed, and those that were added."""
    lines = list(difflib.ndiff(old.splitlines(True), new.splitlines(True)))
    return [x[2:] for x in lines if x.startswith("- ")], [x[2:] for x in lines if x.startswith("+ ")]


def text() -> str:
    return Path("params.yaml").read_text(encoding="utf-8")


# In memory.


def test_override_gives_a_copy() -> None:
    old = load(ROOT / "params.yaml")
    new = old.override({"models.dcgan.lr_g": 0.25, "compare.seeds": [1, 2], "data.limit": None})
    assert (new.models["dcgan"].lr_g, new.compare.seeds, new.data.limit) == (0.25, (1, 2), None)
    assert old.models["dcgan"].lr_g == value_of("models.dcgan.lr_g") != 0.25
    assert old.override({}) == old
    assert old.override({"models.dcgan.lr_g": 0.25}).override({"models.dcgan.lr_g": old.models["dcgan"].lr_g}) == old


def test_override_of_the_recipe_reaches_who_shares_it() -> None:
    new = load(ROOT / "params.yaml").override({"recipe.lr_d": 0.25, "models.sngan.n_critic": 4})
    assert new.models["sngan"].lr_d == new.models["resnet"].lr_d == 0.25
    assert new.models["sagan"].lr_d == TREE["models"]["sagan"]["lr_d"]
    assert new.differences("sngan") == {"n_critic": 4} and new.models["resnet"].n_critic == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("train.stepz", "train.stepz: no such parameter; did you mean 'steps'? Choices: accumulate, "),
        ("trian.steps", "trian: no such parameter; did you mean 'train'? Choices: compare, data, "),
        ("models.dcgna.lr_g", "models.dcgna: no such parameter; did you mean 'dcgan'? Choices: "),
        ("models.sngan.lr_gg", "models.sngan.lr_gg: no such parameter; did you mean 'lr_g'? Choices: "),
        ("models.sngan.lr_g.until", "models.sngan.lr_g.until: no such parameter"),
        ("recipe.lr_gg", "recipe.lr_gg: no such parameter; did you mean 'lr_g'? Choices: "),
        ("train.steps.x", "train.steps.x: no such parameter"),
        ("compare.seeds.0", "compare.seeds.0: no such parameter"),
        ("", ": no such parameter; Choices: compare, data, generate, metrics, models, recipe, runtime, search, train"),
        ("train.", "train.: no such parameter; Choices: accumulate, "),
    ],
)
def test_a_name_that_is_not_there(here: Path, name: str, sentence: str) -> None:
    for change in (load().override, save):
        with pytest.raises(PipelineError) as caught:
            change({name: 1})
        assert str(caught.value).startswith(sentence)
    assert text() == TEXT


def test_override_is_validated() -> None:
    with pytest.raises(PipelineError, match=r"^params: train\.steps: must be >= 1, got 0$"):
        load(ROOT / "params.yaml").override({"train.steps": 0})


# In the file.


@pytest.mark.parametrize("name", LINES)
def test_save_changes_one_line(here: Path, name: str) -> None:
    value = other_value(name)
    saved = save({name: value})
    removed, added = changed_lines(TEXT, text())
    assert len(removed) == len(added) == 1, (removed, added)
    assert removed[0].split(":")[0] == added[0].split(":")[0]  # the key and its indentation
    assert removed[0].partition("#")[2] == added[0].partition("#")[2]  # the comment
    assert saved == load() == parse(changed(name, value), "file")


@pytest.mark.parametrize(
    "word", ["off", "null", "2e-4", "1", "a: b # c", "", " x ", "é", "a\nb", "'", "~/x", "x" * 300]
)
def test_save_quotes_texts_that_yaml_would_misread(here: Path, word: str) -> None:
    save({"data.root": word})
    assert load().data.root == word


def test_save_folds_no_line_and_keeps_quotes(here: Path) -> None:
    long = f"/data/{'a folder with spaces ' * 10}end"
    Path("params.yaml").write_text(re.sub(r"  root: \S+", lambda _: f'  root: "{long}"', TEXT, count=1))
    save({"train.steps": 77})
    assert f'  root: "{long}" ' in text()
    assert len(text().splitlines()) == len(TEXT.splitlines())


def test_save_without_a_change_changes_nothing(here: Path) -> None:
    save({})
    assert text() == TEXT


@pytest.mark.parametrize("path", [path for path in PRESETS if "\nbase:" not in path.read_text()], ids=lambda p: p.stem)
def test_save_keeps_the_layout_of_presets(here: Path, path: Path) -> None:
    preset = path.read_text(encoding="utf-8")
    Path("params.yaml").write_text(preset, encoding="utf-8")
    save({"train.steps": 77})
    removed, added = changed_lines(preset, text())
    assert len(removed) == len(added) == 1 and added[0].startswith("  steps: 77 ")


@pytest.mark.parametrize(
    "changes",
    [{"train.steps": 0}, {"train.stepz": 1}, {"train": 5}, {"train.steps": 9, "data.seed": -1},
     {"models.sagan.lr_g": 0}, {"models.sngan": {"lr_g": 1, "x": 2}}],
)  # fmt: skip
def test_nothing_is_written_when_invalid(here: Path, changes: dict[str, Any]) -> None:
    before = Path("params.yaml").stat()
    with pytest.raises(PipelineError):
        save(changes)
    after = Path("params.yaml").stat()
    assert text() == TEXT
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("entry", ["{network: dcgan, n_critic: 2}", "\n    network: dcgan\n    n_critic: 2"])
@pytest.mark.parametrize("change", [{"n_critic": 3}, {"n_critic": 1}, {"lr_g": 0.25}])
def test_save_never_changes_more_than_it_says(here: Path, entry: str, change: Mapping[str, Any]) -> None:
    """An alias makes two models one: either only one changes, or the change is refused and nothing is written."""
    start, end = TEXT.index("  # SAGAN (Zhang"), TEXT.index("  # SNGAN (Miyato et al. 2018) with its residual")
    anchored = f"{TEXT[:start]}  sagan: &same {entry}\n{TEXT[end:]}".replace(
        "  resnet: {network: resnet, init: xavier}", "  resnet: *same"
    )
    Path("params.yaml").write_text(anchored, encoding="utf-8")
    before = load()
    assert before.models["sagan"] == before.models["resnet"]
    changes = {f"models.resnet.{field}": value for field, value in change.items()}
    try:
        saved = save(changes)
    except PipelineError:
        assert load() == before and text() == anchored
    else:
        assert load() == saved == before.override(changes)


# A model's values stand in the file only where they differ from the shared ones.

MODELS = """\
  # about block
  block:   # beside block
    # why clip
    clip: 0.1            # beside clip
    lr_g: 1e-3           # beside lr_g
    # why lr_d
    lr_d: 2e-3           # beside lr_d
  # about line
  line: {loss: bce, lr_d: 1e-3}   # beside line
  # about empty
  empty: {}   # beside empty
  # about nothing
  nothing:   # beside nothing
  # about single
  single:   # beside single
    # why it is alone
    lr_g: 1e-3           # beside it
  # about last
  last:
    n_critic: 2
"""


@pytest.fixture
def models(here: Path) -> str:
    """A params.yaml with one entry of each style under models:, and its text."""
    start, end = TEXT.index("\nmodels:\n") + len("\nmodels:\n"), TEXT.index("\ncompare:")
    whole = TEXT[:start] + MODELS + TEXT[end:].replace("models: [dcgan, sagan, resnet]", "models: [block]")
    whole = whole.replace("  nothing:   #", "  nothing: null   #")
    Path("params.yaml").write_text(whole, encoding="utf-8")
    load()
    return whole


@pytest.mark.parametrize(
    ("changes", "removed", "added"),
    [
        ({"block.n_critic": 3}, [], ["    n_critic: 3"]),
        ({"block.lr_d": 0.5}, ["    lr_d: 2e-3           # beside lr_d"], ["    lr_d: 0.5            # beside lr_d"]),
        ({"block.lr_d": 4e-4}, ["    lr_d: 2e-3           # beside lr_d"], []),
        ({"block.lr_g": 4e-4}, ["    lr_g: 1e-3           # beside lr_g"], []),
        ({"block.clip": None}, ["    clip: 0.1            # beside clip"], []),
        ({"block.loss": "hinge"}, [], []),  # the shared value already
        (
            {"block.clip": None, "block.lr_g": 4e-4, "block.flip": True},
            ["    clip: 0.1            # beside clip", "    lr_g: 1e-3           # beside lr_g"],
            ["    flip: true"],
        ),
        ({"line.n_critic": 3}, None, ["  line: {loss: bce, lr_d: 1e-3, n_critic: 3} # beside line"]),
        ({"line.lr_d": 4e-4}, None, ["  line: {loss: bce}               # beside line"]),
        ({"line.lr_d": 4e-4, "line.loss": "hinge"}, None, ["  line: {}                        # beside line"]),
        ({"line.augment": ["colour"]}, None, ["  line: {loss: bce, lr_d: 1e-3, augment: [colour]} # beside line"]),
        ({"empty.n_critic": 3}, None, ["  empty: {n_critic: 3} # beside empty"]),
        ({"empty.n_critic": 1}, [], []),
        ({"nothing.flip": True}, None, ["  nothing: {flip: true} # beside nothing"]),
        (
            {"single.lr_g": 4e-4},
            ["  single:   # beside single", "    lr_g: 1e-3           # beside it"],
            ["  single: {}   # beside single"],
        ),
        ({"single.lr_g": 4e-4, "single.lr_d": 0.5}, ["    lr_g: 1e-3           # beside it"], ["    lr_d: 0.5"]),
        ({"last.n_critic": 1}, ["  last:", "    n_critic: 2"], ["  last: {}"]),
        ({"last.augment": ["colour"]}, [], ["    augment: [colour]"]),
        (
            {"last.lr_g": {"start": 0.5, "end": 0.25, "shape": "cosine", "until": 0.5}},
            [],
            ["    lr_g: {start: 0.5, end: 0.25, shape: cosine, until: 0.5}"],
        ),
    ],
)
def test_only_differences_are_written(
    models: str, changes: dict[str, Any], removed: list[str] | None, added: list[str]
) -> None:
    named = {f"models.{name}": value for name, value in changes.items()}
    before = load()
    saved = save(named)
    assert saved == load() == before.override(named)
    found, new = ([line.rstrip("\n") for line in lines] for lines in changed_lines(models, text()))
    assert new == added
    assert found == removed if removed is not None else len(found) == 1  # the line that was there
    for comment in re.findall(r"# (?:about|why|beside) \S+", models):
        if not any(comment in line for line in found):
            assert text().count(comment) == models.count(comment), comment


def test_a_difference_comes_and_goes_without_a_trace(models: str) -> None:
    for name, value in {"block.n_critic": 3, "last.flip": True, "empty.lr_g": 0.5, "line.beta1": 0.5}.items():
        model, field = name.split(".")
        save({f"models.{name}": value})
        assert load().differences(model)[field] == value
        save({f"models.{name}": TREE["recipe"][field]})
        assert load().differences(model).get(field) is None
    old, new = (re.sub(" +#", " #", whole) for whole in (models, text()))  # ruamel moves the comment beside a {...}
    assert old == new


VALUES = {"n_critic": [1, 2, 3], "lr_g": [4e-4, 1e-3, 0.5], "clip": [None, 0.1, 0.2], "augment": [[], ["colour"]],
          "loss": ["hinge", "bce"], "flip": [False, True], "lr_d": [4e-4, 2e-3, 0.25]}  # fmt: skip
PLACES = ["recipe", *(f"models.{name}" for name in ("block", "line", "empty", "nothing", "single", "last"))]
CHANGES = st.dictionaries(
    st.sampled_from([f"{place}.{field}" for place in PLACES for field in VALUES]),
    st.integers(0, 2),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("FUZZ_CASES", "40")), deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(steps=st.lists(CHANGES, min_size=1, max_size=3))
def test_any_changes_in_any_order(models: str, steps: list[dict[str, int]]) -> None:
    """The file means what its values were changed to; comments above stay, and every line is short and in its place."""
    Path("params.yaml").write_text(models, encoding="utf-8")
    tree: dict[str, Any] = parse_yaml(models, Path("params.yaml"))
    for step in steps:
        changes = {name: (own := VALUES[name.split(".")[-1]])[index % len(own)] for name, index in step.items()}
        for name, value in changes.items():
            section, key = find(tree, name)
            section[key] = value
        for name, value in changes.items():
            section, key = find(tree, name)
            if section is not tree["recipe"] and value == tree["recipe"][key]:
                del section[key]  # what is as the shared value is no difference
        assert save(changes) == load() == parse(tree, "tree")
    for comment in re.findall(r"# about \S+", models):
        assert text().count(f"  {comment}\n") == 1
    assert text().index("  block:") < text().index("  # about line") < text().index("  line:") < text().index("  last:")
    assert [line for line in text().splitlines() if line.strip().startswith("#")] == [
        line for line in models.splitlines() if line.strip().startswith("#")
    ]


def test_a_new_shared_value_leaves_what_models_say(models: str) -> None:
    saved = save({"recipe.lr_g": 1e-3, "models.last.lr_g": 5e-4, "models.line.lr_g": 1e-3})
    assert {name: recipe.lr_g for name, recipe in saved.models.items()} == {
        "block": 1e-3, "line": 1e-3, "empty": 1e-3, "nothing": 1e-3, "single": 1e-3, "last": 5e-4
    }  # fmt: skip
    _, added = changed_lines(models, text())
    assert [line.split("#")[0].strip() for line in added] == ["lr_g: 0.001", "lr_g: 0.0005"]


def test_the_end_of_a_schedule_is_changed_by_its_name(here: Path) -> None:
    save({"models.sagan.lr_d": {"start": 2e-4, "end": 1e-4, "shape": "linear", "until": 0.5}})
    save({"models.sagan.lr_d.until": 1.0})
    assert "lr_d: {start: 0.0002, end: 0.0001, shape: linear, until: 1.0}" in text()
    assert load().models["sagan"].model_dump()["lr_d"]["until"] == 1.0
