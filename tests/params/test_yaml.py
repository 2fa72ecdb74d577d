"""The text of params.yaml: YAML 1.2, and whatever else stands there ends in one sentence that names the file."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import PipelineError
from pipeline.params import load
from tests.params.trees import TEXT

QUICK = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def yaml_error(folder: Path, text: str | bytes) -> str:
    path = folder / "p.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PipelineError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") or message.startswith(f"{path} ")
    return message.removeprefix(str(path))


def test_yaml_is_read_as_1_2(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    text = re.sub(r"lr_g: \S+", "lr_g: 3e-5", TEXT, count=1)
    text = re.sub(r"  root: \S+", "  root: off", text, count=1)
    text = re.sub(r"  steps: \S+", "  steps: 010", text, count=1)  # octal in YAML 1.1
    path.write_text(text)
    loaded = load(path)
    assert loaded.recipe.lr_g == loaded.models["sngan"].lr_g == 3e-5
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


@pytest.mark.parametrize("sign", ["", "-", "+"])
@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("train.steps", ("must be <= 2147483648", "must be >= 1")),
        ("recipe.lr_g", ("must be a smaller number", "must be a smaller number")),
        ("data.root", ("must be a text", "must be a text")),
        ("search.seed", ("must be < 9223372036854775808", "must be >= 0")),
    ],
)
def test_a_number_of_more_digits_than_python_reads(tmp_path: Path, key: str, fault: tuple[str, str], sign: str) -> None:
    """Python says: Exceeds the limit (4300 digits) for integer string conversion."""
    section, name = key.split(".")
    number = sign + "7" * 5000
    text = re.sub(rf"(?s)(\n{section}:.*?\n  {name}:) [^ \n]+", rf"\1 {number}", TEXT, count=1)
    assert yaml_error(tmp_path, text) == f": {key}: {fault[sign == '-']}, got a huge number"
    fault_of_tag = f": not valid YAML (invalid literal for int() with base 10: '{'x' * 9}')"
    assert yaml_error(tmp_path, text.replace(number, f"!!int {'x' * 9}")) == fault_of_tag


@pytest.mark.parametrize("value", ["7" * 400, "7" * 5000, ".inf", "-.inf", ".nan"])
def test_a_dimension_of_a_search_is_of_finite_numbers(tmp_path: Path, value: str) -> None:
    text = re.sub(r"    lr_g: \{low.*", f"    lr_g: {{low: 1, high: {value}}}", TEXT, count=1)
    assert yaml_error(tmp_path, text).startswith(": search.space.lr_g.high: must be a finite number, got ")
    text = re.sub(r"    lr_g: \{low.*", f"    lr_g: {{choices: [1, {value}]}}", TEXT, count=1)
    fault = ": search.space.lr_g.choices.1: must be a finite number, a text, true, false or null, got "
    assert yaml_error(tmp_path, text).startswith(fault)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": the file: must be a section of `key: value` lines, got None"),
        ("# nothing\n", ": the file: must be a section of `key: value` lines, got None"),
        (
            "a: 1\n---\nb: 1\n",
            ": line 2, column 1: expected a single document in the stream, but found another document",
        ),
        (
            "%YAML 1.1\n---\na: 010\n",
            ": YAML 1.2 is read, in which 010 is ten and off is a word: remove the line %YAML",
        ),
        (f"{TEXT}\nnull: 1\n", ": None: a key must be a text, got None"),
        ("- a\n- b\n", ": the file: must be a section of `key: value` lines, got ['a', 'b']"),
        ("data\n", ": the file: must be a section of `key: value` lines, got 'data'"),
        ("a: 1\na: 2\n", ': line 2, column 1: found duplicate key "a" with value "2" (original value: "1")'),
        ("data:\n  a: 1\n   b: 2\n", ": line 3, column 5: mapping values are not allowed here"),
        ("a: [1\n", ": line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        ("\ta: 1\n", ": line 1, column 1: found character '\\t' that cannot start any token"),
        ("a: *b\n", ": line 1, column 4: found undefined alias 'b'"),
        ("--- 1\n--- 2\n", ": line 2, column 1: expected a single document in the stream, but found another document"),
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
     "!!python/name:os.system"],
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


@pytest.mark.slow
def test_deep_nesting(tmp_path: Path) -> None:
    assert yaml_error(tmp_path, "[" * 1500) == ": nested too deeply: no parameter has more than four levels"


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
