"""Files that must hold something: JSON with keys, CSV with columns. What is wrong is said in one sentence."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.errors import PipelineError
from pipeline.core.files import read_json


def read_keys(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON file that must hold an object with `keys`."""
    value = read_json(path)
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise PipelineError(f"{path} lacks {', '.join(missing)}: run `dvc repro`, which makes it anew")
    return value


def finite_numbers(path: Path, mapping: Any) -> dict[str, float]:
    """The numbers of an object in the JSON file `path`, which must all be finite; what is no number is left out."""
    items = mapping.items() if isinstance(mapping, dict) else []
    numbers = {k: float(v) for k, v in items if isinstance(v, int | float) and not isinstance(v, bool)}
    if not all(map(math.isfinite, numbers.values())):
        raise PipelineError(f"{path} holds values that are not finite numbers: delete it and run `dvc repro` again")
    return numbers


def read_csv(path: Path, columns: tuple[str, ...], may_be_empty: bool = False) -> pd.DataFrame:
    """A CSV file that must hold numbers in `columns`."""
    frame = _attempt(path, lambda: pd.read_csv(path))
    if frame.empty and may_be_empty:
        return pd.DataFrame(columns=list(columns), dtype=float)
    if not set(columns) <= set(frame.columns):
        raise PipelineError(f"{path} lacks columns of {', '.join(columns)}: delete it and run `dvc repro` again")
    return _attempt(path, lambda: frame[list(columns)].astype(float))


def _attempt(path: Path, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    try:
        return read()
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except ValueError as error:
        raise PipelineError(f"{path} is not valid CSV ({error}): delete it and run `dvc repro` again") from None
