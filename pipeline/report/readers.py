"""Read JSON files that must have certain keys and CSV files that must have certain columns."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.errors import PipelineError
from pipeline.core.files import read_json


def read_keys(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The object in a JSON file, which must have `keys`.

    Raises:
        PipelineError: the file is missing, is not JSON, or lacks keys.
    """
    value = read_json(path)
    content: dict[str, Any] = value if isinstance(value, dict) else {}
    missing = [key for key in keys if key not in content]
    if missing:
        raise PipelineError(f"{path} lacks {', '.join(missing)}: run `dvc repro`, which writes it again")
    return content


def finite_numbers(path: Path, mapping: Any) -> dict[str, float]:
    """The numbers in an object of the JSON file `path`; other values are left out.

    Raises:
        PipelineError: a number is nan or infinite.
    """
    items = mapping.items() if isinstance(mapping, dict) else []
    numbers = {k: float(v) for k, v in items if isinstance(v, int | float) and not isinstance(v, bool)}
    if not all(map(math.isfinite, numbers.values())):
        raise PipelineError(f"{path} holds values that are not finite numbers: delete it and run `dvc repro` again")
    return numbers


def read_csv(
    path: Path, columns: tuple[str, ...], optional_prefixes: tuple[str, ...] = (), may_be_empty: bool = False
) -> pd.DataFrame:
    """A CSV file that must hold numbers in `columns`, and in those whose names begin with one of `optional_prefixes`.

    Raises:
        PipelineError: the file is missing, is not CSV, or lacks columns.
    """
    frame = _attempt(path, lambda: pd.read_csv(path))
    if frame.empty and may_be_empty:
        return pd.DataFrame(columns=list(columns), dtype=float)
    if not set(columns) <= set(frame.columns):
        raise PipelineError(f"{path} needs the columns {', '.join(columns)}: delete it and run `dvc repro` again")
    optional = [name for name in frame.columns if name.startswith(optional_prefixes)]
    return _attempt(path, lambda: frame[[*columns, *optional]].astype(float))


def _attempt(path: Path, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    try:
        return read()
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except ValueError as error:
        raise PipelineError(f"{path} is not valid CSV ({error}): delete it and run `dvc repro` again") from None
