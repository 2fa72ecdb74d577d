"""Progress of long work: a bar in a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from pipeline.core.errors import log_line

LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Log:
    """stderr without the carriage returns and blanks with which a bar overwrites itself."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log_line(line)

    def flush(self) -> None:
        """Nothing to do: `log_line` flushes each line."""


def progress(items: Iterable[Any] | None, title: str, total: int, unit: str, done: int = 0) -> "tqdm[Any]":
    """Wrap `items`, or with None make a bar to `update` by hand; `done` of `total` are already finished."""
    options: dict[str, Any] = {"desc": title, "total": total, "unit": unit, "initial": done}
    if not sys.stderr.isatty():
        options |= {"file": _Log(), "mininterval": 15, "maxinterval": 60, "bar_format": LOG_FORMAT, "ncols": 120}
    return tqdm(items, **options)
