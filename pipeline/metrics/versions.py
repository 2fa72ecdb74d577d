"""Versions of metrics and extractors: hashes of the code that each of them uses, and of no other's.

A metric or an extractor is a function. What shapes its result is the program of its own file and of those files of this
package that it imports, directly or not. So a new metric, or a changed one, leaves the versions of the others alone.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.core.versions import program_of, version

PACKAGE = "pipeline.metrics"
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds `pipeline`


def version_of(function: Callable[..., object], *others: str) -> str:
    """16 hexadecimal digits that change with the code that `function` uses, and with any of the texts `others`."""
    return version(program_of(sources(function)), *others)


def sources(function: Callable[..., object]) -> list[Path]:
    """The file of `function`, and the modules of this package that it imports, and those that they import."""
    return sources_of_file(Path(inspect.getfile(inspect.unwrap(function))).resolve())


def sources_of_file(file: Path, root: Path = ROOT) -> list[Path]:
    """`file`, and the modules of this package below `root` that it imports, and those that they import, in order."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += [_file_of(name, root) for name in imported(here)]
    return sorted(found)


@functools.cache
def imported(file: Path) -> frozenset[str]:
    """The dotted names below this package that a file imports: modules, and what it takes from modules."""
    return frozenset(name for name in _names(ast.parse(file.read_bytes())) if f"{name}.".startswith(f"{PACKAGE}."))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports in this repository are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _file_of(name: str, root: Path) -> Path:
    """The file of a module or package, or of the one that a name is taken from.

    pipeline.metrics.kid and pipeline.metrics.kid.kid -> pipeline/metrics/kid.py
    pipeline.metrics.Estimate -> pipeline/metrics/__init__.py, which imports all the others
    """
    place = root.joinpath(*name.split("."))
    candidates = [file for path in (place, place.parent) for file in (path.with_suffix(".py"), path / "__init__.py")]
    return next(file for file in candidates if file.is_file())
