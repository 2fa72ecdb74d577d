"""Versions of code: the program counts, not its text."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.core.versions import program_of, program_of_entry, program_of_function, version

CODE = '''"""A module."""

STEP = 2


def helper(x):
    """Double it."""
    return STEP * x  # twice


def used(x):
    return helper(x) + 1


class Thing:
    """A thing."""

    def method(self):
        """Only a docstring."""


def other(x):
    return x - 1
'''


def module_of(path: Path, code: str) -> ModuleType:
    """The module in a new file with this code."""
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# twice", "# Twice!", True),
        ("Double it.", "double IT", True),
        ('"""A module."""\n', "", True),
        ('        """Only a docstring."""\n', "        pass\n", True),
        ("STEP * x", "(STEP*x)", True),
        ("\n\n\n", "\n\n", True),
        ("STEP = 2", "STEP = 3", False),
        ("x - 1", "x - 2", False),
        ("return STEP * x", 'return STEP * x or "Double it."', False),
    ],
)
def test_only_the_program_changes_a_version(tmp_path: Path, old: str, new: str, same: bool) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    assert old in CODE
    first.write_text(CODE)
    second.write_text(CODE.replace(old, new))
    assert (version(program_of([first])) == version(program_of([second]))) is same


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("x - 1", "x - 2", True),  # of a function that it does not need
        ("A thing", "a Thing", True),
        ("+ 1", "+ 2", False),  # its own code
        ("STEP * x", "STEP - x", False),  # what it calls
        ("STEP = 2", "STEP = 3", False),  # what that reads
    ],
)
def test_a_function_counts_with_what_it_needs_of_its_file(tmp_path: Path, old: str, new: str, same: bool) -> None:
    first = module_of(tmp_path / "code_first.py", CODE)
    second = module_of(tmp_path / "code_second.py", CODE.replace(old, new))
    assert (program_of_function(first.used) == program_of_function(second.used)) is same


def test_an_entry_counts_with_its_functions_and_values(tmp_path: Path) -> None:
    module = module_of(tmp_path / "code_entry.py", CODE)
    programs = {
        program_of_entry(entry)
        for entry in (
            module.used,
            module.other,
            functools.partial(module.used, 1),
            functools.partial(module.used, 2),
            functools.partial(module.used, x=2),
        )
    }
    assert len(programs) == 5
    assert program_of_entry(functools.partial(module.used, 1)) == program_of_entry(functools.partial(module.used, 1))


def test_the_order_of_files_is_that_of_their_paths(tmp_path: Path) -> None:
    files = [tmp_path / "b.py", tmp_path / "a.py"]
    for number, file in enumerate(files):
        file.write_text(f"x = {number}\n")
    assert program_of(files) == program_of(reversed(files)) == "x = 1\0x = 0"
