"""The structure: import order, the code that each stage of dvc.yaml names, size, documentation, nothing unsafe."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "pipeline"
FILES = sorted(SOURCE.rglob("*.py"))
DVC: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# What a stage imports and need not name: it can refuse, or report to MLflow, but shapes nothing that is written.
SHAPES_NOTHING = {"pipeline.check", "pipeline.tracking"}
# Entry points: `python -m` finds them by these names; what they start stands further down.
ENTRY_POINTS = {"pipeline.metrics.__main__", "pipeline.params.__main__", "pipeline.warm_start", "pipeline.cli"}
# Sections of params.yaml of which nothing changes a result.
UNDECLARED_SECTIONS = {"runtime"}
UNDOCUMENTED = {"main", "forward"}  # the module's docstring and the network's class say it


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def unit_of(module: str) -> str:
    """A package counts as one: pipeline.models.layers -> pipeline.models."""
    return ".".join(module.split(".")[:2])


def imports_of(tree: ast.AST) -> set[str]:
    """The modules of the pipeline that are imported anywhere in `tree`, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= set(MODULES) else names | {node.module or ""}
    return found & set(MODULES)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(imports_of(tree_of(MODULES[module])) - {module, "pipeline"})


def parents_of(module: str) -> list[str]:
    """The packages whose __init__ runs when `module` is imported: pipeline.models.layers -> [pipeline.models]."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(2, len(parts))]


def closure_of(module: str) -> set[str]:
    """All modules that run when `module` is imported, but those that shape nothing and what only they import."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        here = waiting.pop()
        if here not in reached and unit_of(here) not in SHAPES_NOTHING:
            reached.add(here)
            waiting += [*imported(here), *parents_of(here)]
    return reached


def expected_deps(stage: str) -> list[str]:
    """The code that dvc.yaml must name for `stage`: folders for packages, and the stage's own two files."""
    deps = set()
    for module in closure_of(f"pipeline.stages.{stage}"):
        unit = unit_of(module)
        whole = unit != "pipeline.stages" and MODULES[unit].name == "__init__.py"
        deps.add(unit.replace(".", "/") if whole else str(MODULES[module].relative_to(ROOT)))
    return sorted(deps)


def the_map() -> list[str]:
    """The names of the map in pipeline/__init__.py, in order; a slash at the end says that it is a package."""
    text = ast.get_docstring(tree_of(SOURCE / "__init__.py")) or ""
    return [line.split()[0] for line in text.splitlines() if "  " in line]  # columns: a name, then what it is


MAP = [f"pipeline.{name.rstrip('/')}" for name in the_map()]


# Import order.


def test_the_map_names_every_module_once() -> None:
    units = {unit_of(module) for module in MODULES} - {"pipeline"}
    assert 10 < len(MAP) <= 20 and all(re.fullmatch(r"pipeline\.[a-z_]+", name) for name in MAP), MAP
    assert sorted(set(MAP)) == sorted(MAP)
    assert set(MAP) == units, f"lacking: {sorted(units - set(MAP))}, not there: {sorted(set(MAP) - units)}"


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"pipeline"}))
def test_a_module_imports_only_what_stands_above_it(module: str) -> None:
    unit = unit_of(module)
    if module in ENTRY_POINTS:
        return
    if unit not in MAP:
        pytest.fail(f"{unit} is not in the map of pipeline/__init__.py")
    allowed = {*MAP[: MAP.index(unit)], unit}
    wrong = {name for name in imported(module) if unit_of(name) not in allowed}
    assert not wrong, f"{module} imports {sorted(wrong)}, which stand below {unit} in pipeline/__init__.py"


def test_the_package_itself_imports_only_the_standard_library() -> None:
    """It runs first, whatever is imported, and says what the imports after it meet."""
    top = [ast.unparse(node) for node in tree_of(SOURCE / "__init__.py").body if "import" in ast.unparse(node)[:6]]
    assert top[:2] == ["import signal", "import sys"] and not imported("pipeline")


def test_there_are_no_cycles() -> None:
    graph = {module: imported(module) for module in MODULES}
    assert sorted(TopologicalSorter(graph).static_order()) == sorted(MODULES)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pipeline.data.prepared", {"pipeline.data.prepared"}),
        ("import pipeline.data.prepared as d, os", {"pipeline.data.prepared"}),
        ("from pipeline import data, check", {"pipeline.data", "pipeline.check"}),
        ("from pipeline.models import layers", {"pipeline.models.layers"}),
        ("from pipeline.models import layers, NETWORKS", {"pipeline.models", "pipeline.models.layers"}),
        ("def f():\n    if 1:\n        from pipeline.data.prepared import batch", {"pipeline.data.prepared"}),
        ("import os\nfrom pathlib import Path", set()),
    ],
)
def test_imports_are_found(code: str, found: set[str]) -> None:
    assert imports_of(ast.parse(code)) == found


# dvc.yaml.


def code_deps(stage: str) -> list[str]:
    return [str(dep) for dep in DVC[stage]["deps"] if str(dep).split("/")[0] == "pipeline"]


def test_every_stage_has_a_module_and_the_other_way_round() -> None:
    modules = {module.split(".")[-1] for module in MODULES if module.startswith("pipeline.stages.")}
    assert set(DVC) == modules
    for stage, content in DVC.items():
        assert content["cmd"] == f"exec python -m pipeline.stages.{stage}"  # no value of params.yaml: a shell reads it


STAGES = [stage for stage in DVC if stage != "check"]  # which depends on params.yaml alone, and shapes nothing


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_code_that_shapes_it(stage: str) -> None:
    """DVC does not follow imports: what is not named can change without the stage running again."""
    expected, named = expected_deps(stage), code_deps(stage)
    paste = "\n".join(f"      - {dep}" for dep in expected)
    assert sorted(named) == expected, f"the code that {stage} depends on:\n{paste}"
    assert all((ROOT / dep).exists() for dep in named)


def test_the_closure_by_hand() -> None:
    """Facts that can be read off the files: what prepare needs and does not."""
    assert expected_deps("prepare") == ["pipeline/core", "pipeline/data", "pipeline/params",
        "pipeline/stages/__init__.py", "pipeline/stages/prepare.py"]  # fmt: skip
    assert {"pipeline/models", "pipeline/metrics", "pipeline/gan", "pipeline/training"} <= set(expected_deps("train"))
    assert "pipeline/report" in expected_deps("report") and "pipeline/evaluate" not in expected_deps("train")
    assert all(dep != "pipeline/__init__.py" for stage in DVC for dep in expected_deps(stage))


def test_dvc_yaml_is_short() -> None:
    assert sum(len(code_deps(stage)) for stage in DVC) <= 50
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < 150


def test_what_shapes_nothing_exists() -> None:
    assert set(MODULES) >= SHAPES_NOTHING | ENTRY_POINTS


def sections_read(function: ast.AST) -> set[str]:
    """The X of every `params.X` in `function`."""
    return {
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }


def functions_given_params(tree: ast.AST) -> set[str]:
    """The functions to which the whole `params` is handed."""
    return {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        and any(isinstance(argument, ast.Name) and argument.id == "params" for argument in node.args)
    }  # fmt: skip


def sections_of(stage: str) -> set[str]:
    """The sections that a stage's file reads, and the functions (not classes) to which it hands its params."""
    functions = {node.name: node for path in FILES for node in tree_of(path).body if isinstance(node, ast.FunctionDef)}
    main = tree_of(SOURCE / "stages" / f"{stage}.py")
    found, seen = sections_read(main), set()
    waiting = functions_given_params(main)
    while waiting:
        name = waiting.pop()
        if name in functions and name not in seen:
            seen.add(name)
            found |= sections_read(functions[name])
            waiting |= functions_given_params(functions[name])
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_params_that_it_reads(stage: str) -> None:
    declared = {name.split(".")[0] for name in DVC[stage]["params"]}
    assert sections_of(stage) - UNDECLARED_SECTIONS <= declared


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_ends_with_a_look_at_the_params_that_it_declares(stage: str) -> None:
    main = tree_of(SOURCE / "stages" / f"{stage}.py")
    calls = [node for node in ast.walk(main) if isinstance(node, ast.Call) and ast.unparse(node.func) == "finish"]
    names = {ast.unparse(argument).strip("'") for argument in calls[0].args[1:]}
    told = {"models.${item.model}" if name == "own" else name for name in names}
    assert told == set(DVC[stage]["params"])


def test_sections_are_found() -> None:
    assert sections_of("prepare") == {"data"}
    assert sections_of("generate") == {"generate", "runtime"}
    assert {"metrics", "generate"} <= sections_of("fid")
    assert sections_of("report") == {"compare", "metrics", "generate", "runtime"}


# Size and documentation.


def functions_of(node: ast.AST, public: bool = True) -> Iterator[tuple[ast.FunctionDef, bool]]:
    """Every function and method, and whether it is public: nothing private or local on the way to it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            here = public and not child.name.startswith("_")
            yield child, here  # type: ignore[misc]
            yield from functions_of(child, False)
        elif isinstance(child, ast.ClassDef):
            yield from functions_of(child, public and not child.name.startswith("_"))
        else:
            yield from functions_of(child, public)


def style_faults(code: str) -> list[str]:
    """Public functions without types, long ones without a docstring, functions above 60 lines, no module docstring."""
    tree = ast.parse(code)
    faults = [] if ast.get_docstring(tree) else ["module: no docstring"]
    for function, public in functions_of(tree):
        arguments = function.args
        plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        plain += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
        untyped = [a.arg for a in plain if a.annotation is None and a.arg not in ("self", "cls")]
        lines = (function.end_lineno or 0) - function.lineno + 1
        if public and (untyped or function.returns is None):
            faults.append(f"{function.name}: no types for {untyped or 'its result'}")
        if public and lines > 6 and not ast.get_docstring(function) and function.name not in UNDOCUMENTED:
            faults.append(f"{function.name}: no docstring")
        if lines > 60:
            faults.append(f"{function.name}: {lines} lines, more than 60")
    return faults


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_functions_are_typed_documented_and_short(path: Path) -> None:
    assert style_faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("def f() -> None: ...", ["module: no docstring"]),
        ('"""D."""\ndef f(a) -> None: ...', ["f: no types for ['a']"]),
        ('"""D."""\ndef f(a: int): ...', ["f: no types for its result"]),
        ('"""D."""\ndef f(*a, **b) -> None: ...', ["f: no types for ['a', 'b']"]),
        ('"""D."""\nclass A:\n    def f(self, a): ...', ["f: no types for ['a']"]),
        ('"""D."""\nclass _A:\n    def f(self, a): ...', []),
        ('"""D."""\ndef _f(a): ...', []),
        ('"""D."""\ndef f() -> None:\n' + "    a = 1\n" * 6, ["f: no docstring"]),
        ('"""D."""\ndef f() -> None:\n' + "    a = 1\n" * 5, []),
        ('"""D."""\ndef _f() -> None:\n' + "    a = 1\n" * 60, ["_f: 61 lines, more than 60"]),
        ('"""D."""\ndef _f() -> None:\n' + "    a = 1\n" * 59, []),
    ],
)
def test_style_faults_are_found(code: str, faults: list[str]) -> None:
    assert style_faults(code) == faults


# Nothing that executes what it reads.


def unsafe(code: str) -> list[str]:
    """Uses of what executes code or text that came from outside."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
            found += [f"import {name}" for name in names if name.split(".")[0] in banned]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in ("eval", "exec", "compile", "__import__", "os.system", "yaml.unsafe_load"):
                found.append(f"{called}()")
            if called.endswith("torch.load") and options.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if options.get("weights_only", "True") != "True" and not called.endswith("torch.load"):
                found.append("weights_only")
            if options.get("allow_pickle", "False") != "False":
                found.append("allow_pickle")
            if options.get("shell", "False") != "False":
                found.append("shell")
            if called == "YAML" and options.get("typ", "'rt'") not in ("'rt'", "'safe'"):
                found.append("unsafe YAML")
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_read_is_executed(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", ["import pickle"]),
        ("from pickle import loads", ["import pickle"]),
        ("import yaml", ["import yaml"]),
        ("from ruamel.yaml import YAML", []),
        ("eval('1')", ["eval()"]),
        ("model.eval()", []),
        ("exec(x)", ["exec()"]),
        ("np.load(p, allow_pickle=True)", ["allow_pickle"]),
        ("np.load(p, allow_pickle=False)", []),
        ("torch.load(p)", ["torch.load without weights_only=True"]),
        ("torch.load(p, weights_only=False)", ["torch.load without weights_only=True"]),
        ("torch.load(p, weights_only=True)", []),
        ("load(p, weights_only=False)", ["weights_only"]),
        ("subprocess.run(x, shell=True)", ["shell"]),
        ("YAML(typ='unsafe')", ["unsafe YAML"]),
        ("YAML(typ='safe')", []),
    ],
)
def test_unsafe_code_is_found(code: str, found: list[str]) -> None:
    assert unsafe(code) == found


def test_requirements_are_what_is_imported() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {re.split("[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[\w.-]+>=[\d.]+,<\d+", line) for line in lines if not line.startswith("#"))
    names = {"pillow": "PIL", "scikit-learn": "sklearn", "ruamel.yaml": "ruamel", "grpcio": "grpc"}
    imported = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported |= {str(module).split(".")[0] for module in modules}
    foreign = imported - set(sys.stdlib_module_names) - {"pipeline"}
    behind = {"cmaes"}  # what Optuna imports for us
    extra = {"gradio", "fastapi", "starlette", "uvicorn"}  # gradio, which `gan play` asks for, and what it stands on
    assert foreign - extra == {names.get(name, name.replace("-", "_")) for name in required - behind}
