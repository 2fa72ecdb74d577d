"""Progress of long work: a bar in a terminal, a line now and then in a log, or a file for the process that asked."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.core.errors import log_line

LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
FILE = "PIPELINE_PROGRESS"  # the variable that names the file, for a process whose progress another one shows


class _Log:
    """stderr without the carriage returns and blanks with which a bar overwrites itself."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log_line(line)

    def flush(self) -> None:
        """Nothing to do: `log_line` flushes each line."""


class _Told(tqdm):  # type: ignore[type-arg]
    """A bar that is written to a file, about once a second: title, done, total, per_second, and all that was shown."""

    def __init__(self, *given: Any, told: Path, **options: Any) -> None:
        self._told, self._shown = told, dict[str, Any]()
        super().__init__(*given, **options)

    def set_postfix(self, ordered_dict: Mapping[str, Any] | None = None, refresh: bool | None = True, **_: Any) -> None:
        self._shown |= ordered_dict or {}

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the file anew, whole; a disk that refuses it costs the display, not the work."""
        bar = self.format_dict
        rate = bar["rate"] or (self.n - self.initial) / max(bar["elapsed"], 1e-9)
        content = {"title": self.desc, "done": self.n, "total": self.total, "per_second": rate, "shown": self._shown}
        temporary = self._told.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(content))
            os.replace(temporary, self._told)


def progress(items: Iterable[Any] | None, title: str, total: int, unit: str, done: int = 0) -> "tqdm[Any]":
    """Wrap `items`, or with None make a bar to `update` by hand; `done` of `total` are already finished."""
    options: dict[str, Any] = {"desc": title, "total": total, "unit": unit, "initial": done}
    if told := os.environ.get(FILE):
        return _Told(items, told=Path(told), file=_Log(), mininterval=1, maxinterval=5, **options)
    if not sys.stderr.isatty():
        options |= {"file": _Log(), "mininterval": 15, "maxinterval": 60, "bar_format": LOG_FORMAT, "ncols": 120}
    return tqdm(items, **options)


def read_progress(path: Path) -> dict[str, Any]:
    """What the newest bar of another process has written to its file; empty where there is nothing yet."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
