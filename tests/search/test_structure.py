"""The three parts of pipeline/search: workers and pages import study, and nothing the other way round."""

import ast
from pathlib import Path

import pytest

SEARCH = Path(__file__).resolve().parents[2] / "pipeline" / "search"
ALLOWED = {"study": {"study"}, "workers": {"study", "workers"}, "pages": {"study", "pages"}}


def parts_imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {module.split(".")[2] for module in modules if module.startswith("pipeline.search.")}


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_it_may(part: str) -> None:
    found = {path.name: parts_imported(path) - ALLOWED[part] for path in (SEARCH / part).glob("*.py")}
    assert len(found) > 4 and {name: parts for name, parts in found.items() if parts} == {}


def test_each_part_and_its_map_name_all_that_is_in_it() -> None:
    for folder in (SEARCH, *(SEARCH / part for part in ALLOWED)):
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        listed = {line.split()[0].rstrip("/") for line in text.splitlines() if "  " in line.strip()}
        there = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
        assert listed == there - {"__init__"}
