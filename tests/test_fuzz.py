"""params.yaml and the commands that change it, mutated at random: sound params or clear sentences, and nothing else.

FUZZ_CASES=2000 python -m pytest tests/test_fuzz.py tests/test_fuzz_files.py     the long run, with new cases each time

Without FUZZ_CASES a few fixed cases are tried.
"""

import datetime
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.check import validate
from pipeline.core.errors import PipelineError
from pipeline.params import Params, load
from pipeline.params.__main__ import set_values, use
from pipeline.search.study import space

ROOT = Path(__file__).resolve().parent.parent
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
CASES = int(os.environ.get("FUZZ_CASES", "0"))


def fuzz(few: int) -> settings:
    """FUZZ_CASES new cases, or `few` fixed ones; each within 10 seconds."""
    return settings(
        max_examples=CASES or few,
        derandomize=not CASES,
        deadline=datetime.timedelta(seconds=10),
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def assert_clear(message: str) -> None:
    """One sentence a line, each short, without anything that steers a terminal, and no traceback."""
    lines = message.split("\n")
    assert len(lines) <= 200 and "Traceback" not in message and 'File "' not in message, message
    for line in lines:
        assert line.strip() and line.isprintable() and len(line) < 1500, line[:2000]


def sound(path: Path) -> Params | None:
    """The params if they can be run and each recipe searched; None if they were refused in clear sentences."""
    try:
        params = load(path)
        validate(params)
    except PipelineError as error:
        assert_clear(str(error))
        return None
    for fault in space.problems(params, min(params.models)):
        assert_clear(fault)
    return params


LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
MERGES = LAUGHS.replace("a0 [x, x]", "a0 {k: 1}").replace(" [*", " {<<: [*").replace("]", "]}")
VALUES = [
    "", "null", "~", "true", "off", "0", "-0.0", "-1", "1e-400", "1e999", ".nan", "-.inf", "9" * 400, "0x" + "f" * 5000,
    "1e308", "-1e308", "5e-324", "2147483649", "18446744073709551616", "[]", "{}", "[[]]", "[null]", "{a: 1}", "'text'",
    '"\\0"', '"\\e[2J\\e[31mred"', '"\\u202etxt"', '"\\uD800"', '"a\\nb"', "~nobody/images", "/dev/zero", "../../..",
    "x" * 5000, '"' + "y/" * 3000 + '"', "[" * 60 + "]" * 60, "{a: " * 40 + "}" * 40, "&x [*x]", "&y {k: *y}", "*none",
    "!!python/object/apply:os.system [touch executed]", "!!python/name:os.system", "!!binary aGk=", "!!timestamp x",
    "!!set {a, b}", "!!omap [a: 1]", "!<tag:x> 1", "2001-01-01", "2001-99-99", "12:30:45", "{<<: {a: 1}}", "|\n  text",
    "{low: 1, high: 0}", "{low: -1e308, high: 1e308, step: 1e-300}", "{low: 1, high: 3, step: 5e-324}",
    "{low: " + "9" * 400 + ", high: 1}", "{choices: [1, 1]}", "{choices: [a, " + "b" * 300 + "]}",
    "{choices: [" + ", ".join(map(str, range(90))) + "]}", "{choices: [" + "1, " * 5000 + "]}",
    "[" + "0, " * 3000 + "]",
    "[a, a]", "digits", "folder", "mlp", "hinge", "batch", "spectral", "gradient", "1024", "sagan@0123456789abcdef",
]  # fmt: skip
KINDS = ["value"] * 5 + ["text", "delete", "duplicate", "rename", "indent", "insert", "move"]
NAMES = ["data", "<<", "? [a]", '"\\e[1mkey"', '"a\\nb"', "x" * 3000, "models", "lr_g", "9", "null", "'<script>'", "é"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A preset with up to five changes of lines and bytes."""
    lines = draw(st.sampled_from(PRESETS)).read_text(encoding="utf-8").splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(lines) - 1))
        kind, line = draw(st.sampled_from(KINDS)), lines[at]
        if kind in ("value", "text"):
            value = draw(st.sampled_from(VALUES) if kind == "value" else st.text(max_size=20))
            lines[at] = re.sub(r":( .*)?\n", lambda _, value=value: f": {value}\n", line, count=1)
        elif kind == "rename":
            name = draw(st.sampled_from(NAMES))
            lines[at] = re.sub(r"\w+:", lambda _, name=name: f"{name}:", line, count=1)
        elif kind == "indent":
            lines[at] = draw(st.sampled_from([" ", "  ", "\t", "- "])) + line
        elif kind == "insert":
            lines[at] = line + draw(st.sampled_from([LAUGHS, MERGES, "---", "...", "%YAML 1.1", "\ufeff"])) + "\n"
        elif kind == "move":
            lines[at], lines[-1] = lines[-1], line
        else:
            lines[at] = line * 2 if kind == "duplicate" else ""
    content = "".join(lines).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.binary(max_size=6)) + content[at + draw(st.integers(0, 3000)) :]
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 9)) == 0 else content


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty current folder."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("fuzz")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.mark.slow
@fuzz(200)
@given(content=mutated())
def test_a_mutated_preset(place: Path, content: bytes) -> None:
    (place / "params.yaml").write_bytes(content)
    sound(place / "params.yaml")
    assert [path.name for path in place.iterdir()] == ["params.yaml"]  # `executed` would be made by a tag


@fuzz(100)
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(place: Path, content: bytes) -> None:
    (place / "params.yaml").write_bytes(content)
    assert sound(place / "params.yaml") is None


HUGE: dict[str, Callable[[], bytes]] = {
    "laughs": lambda: LAUGHS.encode(),
    "merges": lambda: MERGES.encode(),
    "a megabyte of lists": lambda: b"[" * 2**20,
    "a megabyte of keys": lambda: b"".join(b"k%d: 1\n" % i for i in range(2**17)),
    "a hundred thousand keys": lambda: b"".join(b"k%d: 1\n" % i for i in range(20_000)),
    "many times one recipe": lambda: _aliased("b{}: *r", 8_000),
    "many wrong items, many times": lambda: _aliased("b{}: *r", 8_000).replace(
        b"augment: []", b"augment: [" + b"1," * 20_000 + b"]", 1
    ),
    "a gigabyte": lambda: b"",
    "nested": lambda: b"- " * 50_000,
    "a long word": lambda: b"a" * 2**18,
    "a long quoted word": lambda: b'"' + b"a \n" * 2**16,
    "questions": lambda: b"? " * 50_000,
    "anchors": lambda: b"".join(b"- &a%d x\n" % i for i in range(20_000)),
    "comments": lambda: b"#\n" * 100_000,
}


def _aliased(line: str, count: int) -> bytes:
    """The first preset with `count` more recipes that are all an alias of its first."""
    text = PRESETS[0].read_text(encoding="utf-8")
    head, first = re.search(r"\nmodels:\n(?:  #.*\n)*  (\w+):", text), "\nmodels:\n"
    assert head
    more = "".join(f"  {line.format(i)}\n" for i in range(count))
    text = text.replace(f"  {head[1]}:", f"  {head[1]}: &r", 1)
    return text.replace("\ncompare:", f"\n{more}compare:", 1).replace(first, first, 1).encode()


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE)
def test_huge_files_are_refused_within_seconds(place: Path, name: str) -> None:
    path = place / "params.yaml"
    path.write_bytes(HUGE[name]())
    if name == "a gigabyte":
        with path.open("wb") as file:
            file.truncate(10**9)
    started = time.monotonic()
    assert sound(path) is None
    path.unlink()
    assert time.monotonic() - started < 10


KEYS = st.sampled_from(
    ["train.steps", "models.dcgan.lr_g", "models", "compare.models", "compare.seeds", "data.root", "search.space.lr_g",
     "search.space", "metrics.weights", "recipe", "recipe.lr_g", "recipe.augment", "models.sngan.n_critic",
     "models.gan.beta1", "generate.labels", "models.nope.lr_g", "", ".", "a\nb", "data.root.x", "x" * 99]
)  # fmt: skip


@pytest.mark.slow
@fuzz(60)
@given(pairs=st.lists(st.tuples(KEYS, st.sampled_from(VALUES) | st.text(max_size=12)), min_size=1, max_size=3))
def test_set_writes_sound_params_or_nothing(place: Path, pairs: list[tuple[str, str]]) -> None:
    shutil.copyfile(ROOT / "params.yaml", place / "params.yaml")
    before = (place / "params.yaml").read_bytes()
    try:
        set_values([f"{key}={value}" for key, value in pairs])
    except PipelineError as error:
        assert_clear(str(error))
        assert (place / "params.yaml").read_bytes() == before
    load(place / "params.yaml")
    assert [path.name for path in place.iterdir()] == ["params.yaml"]


@fuzz(60)
@given(
    name=st.sampled_from(["../params", "digits.yaml", "/etc/passwd", "", ".", "\0", "\x1b[2J"]) | st.text(max_size=9)
)
def test_use_of_any_name_writes_a_preset_or_nothing(place: Path, name: str) -> None:
    (place / "params.yaml").write_bytes(b"mine")
    try:
        use(name)
    except PipelineError as error:
        assert_clear(str(error))
        assert (place / "params.yaml").read_bytes() == b"mine"
    else:
        load(place / "params.yaml")
    for path in place.iterdir():
        path.unlink()
