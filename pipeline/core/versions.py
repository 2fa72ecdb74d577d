"""Versions of code: hashes of what it does, not of its text. Comments, docstrings and layout change none of them."""

import ast
import dataclasses
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def version(*programs: str) -> str:
    """16 hexadecimal digits that change with any of these programs."""
    return hashlib.sha256("\0".join(programs).encode()).hexdigest()[:16]


def program_of(files: Iterable[Path | str]) -> str:
    """What these Python files do, whatever comments and docstrings say, in the order of their paths."""
    return "\0".join(_program(_tree(Path(file))) for file in sorted(map(str, files)))


def program_of_function(function: Callable[..., object], without: Collection[str] = ()) -> str:
    """What a function does: its own definition, and those that it needs of its own file.

    So functions that stand in one file, such as the losses, have versions of their own.

    Args:
        without: names that do not count, such as a registry of which the function takes one entry.
    """
    function = inspect.unwrap(function)
    file = sys.modules[function.__module__].__file__
    defined = _definitions(_tree(Path(str(file))))
    needed, waiting = set(), [function.__qualname__.split(".")[0]]
    while waiting:
        name = waiting.pop()
        if name in defined and name not in needed and name not in without:
            needed.add(name)
            waiting += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    return "\n".join(ast.unparse(defined[name]) for name in sorted(needed))


def program_of_entry(entry: object) -> str:
    """What an entry of a registry does: a function, or a dataclass that holds functions and plain values."""
    if dataclasses.is_dataclass(entry) and not isinstance(entry, type):
        return "\n".join(
            f"{field.name}={program_of_entry(getattr(entry, field.name))}" for field in dataclasses.fields(entry)
        )
    if isinstance(entry, functools.partial):
        return f"{program_of_entry(entry.func)}{entry.args}{sorted(entry.keywords.items())}"
    if inspect.isfunction(entry):
        return program_of_function(entry)
    return entry.__qualname__ if isinstance(entry, type) else repr(entry)


@functools.cache
def _program(tree: ast.Module) -> str:
    return ast.unparse(tree)


@functools.cache
def _tree(file: Path) -> ast.Module:
    """The syntax tree of a file without its docstrings, read once: code edited later is not what runs here."""
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """The functions, classes and constants at the top of a file by name."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id: node for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found
