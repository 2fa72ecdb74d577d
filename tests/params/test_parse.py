"""A tree of params: what is right is taken as it stands, and every fault is said once, in one sentence."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PipelineError, suggest
from pipeline.params import Params, Schedule, load, parse
from pipeline.params.schema import parse_yaml
from tests.params.trees import (
    INF,
    LEAVES,
    NAN,
    OWN,
    ROOT,
    SECTIONS,
    SHARED,
    TREE,
    changed,
    faults,
    holder,
    value_of,
)

ODD = [None, True, False, 0, 1, -1, 2**63, 10**400, 0.5, 20.0, NAN, INF, -INF, "", "7", "off", "A b", "a\n", b"7",
       [], [1], [None], [[]], ["a", "a"], {}, {"a": 1}]  # fmt: skip
HALVING = {"start": 2e-4, "end": 1e-4, "shape": "linear", "until": 0.5}


def assert_refused(name: str, value: Any) -> None:
    """One sentence, or one for each thing in a list or section: the place, and then the rule in our words."""
    sentences = faults(changed(name, value))
    assert len(sentences) == 1 or isinstance(value, list | dict), sentences
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        place, rule = sentence.split(": ", 1)
        assert place == name or place.startswith(f"{name}."), sentences
        assert re.match("must |unknown value |unknown key; |missing; ", rule) and len(rule) < 400, sentences


def test_params_yaml_holds_what_it_says() -> None:
    loaded = load(ROOT / "params.yaml")
    assert loaded.sparse() == TREE
    assert list(loaded.models) == list(TREE["models"])
    for name, recipe in loaded.models.items():
        assert recipe.model_dump(mode="json") == TREE["recipe"] | TREE["models"][name]
        assert loaded.differences(name) == TREE["models"][name]


# Every value wrong in turn.


@pytest.mark.parametrize("name", LEAVES)
def test_an_odd_value_is_taken_as_it_is_or_refused_in_one_sentence(name: str) -> None:
    """No value is converted, a whole number for a fraction apart: "7" is no number and 20.0 no count."""
    refused = 0
    for value in ODD:
        try:
            read = value_of(name, parse(changed(name, value), "file").model_dump(mode="json"))
        except PipelineError:
            assert_refused(name, value)
            refused += 1
            continue
        assert read == value
        assert isinstance(read, type(value)) or (type(value) is int and type(read) is float) or name == "data.channels"
    assert refused >= 5


@pytest.mark.parametrize("name", [*SHARED, *(s for s in SECTIONS if not s.startswith("models."))])
def test_missing(name: str) -> None:
    tree = copy.deepcopy(TREE)
    section, key = holder(tree, name)
    del section[key]
    assert faults(tree) == [f"{name}: missing; add it (presets/ hold complete files)"]


@pytest.mark.parametrize("name", [*SHARED, *(s for s in SECTIONS if not s.startswith("models."))])
def test_misspelt(name: str) -> None:
    tree = copy.deepcopy(TREE)
    section, key = holder(tree, name)
    section[f"{key}x"] = section.pop(key)
    missing, unknown = sorted(faults(tree), key=lambda fault: "unknown" in fault)
    assert missing == f"{name}: missing; add it (presets/ hold complete files)"
    assert unknown.startswith(f"{name}x: unknown key; did you mean {key!r}? Choices: ")
    assert set(unknown.split("Choices: ")[1].split(", ")) == set(section) - {f"{key}x"} | {key}


# Values on both sides of a limit; each limit keeps a training from failing late or from harm.
LIMITS: dict[str, tuple[list[Any], list[Any]]] = {
    "data.image_size": ([4, 1024], [3, 1025]),
    "data.test_fraction": ([1e-9, 0.999], [0.0, 1.0]),
    "data.seed": ([0, 2**63 - 1], [-1, 2**63]),
    "train.steps": ([1, 2**31], [0, 2**31 + 1]),
    "train.rollback_lr": ([1e-9, 1], [0.0, 1.1]),
    "recipe.batch_size": ([2, 65536], [1, 65537]),
    "recipe.lr_g": ([1e-9, 10], [0, -1e-9, 10.1]),
    "recipe.beta2": ([0, 0.999], [-1e-9, 1]),
    "recipe.ema_decay": ([1e-9, 0.9999, None], [0, 1]),
    "recipe.label_smoothing": ([0, 0.499], [-0.1, 0.5]),
    "recipe.penalty_weight": ([1e-9, 1e6], [0, 1.1e6]),
    "recipe.penalty_every": ([1, 10_000], [0, 10_001]),
    "recipe.augment_strength": ([0, 1], [-0.1, 1.1]),
    "recipe.clip": ([1e-9, 1e6, None], [0, 1.1e6]),
    "models.sagan.lr_d": ([1e-9, 10], [0, 10.1]),
    "models.gan.width_d": ([1, 4096], [0, 4097]),
    "generate.samples": ([10, None], [9, 0]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name: str) -> None:
    inside, outside = LIMITS[name]
    for value in inside:
        assert value_of(name, parse(changed(name, value), "file").model_dump()) == value
    for value in outside:
        (sentence,) = faults(changed(name, value))
        assert re.fullmatch(rf"{re.escape(name)}: must be [<>]=? [\d.e+]+, got {value}", sentence), sentence


def test_a_merge_that_is_not_settled_is_told_with_its_line() -> None:
    text = (ROOT / "params.yaml").read_text()
    place = text.index("\ntrain:") + 1
    conflict = text[:place] + "<<<<<<< HEAD\n=======\n>>>>>>> other\n" + text[place:]
    line = text[:place].count("\n") + 1
    with pytest.raises(PipelineError, match=rf"^file: line {line} is of a merge that git left to you: choose a side"):
        parse_yaml(conflict, Path("file"))


def test_a_limit_is_told_with_its_bound_and_the_value() -> None:
    assert faults(changed("models.sagan.lr_d", 0.0)) == ["models.sagan.lr_d: must be > 0.0, got 0.0"]
    assert faults(changed("data.image_size", 1025)) == ["data.image_size: must be <= 1024, got 1025"]
    assert faults(changed("data.channels", 2)) == ["data.channels: unknown value 2; Choices: 1, 3"]
    assert faults(changed("recipe.flip", 0)) == ["recipe.flip: must be true or false, got 0"]
    assert faults(changed("recipe.loss", 1.5)) == ["recipe.loss: must be a text, got 1.5"]
    assert faults(changed("train.steps", 20.5)) == ["train.steps: must be a whole number, got 20.5"]
    assert faults(changed("recipe.augment", "colour")) == ["recipe.augment: must be a list, got 'colour'"]
    assert faults(changed("models.dcgan.augment", ["colour", 1])) == ["models.dcgan.augment.1: must be a text, got 1"]


@pytest.mark.parametrize(
    ("name", "word", "sentence"),
    [
        ("recipe.norm_d", "spectrals", "did you mean 'spectral'? Choices: batch, none, spectral"),
        ("models.dcgan.lr_decay", "cosin", "did you mean 'cosine'? Choices: cosine, linear, none"),
        ("search.pruner", "HYPERBAND", "Choices: hyperband, median, none"),
        ("generate.weights", " ema", "did you mean 'ema'? Choices: ema, raw"),
    ],
)
def test_a_word_that_is_no_choice(name: str, word: str, sentence: str) -> None:
    assert faults(changed(name, word)) == [f"{name}: unknown value {word!r}; {sentence}"]


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:15"])
def test_devices(device: str) -> None:
    assert parse(changed("runtime.device", device), "file").runtime.device == device
    for bad in ("gpu", "cuda:", "cuda:x", " cpu", "cpu\n"):
        assert_refused("runtime.device", bad)


@pytest.mark.parametrize(
    "bad",
    ["", "A", "_a", "a-b", "a/b", "../a", "a.b", "a" * 65, "a@", "a@0123456789abcde", "a@0123456789abcdef0",
     "a@0123456789ABCDEF", "a@0123456789abcdeg", " a", "a\n", "a@0123456789abcdef\n"],
)  # fmt: skip
def test_init_from_names_no_other_folder(bad: str) -> None:
    for name in ("recipe.init_from", "models.sagan.init_from"):
        assert_refused(name, bad)
        for good in (None, "a", "sagan_digits", f"9{'_' * 63}", "a@0123456789abcdef"):
            parsed = parse(changed(name, good), "file")
            assert parsed.models["sagan"].init_from == good


def test_generate_labels() -> None:
    for value in ("data", "balanced", 0, 7, 2**31 - 1):
        read = parse(changed("generate.labels", value), "file").generate.labels
        assert (read, type(read)) == (value, type(value))
    for bad in ("Data", "all", "", "7", -1, 2**31, True, False, 1.0, NAN, None, [], [7], ["data"]):
        rule = f"generate.labels: must be data, balanced, or the number of one class, got {bad!r}"
        assert faults(changed("generate.labels", bad)) == [rule]


@pytest.mark.parametrize(
    ("name", "bad", "rule"),
    [
        ("compare.models", None, "must be a text, got None"),
        ("compare.models", "a/b", "must match ^[a-z0-9][a-z0-9_]{0,63}$, got 'a/b'"),
        ("compare.models", "a\n", "must match ^[a-z0-9][a-z0-9_]{0,63}$, got 'a\\n'"),
        ("compare.seeds", -1, "must be >= 0, got -1"),
        ("compare.seeds", 2**63, "must be < 9223372036854775808, got 9223372036854775808"),
        ("compare.seeds", "0", "must be a whole number, got '0'"),
    ],
)
def test_a_wrong_item_of_a_list_is_named_once(name: str, bad: Any, rule: str) -> None:
    good = {"compare.models": "dcgan", "compare.seeds": 3}[name]
    assert faults(changed(name, [good, bad])) == [f"{name}.1: {rule}"]
    assert faults(changed(name, [bad])) == [f"{name}.0: {rule}"]
    assert faults(changed(name, [])) == [f"{name}: must not be empty"]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_value_in_place_of_a_section(name: str) -> None:
    for value in (None, [], [1], "x", 1, True, NAN):
        if value is not None or not name.startswith("models."):  # an entry under models: may be empty
            assert faults(changed(name, value)) == [f"{name}: must be a section of `key: value` lines, got {value!r}"]


@pytest.mark.parametrize("value", [None, [], [1], "x", 1])
def test_a_value_in_place_of_the_file(value: Any) -> None:
    assert faults(value) == [f"the file: must be a section of `key: value` lines, got {value!r}"]


def test_names_of_models() -> None:
    assert faults(changed("models", {})) == ["models: must not be empty"]
    for bad in ("DCGAN", "a-b", "../x", "", "a" * 65, "_a"):
        (fault,) = faults(changed("models", {"dcgan": {}, bad: {}}))
        assert fault.startswith(f"models.{bad}: must match ^[a-z0-9][a-z0-9_]{{0,63}}$, got ")
    names = ("a" * 64, "0", "wgan_gp2")
    assert list(parse(changed("models", {name: {} for name in names}), "file").models) == list(names)


# Recipes: one that all share, and what each changes of it.


@pytest.mark.parametrize("entry", [None, {}])
def test_a_model_without_differences_is_the_recipe(entry: Any) -> None:
    loaded = parse(changed("models.sngan", entry), "file")
    assert loaded.models["sngan"] == loaded.recipe
    assert loaded.differences("sngan") == {}


@pytest.mark.parametrize("name", sorted({".".join(name.split(".")[:3]) for name in OWN}))
def test_what_a_model_leaves_out_is_shared(name: str) -> None:
    tree = copy.deepcopy(TREE)
    section, key = holder(tree, name)
    del section[key]
    model = name.split(".")[1]
    loaded = parse(tree, "file")
    assert loaded.models[model].model_dump(mode="json")[key] == TREE["recipe"][key]
    assert loaded.differences(model) == section


def test_a_value_written_as_the_shared_one_is_no_difference() -> None:
    assert parse(changed("models.sngan.n_critic", TREE["recipe"]["n_critic"]), "file").differences("sngan") == {}


@pytest.mark.parametrize("place", ["recipe", "models.sagan", "models.sngan"])
def test_an_unknown_field_of_a_recipe_is_said_once(place: str) -> None:
    (fault,) = faults(changed(f"{place}.n_critics", 2))
    known = ", ".join(sorted(TREE["recipe"]))
    assert fault == f"{place}.n_critics: unknown key; did you mean 'n_critic'? Choices: {known}"


def test_a_fault_of_the_recipe_is_said_once_and_not_of_each_model() -> None:
    assert faults(changed("recipe.lr_g", 0)) == ["recipe.lr_g: must be > 0.0, got 0"]
    assert faults(changed("recipe.network", 3)) == ["recipe.network: must be a text, got 3"]  # most models override it
    tree = changed("recipe.lr_d", -1)
    tree["models"]["sagan"]["lr_d"] = -2  # a fault of its own is said too
    assert faults(tree) == ["recipe.lr_d: must be > 0.0, got -1", "models.sagan.lr_d: must be > 0.0, got -2"]
    del tree["recipe"]
    assert faults(tree)[0] == "recipe: missing; add it (presets/ hold complete files)"


def test_a_fault_of_a_model_is_said_of_it_alone() -> None:
    assert faults(changed("models.wgan.clip", -0.1)) == ["models.wgan.clip: must be > 0.0, got -0.1"]
    assert faults(changed("models.sngan.lr_g", "fast")) == ["models.sngan.lr_g: must be a number, got 'fast'"]


def test_all_faults_are_told_one_a_line() -> None:
    tree = changed("train.steps", 0)
    tree["data"]["seed"] = "x"
    tree["models"]["dcgan"]["flip"] = 1
    assert faults(tree) == [
        "data.seed: must be a whole number, got 'x'",
        "train.steps: must be >= 1, got 0",
        "models.dcgan.flip: must be true or false, got 1",
    ]


# Schedules.


@pytest.mark.parametrize("name", ["recipe.lr_g", "models.sagan.lr_d", "models.dcgan.beta1", "recipe.penalty_weight",
                                  "recipe.augment_strength"])  # fmt: skip
def test_a_schedule_stands_in_place_of_a_number(name: str) -> None:
    for shape in ("linear", "cosine"):
        loaded = parse(changed(name, HALVING | {"shape": shape}), "file")
        assert value_of(name, loaded.sparse()) == HALVING | {"shape": shape}
        recipe = loaded.recipe if name.startswith("recipe") else loaded.models[name.split(".")[1]]
        assert getattr(recipe, name.split(".")[-1]) == Schedule(start=2e-4, end=1e-4, shape=shape, until=0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"end": 0}, "recipe.lr_g: must be > 0.0, got 0.0"),
        ({"start": 11}, "recipe.lr_g: must be <= 10.0, got 11.0"),
        ({"start": "2e-4"}, "recipe.lr_g.start: must be a number, got '2e-4'"),
        ({"until": 0}, "recipe.lr_g.until: must be > 0.0, got 0"),
        ({"until": 1.5}, "recipe.lr_g.until: must be <= 1.0, got 1.5"),
        ({"shape": "cos"}, "recipe.lr_g.shape: unknown value 'cos'; did you mean 'cosine'? Choices: cosine, linear"),
    ],
)
def test_a_fault_of_a_schedule(changes: dict[str, Any], sentence: str) -> None:
    assert faults(changed("recipe.lr_g", HALVING | changes)) == [sentence]


def test_the_keys_of_a_schedule() -> None:
    missing = {key: value for key, value in HALVING.items() if key != "until"}
    assert faults(changed("recipe.lr_g", missing)) == [
        "recipe.lr_g.until: missing; add it (presets/ hold complete files)"
    ]
    (fault,) = faults(changed("models.sagan.lr_g", HALVING | {"untill": 1}))
    assert fault.startswith("models.sagan.lr_g.untill: unknown key")
    assert faults(changed("recipe.n_critic", HALVING))[0].startswith("recipe.n_critic: must be a whole number, got {")


def test_dimensions_of_the_search() -> None:
    def read(dimension: dict[str, Any]) -> dict[str, Any]:
        return parse(changed("search.space", {"lr_g": dimension}), "file").search.space["lr_g"].model_dump()

    for good in ({"low": 1, "high": 5}, {"low": 0.5, "high": 2.0, "log": True}, {"choices": (None, True, 1, 0.5, "a")}):
        assert read(good) == good
        assert [type(x) for x in read(good).values()] == [type(x) for x in good.values()]
    place = "search.space.lr_g"
    for key in ("low", "high", "step"):
        for bad in ("1", True, NAN, INF, [1]):
            told = faults(changed("search.space", {"lr_g": {key: bad}}))
            assert told == [f"{place}.{key}: must be a finite number, got {bad!r}"]
    for bad in (NAN, [1], {"a": 1}):
        told = faults(changed("search.space", {"lr_g": {"choices": [1, bad]}}))
        assert told == [f"{place}.choices.1: must be a finite number, a text, true, false or null, got {bad!r}"]
    assert faults(changed("search.space", {"lr_g": {"log": 1}})) == [f"{place}.log: must be true or false, got 1"]
    assert faults(changed("search.space", {"lr_g": {"lo": 1}}))[0].startswith(f"{place}.lo: unknown key; did you mean")
    assert faults(changed("search.space", {"lr_g": 3})) == [f"{place}: must be a section of `key: value` lines, got 3"]
    assert faults(changed("search.space", {})) == ["search.space: must not be empty"]


# Sentences stay short, and nothing but PipelineError comes out, whatever the tree.


def test_a_long_value_is_cut() -> None:
    (fault,) = faults(changed("train.steps", "9" * 500))
    assert fault.startswith("train.steps: must be a whole number, got '999") and "..." in fault
    assert len(fault) < 110


class _Counted:
    """Counts how often it is printed."""

    printed = 0

    def __repr__(self) -> str:
        type(self).printed += 1
        return "x"


@pytest.mark.parametrize("name", ["train.steps", "train.precision", "data.root", "compare.models", "train", "recipe"])
def test_a_huge_value_is_not_printed_in_full_to_be_cut(name: str) -> None:
    """Ten levels of YAML aliases stand for 10**10 values: to print them all would never end."""
    _Counted.printed = 0
    huge = [[_Counted()] * 1000] * 1000 if name != "compare.models" else {0: [_Counted()] * 10**4}
    assert faults(changed(name, huge))
    assert _Counted.printed <= 100


def test_suggest() -> None:
    assert suggest("hinqe", ["hinge", "bce"]) == "did you mean 'hinge'? Choices: bce, hinge"
    assert suggest("zzz", ["hinge", "bce"]) == "Choices: bce, hinge"


def test_sections_are_frozen() -> None:
    loaded = load(ROOT / "params.yaml")
    for section, key in ((loaded, "train"), (loaded.train, "steps"), (loaded.models["dcgan"], "lr_g")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(section, key, 1)
    assert loaded == load(ROOT / "params.yaml")


KEYS = sorted({key for name in LEAVES for key in name.split(".")})
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(KEYS) | st.binary()
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | SCALARS, inner, max_size=4),
    max_leaves=12,
)
QUICK = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def assert_params_or_error(tree: Any) -> None:
    try:
        assert isinstance(parse(tree, "file"), Params)
    except PipelineError as error:
        assert str(error).startswith("file: ")


@QUICK
@given(TREES)
@pytest.mark.slow
def test_any_tree(tree: Any) -> None:
    assert_params_or_error(tree)


@QUICK
@example([("recipe.network", None, False), ("models", {None: None}, False)])
@given(st.lists(st.tuples(st.sampled_from([*LEAVES, *SECTIONS]), TREES, st.booleans()), min_size=1, max_size=4))
@pytest.mark.slow
def test_any_change_of_params_yaml(changes: list[tuple[str, Any, bool]]) -> None:
    tree = copy.deepcopy(TREE)
    for name, value, drop in changes:
        section: Any = tree
        *parents, key = name.split(".")
        for part in parents:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(key, None) if drop else section.update({key: value})
    assert_params_or_error(tree)
