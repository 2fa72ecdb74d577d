"""params.yaml: every field wrong in turn gives one clear sentence; values change without touching anything else."""

import copy
import difflib
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import check, params
from pipeline.core.errors import PipelineError, suggest
from pipeline.params import Params, load, parse, save

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
TREE: dict[str, Any] = YAML(typ="safe", pure=True).load(TEXT)
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
NAN, INF = float("nan"), float("inf")
COUNT = ([1, 2**31], [0, -1, 2**31 + 1])
SEED = ([0, 2**63 - 1], [-1, 2**63, 10**400])
RATE = ([1e-9, 10, 10.0], [0, 0.0, -1e-9, 10.1, NAN, INF])
BETA = ([0, 0.0, 0.999], [-1e-9, 1, 1.0, NAN])

# By field: values just inside and just outside its range. A recipe's fields stand once, for every model.
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "data.image_size": ([4, 1024], [3, 0, -16, 1025]),
    "data.channels": ([1, 3], [0, 2, 4, -1]),
    "data.test_fraction": ([1e-9, 0.999], [0, 0.0, 1, 1.0, -0.1, NAN, INF]),
    "data.limit": COUNT,
    "data.max_megapixels": ([0.001, 1000, 1000.0], [0, 0.0, 1000.1, -1, NAN, INF]),
    "data.seed": SEED,
    "metrics.batch_size": COUNT,
    "metrics.bootstrap": ([0, 10_000], [-1, 10_001]),
    "train.steps": COUNT,
    "train.report_every": COUNT,
    "train.grid_every": COUNT,
    "train.score_every": COUNT,
    "train.score_samples": ([2, 10**6], [1, 0, -2]),
    "train.rollbacks": ([0, 100], [-1, 101]),
    "train.rollback_lr": ([1e-9, 0.5, 1, 1.0], [0, 0.0, -0.1, 1.1, NAN, INF]),
    "models.*.width_g": ([1, 4096], [0, -1, 4097]),
    "models.*.width_d": ([1, 4096], [0, -1, 4097]),
    "models.*.latent_dim": ([1, 65536], [0, -1, 65537]),
    "models.*.batch_size": ([2, 65536], [1, 0, -2, 65537]),
    "models.*.n_critic": ([1, 100], [0, -1, 101]),
    "models.*.lr_g": RATE,
    "models.*.lr_d": RATE,
    "models.*.beta1": BETA,
    "models.*.beta2": BETA,
    "models.*.ema_decay": ([1e-9, 0.9999], [0, 0.0, 1, 1.0, -0.1, NAN, INF]),
    "models.*.label_smoothing": ([0, 0.0, 0.1, 0.499], [0.5, 1, 1.0, -0.1, NAN, INF]),
    "models.*.penalty_weight": ([1e-9, 10, 1e6], [0, 0.0, -1e-9, 1.1e6, NAN, INF]),
    "models.*.clip": ([1e-9, 0.01, 1e6], [0, 0.0, -1e-9, 1.1e6, NAN, INF]),
    "models.*.instance_noise": ([0, 0.0, 0.5, 10], [-1e-9, 10.1, NAN, INF]),
    "generate.samples": ([10, 10**7], [9, 0, -10]),
    "generate.seed": SEED,
    "generate.batch_size": COUNT,
    "search.seed": SEED,
    "search.steps": COUNT,
    "search.score_every": COUNT,
    "search.samples": ([2, 10**6], [1, 0, -2]),
    "search.finalists": COUNT,
    "runtime.checkpoint_every": COUNT,
}
WORDS: dict[str, list[str]] = {
    "metrics.unknown_weights": ["refuse", "allow"],
    "data.bad_images": ["refuse", "skip"],
    "train.precision": ["fp32", "bf16"],
    "models.*.norm_d": ["none", "batch", "spectral"],
    "models.*.init": ["normal", "xavier", "orthogonal"],
    "models.*.lr_decay": ["none", "linear"],
    "generate.weights": ["ema", "raw"],
    "search.sampler": ["tpe", "gp", "cmaes", "nsga2", "qmc", "random"],
    "search.pruner": ["hyperband", "median", "none"],
    "search.against": ["images", "seconds"],
}
PATTERNS: dict[str, tuple[list[Any], list[Any]]] = {
    "runtime.device": (
        ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:15"],
        ["gpu", "cuda:", "cuda:x", " cpu", "cpu\n"],
    ),
    "models.*.init_from": (
        ["a", "sagan_digits", f"9{'_' * 63}", "a@0123456789abcdef"],
        [
            "",
            "A",
            "_a",
            "a-b",
            "a/b",
            "../a",
            "a.b",
            "a" * 65,
            "a@",
            "a@0123456789abcde",
            "a@0123456789abcdef0",
            "a@0123456789ABCDEF",
            "a@0123456789abcdeg",
            " a",
            "a\n",
            "a@0123456789abcdef\n",
        ],
    ),
}
BOOLEANS = ["train.channels_last", "models.*.spectral_norm_g", "models.*.flip", "models.*.dequantise",
            "models.*.ema_warmup", "metrics.compile", "metrics.infinity", "generate.png_folder", "runtime.tracking",
            "runtime.log_model"]  # fmt: skip
TEXTS = ["data.dataset", "data.root", "metrics.extractor", "metrics.weights", "models.*.network", "models.*.loss",
         "models.*.penalty", "models.*.optimiser"]  # fmt: skip
LABELS: list[Any] = ["data", "balanced", 0, 7, 2**31 - 1]  # of generate.labels
LISTS = ["compare.models", "compare.seeds", "models.*.augment", "search.final_seeds"]
NULLABLE = ["data.limit", "metrics.weights", "models.*.ema_decay", "models.*.clip", "models.*.init_from",
            "generate.samples", "search.against"]  # fmt: skip


def leaves(node: Any, name: str = "") -> Iterator[str]:
    """The dotted names of all values that are not sections, without those of search.space: its keys are free."""
    if name == "search.space":
        return
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{name}.{key}".lstrip("."))
    else:
        yield name


def sections(node: Any, name: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield (inner := f"{name}.{key}".lstrip("."))
            yield from () if inner == "search.space" else sections(value, f"{name}.{key}".lstrip("."))


def general(name: str) -> str:
    """A recipe's field, whichever model's: models.dcgan.loss -> models.*.loss."""
    return re.sub(r"^models\.\w+\.", "models.*.", name)


LEAVES, SECTIONS = list(leaves(TREE)), list(sections(TREE))
FIELDS = list(dict.fromkeys(map(general, LEAVES)))


def a_name(field: str) -> str:
    """A dotted name in params.yaml for `field`; the second model stands for all."""
    return field.replace("*", list(TREE["models"])[1])


def holder(tree: Any, name: str) -> tuple[dict[str, Any], str]:
    *parents, key = name.split(".")
    for part in parents:
        tree = tree[part]
    return tree, key


def value_of(name: str) -> Any:
    section, key = holder(TREE, name)
    return section[key]


def changed(name: str, value: Any) -> dict[str, Any]:
    """A copy of params.yaml's tree with one value replaced."""
    tree = copy.deepcopy(TREE)
    section, key = holder(tree, name)
    section[key] = value
    return tree


def faults(tree: Any) -> list[str]:
    """The sentences with which `tree` is refused, without the name of the file."""
    with pytest.raises(PipelineError) as caught:
        parse(tree, "file")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("file: ") for line in lines), lines
    return [line.removeprefix("file: ") for line in lines]


def assert_refused(name: str, value: Any) -> str:
    """One sentence, which names the place first and the value last (or a rule without one, for what is empty)."""
    sentences = faults(changed(name, value))
    assert len(sentences) == 1, sentences
    place, rule = sentences[0].split(": ", 1)
    assert place == name or place.startswith(f"{name}."), sentences
    assert repr(value)[:20] in rule, sentences
    assert "Input should" not in rule, sentences
    return rule


def test_params_yaml_holds_what_it_says() -> None:
    loaded = load(ROOT / "params.yaml")
    assert loaded.model_dump(mode="json") == TREE
    assert loaded.models["dcgan"].lr_g == value_of("models.dcgan.lr_g")
    assert isinstance(loaded.models["dcgan"].lr_g, float)
    assert loaded.compare.models == tuple(TREE["compare"]["models"])


def test_the_tables_of_this_file_cover_every_field() -> None:
    groups = [*RANGES, *WORDS, *PATTERNS, *BOOLEANS, *TEXTS, *LISTS, "generate.labels"]
    assert sorted(groups) == sorted(FIELDS)
    assert set(NULLABLE) < set(FIELDS)


# Every field wrong in turn.


@pytest.mark.parametrize("name", LEAVES)
def test_a_section_in_place_of_a_value(name: str) -> None:
    assert_refused(name, {"a": 1})
    if general(name) not in LISTS:
        assert_refused(name, {})


@pytest.mark.parametrize("name", LEAVES)
def test_null(name: str) -> None:
    if general(name) in NULLABLE:
        section, key = holder(parse(changed(name, None), "file").model_dump(), name)
        assert section[key] is None
    else:
        assert "None" in assert_refused(name, None)


@pytest.mark.parametrize("name", [*LEAVES, *(s for s in SECTIONS if not s.startswith("models."))])
def test_missing(name: str) -> None:
    tree = copy.deepcopy(TREE)
    section, key = holder(tree, name)
    del section[key]
    assert faults(tree) == [f"{name}: missing; add it (presets/ hold complete files)"]


@pytest.mark.parametrize("name", [*LEAVES, *(s for s in SECTIONS if not s.startswith("models."))])
def test_misspelt(name: str) -> None:
    tree = copy.deepcopy(TREE)
    section, key = holder(tree, name)
    section[f"{key}x"] = section.pop(key)
    missing, unknown = sorted(faults(tree), key=lambda fault: "unknown" in fault)
    assert missing == f"{name}: missing; add it (presets/ hold complete files)"
    assert unknown.startswith(f"{name}x: unknown key; did you mean {key!r}? Choices: ")
    assert set(unknown.split("Choices: ")[1].split(", ")) == set(section) - {f"{key}x"} | {key}


@pytest.mark.parametrize("field", RANGES)
def test_ranges(field: str) -> None:
    name = a_name(field)
    inside, outside = RANGES[field]
    for value in inside:
        section, key = holder(parse(changed(name, value), "file").model_dump(), name)
        assert section[key] == value
    for value in outside:
        rule = assert_refused(name, value)
        assert re.match(r"must be (>|>=|<|<=) \d|must be a finite number|unknown value", rule), rule


def test_a_range_is_told_with_its_bound_and_the_value() -> None:
    assert faults(changed("models.dcgan.lr_g", 0.0)) == ["models.dcgan.lr_g: must be > 0.0, got 0.0"]
    assert faults(changed("train.steps", 0)) == ["train.steps: must be >= 1, got 0"]
    assert faults(changed("data.image_size", 1025)) == ["data.image_size: must be <= 1024, got 1025"]
    assert faults(changed("data.test_fraction", 1.5)) == ["data.test_fraction: must be < 1.0, got 1.5"]
    assert faults(changed("data.channels", 2)) == ["data.channels: unknown value 2; Choices: 1, 3"]


@pytest.mark.parametrize("field", RANGES)
def test_not_a_number(field: str) -> None:
    for value in ("7", "x", "", True, False, [], [7], b"7"):
        if (field, value) != ("data.channels", True):  # a choice: what equals 1 is taken for 1
            assert_refused(a_name(field), value)


@pytest.mark.parametrize("field", [f for f in RANGES if isinstance(RANGES[f][0][0], int) and "beta" not in f])
def test_a_whole_number_is_not_a_fraction(field: str) -> None:
    for value in (20.5, 20.0, NAN, INF, -INF):
        assert_refused(a_name(field), value)


@pytest.mark.parametrize("field", WORDS)
def test_words(field: str) -> None:
    name, choices = a_name(field), WORDS[field]
    for choice in choices:
        assert holder(parse(changed(name, choice), "file").model_dump(), name)[0][name.split(".")[-1]] == choice
    for bad in ("", choices[0].upper(), f" {choices[0]}", 0, True, [choices[0]]):
        assert assert_refused(name, bad).endswith(f"Choices: {', '.join(sorted(choices))}")
    near = faults(changed(name, f"{choices[-1]}s"))
    assert near == [f"{name}: unknown value '{choices[-1]}s'; did you mean {choices[-1]!r}? "
                    f"Choices: {', '.join(sorted(choices))}"]  # fmt: skip


@pytest.mark.parametrize("field", PATTERNS)
def test_patterns(field: str) -> None:
    good, bad = PATTERNS[field]
    for value in good:
        section, key = holder(parse(changed(a_name(field), value), "file").model_dump(), a_name(field))
        assert section[key] == value
    for value in [*bad, 0, True, ["cpu"]]:
        assert_refused(a_name(field), value)


def test_generate_labels() -> None:
    for value in LABELS:
        read = parse(changed("generate.labels", value), "file").generate.labels
        assert (read, type(read)) == (value, type(value))
    for bad in ("Data", "all", "", "7", -1, 2**31, True, False, 1.0, NAN, None, [], [7], ["data"]):
        rule = f"generate.labels: must be data, balanced, or the number of one class, got {bad!r}"
        assert faults(changed("generate.labels", bad)) == [rule]


@pytest.mark.parametrize("field", BOOLEANS)
def test_booleans(field: str) -> None:
    name = a_name(field)
    for value in (True, False):
        assert holder(parse(changed(name, value), "file").model_dump(), name)[0][name.split(".")[-1]] is value
    for bad in (0, 1, "true", "off", "", 1.0, [True]):
        assert assert_refused(name, bad) == f"must be true or false, got {bad!r}"


@pytest.mark.parametrize("field", TEXTS)
def test_texts(field: str) -> None:
    name = a_name(field)
    for bad in (0, 1.5, True, ["digits"], b"digits"):
        assert assert_refused(name, bad) == f"must be a text, got {bad!r}"


@pytest.mark.parametrize("name", ["compare.models", "compare.seeds", "search.final_seeds"])
def test_lists(name: str) -> None:
    for bad in ("dcgan", 1, True, 1.5):
        assert assert_refused(name, bad) == f"must be a list, got {bad!r}"
    assert faults(changed(name, [])) == [f"{name}: must not be empty"]


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


def test_a_list_of_augmentations_may_be_empty() -> None:
    name = a_name("models.*.augment")
    for good in ([], ["colour"], ["cutout", "colour"]):
        section, key = holder(parse(changed(name, good), "file").model_dump(), name)
        assert section[key] == tuple(good)
    for bad in ("colour", 1, True, 1.5, None):
        assert assert_refused(name, bad) == f"must be a list, got {bad!r}"
    for bad in (1, None, ["colour"]):
        assert faults(changed(name, ["colour", bad])) == [f"{name}.1: must be a text, got {bad!r}"]


@pytest.mark.parametrize(
    ("name", "bad", "rule"),
    [
        ("compare.models", 1, "must be a text, got 1"),
        ("compare.models", None, "must be a text, got None"),
        ("compare.models", [], "must be a text, got []"),
        ("compare.models", "A", "must match ^[a-z0-9][a-z0-9_]{0,63}$, got 'A'"),
        ("compare.models", "a/b", "must match ^[a-z0-9][a-z0-9_]{0,63}$, got 'a/b'"),
        ("compare.models", "a\n", "must match ^[a-z0-9][a-z0-9_]{0,63}$, got 'a\\n'"),
        ("compare.models", "", "must match ^[a-z0-9][a-z0-9_]{0,63}$, got ''"),
        ("compare.seeds", -1, "must be >= 0, got -1"),
        ("compare.seeds", 2**63, "must be < 9223372036854775808, got 9223372036854775808"),
        ("compare.seeds", "0", "must be a whole number, got '0'"),
        ("compare.seeds", True, "must be a whole number, got True"),
        ("compare.seeds", None, "must be a whole number, got None"),
    ],
)
def test_a_wrong_item_of_a_list_is_named_once(name: str, bad: Any, rule: str) -> None:
    good = {"compare.models": "dcgan", "compare.seeds": 3}[name]
    assert faults(changed(name, [good, bad])) == [f"{name}.1: {rule}"]
    assert faults(changed(name, [bad])) == [f"{name}.0: {rule}"]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_value_in_place_of_a_section(name: str) -> None:
    for value in (None, [], [1], "x", 1, True, NAN):
        assert faults(changed(name, value)) == [f"{name}: must be a section of `key: value` lines, got {value!r}"]


@pytest.mark.parametrize("value", [None, [], [1], "x", 1])
def test_a_value_in_place_of_the_file(value: Any) -> None:
    assert faults(value) == [f"the file: must be a section of `key: value` lines, got {value!r}"]


def test_models() -> None:
    assert faults(changed("models", {})) == ["models: must not be empty"]
    recipe = TREE["models"]["dcgan"]
    for bad in ("DCGAN", "a-b", "../x", "", "a" * 65, "_a"):
        (fault,) = faults(changed("models", {"dcgan": recipe, bad: recipe}))
        assert fault.startswith(f"models.{bad}: must match ^[a-z0-9][a-z0-9_]{{0,63}}$, got ")
    names = ("a" * 64, "0", "wgan_gp2")
    assert set(parse(changed("models", dict.fromkeys(names, recipe)), "file").models) == set(names)


def test_all_faults_are_told_one_a_line() -> None:
    tree = changed("train.steps", 0)
    tree["data"]["seed"] = "x"
    tree["models"]["dcgan"]["flip"] = 1
    assert faults(tree) == [
        "data.seed: must be a whole number, got 'x'",
        "train.steps: must be >= 1, got 0",
        "models.dcgan.flip: must be true or false, got 1",
    ]


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


@pytest.mark.parametrize("name", ["train.steps", "train.precision", "data.root", "compare.models", "train"])
def test_a_huge_value_is_not_printed_in_full_to_be_cut(name: str) -> None:
    """Ten levels of YAML aliases stand for 10**10 values: to print them all would never end."""
    _Counted.printed = 0
    assert faults(
        changed(name, [[_Counted()] * 1000] * 1000 if name != "compare.models" else {0: [_Counted()] * 10**4})
    )
    assert _Counted.printed <= 100


# Reading YAML.


def yaml_error(folder: Path, text: str | bytes) -> str:
    path = folder / "p.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PipelineError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") or message.startswith(f"{path} ")
    return message.removeprefix(str(path))


def edited(old: str, new: str) -> str:
    assert TEXT.count(old) >= 1
    return TEXT.replace(old, new, 1)


def test_yaml_is_read_as_1_2(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    text = re.sub(r"lr_g: \S+", "lr_g: 3e-4", TEXT, count=1)
    text = re.sub(r"  root: \S+", "  root: off", text, count=1)
    text = re.sub(r"  steps: \S+", "  steps: 010", text, count=1)  # octal in YAML 1.1
    path.write_text(text)
    loaded = load(path)
    assert next(iter(loaded.models.values())).lr_g == 3e-4
    assert loaded.data.root == "off"
    assert loaded.train.steps == 10


@pytest.mark.parametrize("word", ["off", "on", "yes", "no", "y"])
def test_words_that_yaml_1_1_takes_for_booleans(tmp_path: Path, word: str) -> None:
    text = re.sub(r"tracking: \w+", f"tracking: {word}", TEXT, count=1)
    assert yaml_error(tmp_path, text) == f": runtime.tracking: must be true or false, got {word!r}"


@pytest.mark.parametrize(("text", "shown"), [(".nan", "nan"), (".inf", "inf"), ("-.inf", "-inf"), ("1e999", "inf")])
def test_numbers_that_are_none(tmp_path: Path, text: str, shown: str) -> None:
    for key in ("lr_g", "steps"):
        message = yaml_error(tmp_path, re.sub(rf"{key}: \S+", f"{key}: {text}", TEXT, count=1))
        assert message.count("\n") == 0 and message.endswith(f"got {shown}"), message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": the file: must be a section of `key: value` lines, got None"),
        ("# nothing\n", ": the file: must be a section of `key: value` lines, got None"),
        ("- a\n- b\n", ": the file: must be a section of `key: value` lines, got ['a', 'b']"),
        ("data\n", ": the file: must be a section of `key: value` lines, got 'data'"),
        ("a: 1\na: 2\n", ': line 2, column 1: found duplicate key "a" with value "2" (original value: "1")'),
        ("data:\n  a: 1\n   b: 2\n", ": line 3, column 5: mapping values are not allowed here"),
        ("a: [1\n", ": line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        ("\ta: 1\n", ": line 1, column 1: found character '\\t' that cannot start any token"),
        ("a: *b\n", ": line 1, column 4: found undefined alias 'b'"),
        ("--- 1\n--- 2\n", ": line 2, column 1: but found another document"),
        (b"caf\xe9: 1\n", " is not UTF-8 text: save it as UTF-8"),
        (b"\xff\xfea\x00", " is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_text_that_is_not_params(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert yaml_error(tmp_path, text) == message


@pytest.mark.parametrize(
    "text",
    ["!!bool x", '!!int ""', '"\\UFFFFFFFF"', "2001-99-99", "!!float x", "!!int x", '!!binary "x"', "\x00", "\x07",
     "!!python/object/apply:os.system [ls]", "!!timestamp x", "!!set [a]", "!!omap [a]", "!<> x", "@x", "`x",
     "!!python/name:os.system", "9" * 5000],
)  # fmt: skip
def test_a_value_that_yaml_cannot_read(tmp_path: Path, text: str) -> None:
    """Readable or not by the YAML library, it ends in one short sentence."""
    message = yaml_error(tmp_path, re.sub(r"steps: \S+", lambda _: f"steps: {text}", TEXT, count=1))
    assert "\n" not in message and len(message) < 250, message
    line = 1 + TEXT[: TEXT.index("  steps: ")].count("\n")
    assert f": line {line}, column " in message or ": not valid YAML (" in message, message


def test_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    message = yaml_error(tmp_path, re.sub(r"steps: \S+", f"steps: 0x{'f' * 5000}", TEXT, count=1))
    assert message.startswith(": train.steps: ") and message.count("\n") == 0 and len(message) < 250, message


def test_deep_nesting(tmp_path: Path) -> None:
    assert yaml_error(tmp_path, "[" * 1500).startswith(": not valid YAML (maximum recursion depth exceeded")


def test_aliases_that_multiply(tmp_path: Path) -> None:
    """Six levels of ten; the sentence stays short."""
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 6)]
    message = yaml_error(tmp_path, "\n".join(["a0: &a0 [x]", *levels, "data: *a5", ""]))
    assert ": data: must be a section of `key: value` lines, got [[" in message and len(message) < 3000


def test_a_value_that_holds_itself(tmp_path: Path) -> None:
    message = yaml_error(tmp_path, re.sub(r" seeds: \[.*\]", " seeds: &s [*s]", TEXT))
    assert message.startswith(": compare.seeds.0: must be a whole number, got [") and "\n" not in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(PipelineError) as caught:
            load(path)
        assert str(caught.value) == f"{path} cannot be read ({reason}): run from the repository's root"


def test_suggest() -> None:
    assert suggest("hinqe", ["hinge", "bce"]) == "did you mean 'hinge'? Choices: bce, hinge"
    assert suggest("zzz", ["hinge", "bce"]) == "Choices: bce, hinge"


# Nothing but PipelineError, whatever the tree or the text.

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
def test_any_tree(tree: Any) -> None:
    assert_params_or_error(tree)


@QUICK
@given(st.lists(st.tuples(st.sampled_from([*LEAVES, *SECTIONS]), TREES, st.booleans()), min_size=1, max_size=4))
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


PIECES = ["a", "data", ": ", ":", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!int ", "!!bool ",
          "!!float ", "!!set ", "!!omap ", "!!binary ", "!!null ", "!!str ", "!!timestamp ", "!x ", "!<x> ", "'", '"',
          "# ", "|", ">", "\t", "0x", "0o7", "1e9", "~", "<<: ", "%", "%YAML 1.1\n", "@", "\\U", "FFFFFFFF", "---\n",
          "...\n", "? ", "2001-01-01", "99", "-", ".", "_", "=", "é", "\ufeff", "\x00", "\x85", "\r"]  # fmt: skip


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("params") / "p.yaml"


@QUICK
@given(text=st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=20))
def test_any_text(scratch: Path, text: str) -> None:
    scratch.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(PipelineError, match=re.escape(str(scratch))):
        load(scratch)


# Override.


def test_override_gives_a_copy() -> None:
    old = load(ROOT / "params.yaml")
    new = old.override({"models.dcgan.lr_g": 0.25, "compare.seeds": [1, 2], "data.limit": None})
    assert (new.models["dcgan"].lr_g, new.compare.seeds, new.data.limit) == (0.25, (1, 2), None)
    assert old.models["dcgan"].lr_g == value_of("models.dcgan.lr_g") != 0.25
    assert old.override({}) == old
    assert old.override({"models.dcgan.lr_g": 0.25}).override({"models.dcgan.lr_g": old.models["dcgan"].lr_g}) == old


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("train.stepz", "train.stepz: no such parameter; did you mean 'steps'? Choices: channels_last, "),
        ("trian.steps", "trian: no such parameter; did you mean 'train'? Choices: compare, data, "),
        ("models.dcgna.lr_g", "models.dcgna: no such parameter; did you mean 'dcgan'? Choices: "),
        ("train.steps.x", "train.steps.x: no such parameter"),
        ("compare.seeds.0", "compare.seeds.0: no such parameter"),
        ("", ": no such parameter; Choices: compare, data, generate, metrics, models, runtime, search, train"),
        ("train.", "train.: no such parameter; Choices: channels_last, "),
    ],
)
def test_override_of_what_is_not_there(name: str, sentence: str) -> None:
    with pytest.raises(PipelineError) as caught:
        load(ROOT / "params.yaml").override({name: 1})
    assert str(caught.value).startswith(sentence)


def test_override_is_validated() -> None:
    with pytest.raises(PipelineError, match=r"^params: train\.steps: must be >= 1, got 0$"):
        load(ROOT / "params.yaml").override({"train.steps": 0})


def test_sections_are_frozen() -> None:
    loaded = load(ROOT / "params.yaml")
    for section, key in ((loaded, "train"), (loaded.train, "steps"), (loaded.models["dcgan"], "lr_g")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(section, key, 1)
    assert loaded == load(ROOT / "params.yaml")


# Save, and the command.


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of params.yaml, which is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(TEXT, encoding="utf-8")
    return tmp_path


def other_value(name: str) -> Any:
    """A valid value that differs from the one in params.yaml."""
    field, now = general(name), value_of(name)
    choices: list[Any] = {
        **{f: inside for f, (inside, _) in RANGES.items()},
        **WORDS,
        **{f: good for f, (good, _) in PATTERNS.items()},
        **{f: [True, False] for f in BOOLEANS},
        **{f: ["other"] for f in TEXTS},
        "compare.models": [["dcgan"]],
        "generate.labels": LABELS,
        "compare.seeds": [[3, 4]],
        "search.final_seeds": [[3, 4]],
        "models.*.augment": [["colour", "cutout"]],
    }[field]
    return next(choice for choice in choices if choice != now)


def changed_lines(old: str, new: str) -> tuple[list[str], list[str]]:
    lines = list(difflib.ndiff(old.splitlines(True), new.splitlines(True)))
    return [x[2:] for x in lines if x.startswith("- ")], [x[2:] for x in lines if x.startswith("+ ")]


@pytest.mark.parametrize("name", [a_name(field) for field in FIELDS])
def test_save_changes_one_line(here: Path, name: str) -> None:
    value = other_value(name)
    saved = save({name: value})
    removed, added = changed_lines(TEXT, Path("params.yaml").read_text(encoding="utf-8"))
    assert len(removed) == len(added) == 1, (removed, added)
    assert removed[0].split(":")[0] == added[0].split(":")[0]  # the key and its indentation
    assert removed[0].partition("#")[2] == added[0].partition("#")[2]  # the comment
    assert saved == load() == parse(changed(name, value), "file")


@pytest.mark.parametrize(
    "text", ["off", "null", "2e-4", "1", "a: b # c", "", " x ", "é", "a\nb", "'", "~/x", "x" * 300]
)
def test_save_quotes_texts_that_yaml_would_misread(here: Path, text: str) -> None:
    save({"data.root": text})
    assert load().data.root == text


def test_save_folds_no_line_and_keeps_quotes(here: Path) -> None:
    long = f"/data/{'a folder with spaces ' * 10}end"
    text = re.sub(r"  root: \S+", lambda _: f'  root: "{long}"', TEXT, count=1)
    Path("params.yaml").write_text(text, encoding="utf-8")
    save({"train.steps": 77})
    assert f'  root: "{long}" ' in Path("params.yaml").read_text(encoding="utf-8")
    assert len(Path("params.yaml").read_text(encoding="utf-8").splitlines()) == len(TEXT.splitlines())


def test_save_without_a_change_changes_nothing(here: Path) -> None:
    save({})
    assert Path("params.yaml").read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_save_keeps_the_layout_of_presets(here: Path, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    Path("params.yaml").write_text(text, encoding="utf-8")
    save({"train.steps": 77})
    removed, added = changed_lines(text, Path("params.yaml").read_text(encoding="utf-8"))
    assert len(removed) == len(added) == 1 and added[0].startswith("  steps: 77 ")


@pytest.mark.parametrize(
    "changes", [{"train.steps": 0}, {"train.stepz": 1}, {"train": 5}, {"train.steps": 9, "data.seed": -1}]
)
def test_nothing_is_written_when_invalid(here: Path, changes: dict[str, Any]) -> None:
    before = Path("params.yaml").stat()
    with pytest.raises(PipelineError):
        save(changes)
    assert Path("params.yaml").read_text(encoding="utf-8") == TEXT
    assert (Path("params.yaml").stat().st_ino, Path("params.yaml").stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_save_never_changes_more_than_it_says(here: Path) -> None:
    """An alias makes two models one: either only one changes, or the change is refused and nothing is written."""
    head, rest = TEXT.split("  sagan:\n", 1)
    tail = rest[rest.index("\ncompare:") :]
    text = head.replace("  dcgan:\n", "  dcgan: &same\n") + "  sagan: *same\n  resnet: *same\n" + tail
    Path("params.yaml").write_text(text, encoding="utf-8")
    before = load()
    try:
        saved = save({"models.resnet.width_g": 7})
    except PipelineError:
        assert load() == before
    else:
        assert load() == saved
        assert (saved.models["dcgan"].width_g, saved.models["resnet"].width_g) == (before.models["dcgan"].width_g, 7)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command's exit status, output and error output."""
    code = 0
    try:
        params.main(list(arguments))
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


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["train.steps"], "train.steps: write it as name=value, for example train.steps=500\n"),
        (["train.steps="], "params: train.steps: must be a whole number, got None\n"),
        (["train.steps=many"], "params: train.steps: must be a whole number, got 'many'\n"),
        (["=5"], ": no such parameter; Choices: compare, data, generate, metrics, models, runtime, search, train\n"),
        (["train.steps=["], "train.steps: line 1, column 2: expected the node content, but found '<stream end>'\n"),
        (["train.steps=5", "x.y=1"], "x: no such parameter; Choices: compare, "),
        (["train=5"], "params: train: must be a section of `key: value` lines, got 5\n"),
        (["data.root=!!bool x"], "data.root: not valid YAML ("),
        ([f"train.steps=0x{'f' * 5000}"], "params: train.steps: "),
    ],
)
def test_bad_assignments(here: Path, capsys: pytest.CaptureFixture[str], assignments: list[str], sentence: str) -> None:
    code, out, error = run(capsys, "set", *assignments)
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {sentence}") and error.count("\n") == 1
    assert Path("params.yaml").read_text(encoding="utf-8") == TEXT


def test_bad_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["set"], ["use"], ["nonsense"]):
        code, out, error = run(capsys, *arguments)
        assert (code, out) == (2, "") and "usage: python -m pipeline.params" in error
    Path("params.yaml").unlink()
    assert run(capsys, "set", "train.steps=4") == (
        2,
        "",
        "error: params.yaml cannot be read (No such file or directory): run from the repository's root\n",
    )


@pytest.fixture
def preset() -> Path:
    return next(path for path in PRESETS if path.read_text(encoding="utf-8") != TEXT)


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
    assert error.startswith(f"error: {name}: no such preset; ") and error.endswith(
        f"Choices: {', '.join(path.stem for path in PRESETS)}\n"
    )
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_use_of_a_broken_preset(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "presets").mkdir()
    (here / "presets" / "bad.yaml").write_text(re.sub(r"  steps: \d+", "  steps: 0", TEXT, count=1))
    monkeypatch.setattr(params, "PRESETS", here / "presets")
    code, out, error = run(capsys, "use", "bad")
    assert (code, out) == (2, "")
    assert error == f"error: {here / 'presets' / 'bad.yaml'}: train.steps: must be >= 1, got 0\n"
    assert Path("params.yaml").read_text(encoding="utf-8") == TEXT


# Presets.


def test_there_are_presets() -> None:
    assert PRESETS


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_sound_and_complete(path: Path) -> None:
    check.validate(load(path))
    tree = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    assert list(tree) == list(TREE)  # the order too, so that a difference reads well
    for section in set(TREE) - {"models"}:
        assert list(tree[section]) == list(TREE[section])
    fields = list(TREE["models"]["dcgan"])
    assert all(list(recipe) == fields for recipe in tree["models"].values())
    assert set(tree["compare"]["models"]) <= set(tree["models"])


def test_params_yaml_is_the_preset_digits() -> None:
    path = ROOT / "presets" / "digits.yaml"
    if path.exists():
        assert path.read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_nan_stays_out_of_the_tables_by_comparison() -> None:
    """NaN is unequal to itself; the tables above must hold it for every fraction, by its own test."""
    for field, (inside, outside) in RANGES.items():
        if any(isinstance(value, float) for value in inside):
            assert any(isinstance(value, float) and math.isnan(value) for value in outside), field
