"""One table of all trainings, with a line each: drawn again in its place in a terminal, now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.core.errors import log_line
from pipeline.core.tables import table

LOG_EVERY = 60.0  # seconds between two tables in a log, unless a training starts or ends
WAITING, STARTING, TRAINING, FINISHED, FAILED, STOPPED = (
    "waiting", "starting", "training", "finished", "failed", "stopped"
)  # fmt: skip
HEADS = ("leg", "state", "step", "images/s", "distance")


@dataclass(frozen=True)
class Row:
    """A training as the table shows it; None = not known yet. speed: real images a second."""

    name: str
    state: str
    step: int
    steps: int
    speed: float | None = None
    distance: str | None = None

    def cells(self) -> tuple[str, ...]:
        speed = "" if self.speed is None else f"{self.speed:,.0f}"
        return self.name, self.state, f"{self.step:,}/{self.steps:,}", speed, self.distance or ""


class ProgressTable:
    """Shows rows on stderr, and lines that stay above them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lines, self._shown = clock, 0, -LOG_EVERY
        self._states: list[str] = []

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._erase()
        log_line(line)

    def show(self, rows: Sequence[Row], last: bool = False) -> None:
        """Show the rows as they are now; the `last` ones stay."""
        states, now = [row.state if row.state != STARTING else TRAINING for row in rows], self._clock()
        terminal = sys.stderr.isatty()
        due = now - self._shown >= (1.0 if terminal else LOG_EVERY)
        if not (due or last or states != self._states or (terminal and not self._lines)):
            return
        self._erase()
        text = table([HEADS, *(row.cells() for row in rows)])
        log_line(text)
        self._lines = len(text.splitlines()) if terminal and not last else 0
        self._states, self._shown = states, now

    def _erase(self) -> None:
        if self._lines:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"\x1b[{self._lines}F\x1b[J")  # to the table's first line, and clear from there on
            self._lines = 0
