"""The local file in which everything for MLflow is kept until it is sent, and after. It knows nothing of MLflow."""

import contextlib
import itertools
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.paths import root

ENTRY = {"kind", "key", "step", "value", "time"}
STEPPED = ("metric", "image")  # kinds of which each step has its own
BATCH = {"metric": 1000, "param": 100, "tag": 100}  # the most that one request takes; other kinds go one by one


class Outbox:
    """The file of entries, one JSON object a line, in the order in which they were logged."""

    def __init__(self, folder: Path, experiment: str, run_name: str, parent: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._end, self._waiting = folder / "outbox.jsonl", 0, b""
        self._path.touch()
        self._values: dict[tuple[str, str, int], Any] = {}
        self._former: dict[tuple[str, str, int], Any] = {}
        for entry, end in read(self._path):
            self._remember(entry)
            self._end = end
        os.truncate(self._path, self._end)  # a kill can tear the last line
        if first(folder) is None:
            header = {"name": run_name, "id": uuid.uuid4().hex}
            place = _place(parent, folder) if parent else ""
            self.add("run", experiment, header | ({"parent": place} if place else {}), 0)

    def holds(self, kind: str, key: str) -> bool:
        return (kind, key, 0) in self._values

    def add(self, kind: str, key: str, value: Any, step: int) -> None:
        """Append an entry, unless it is there already, be it with another value where values do not change.

        The entry "back" says that a run has gone back to the step that is its value: what is logged of later steps from
        then on is appended, unless it is what had been logged before.

        Raises:
            OSError: the disk refuses it; it is kept and appended before the next one.
        """
        known = self._values.get((kind, key, step))
        if known is None and self._former.get((kind, key, step)) == value:
            return
        if known == value or (known is not None and kind in (*STEPPED, "param", "back")):
            return
        entry = {"kind": kind, "key": key, "step": step, "value": value, "time": time.time_ns() // 1_000_000}
        self._remember(entry)
        self._waiting += json.dumps(entry).encode() + b"\n"
        with open(self._path, "ab", buffering=0) as file:
            if file.write(self._waiting) != len(self._waiting):
                file.truncate(self._end)
                raise OSError("the disk is full")
        self._end, self._waiting = self._end + len(self._waiting), b""

    def _remember(self, entry: dict[str, Any]) -> None:
        self._values[entry["kind"], entry["key"], entry["step"]] = entry["value"]
        if entry["kind"] == "back":
            later = [at for at in self._values if at[0] in STEPPED and at[2] > entry["value"]]
            self._former |= {at: self._values.pop(at) for at in later}


def _place(parent: Path, folder: Path) -> str:
    """What finds `parent` from `folder`: relative within .work/, which can move; "" where they are the same folder."""
    work, above, here = (os.path.realpath(path) for path in (root() / ".work", parent, folder))
    inside = all(Path(path).is_relative_to(work) for path in (above, here))
    return "" if above == here else os.path.relpath(above, here) if inside else above


def first(folder: Path) -> dict[str, Any] | None:
    """The entry that heads the spool in `folder`: experiment, name, mark, and the parent if there is one.

    None where there is none, as in an empty spool. Where it was damaged, another stands further below.
    """
    return next((entry for entry, _ in read(folder / "outbox.jsonl") if entry["kind"] == "run"), None)


def read(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The entries of a spool from byte `start` on, each with the byte at which it ends; damaged lines are left out.

    A last line without its end may still be being written.
    """
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.keys() >= ENTRY:
                yield entry, start


def ends_a_line(path: Path, place: int) -> bool:
    """Whether a line ends at byte `place`, as it does where an entry ends, but not if the file was cut since."""
    with open(path, "rb") as file:
        file.seek(max(0, place - 1))
        return place == 0 or file.read(1) == b"\n"


def groups(path: Path, start: int, stop: int, kinds: set[str]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The entries of `kinds` between two bytes in groups that one request can take, each with the byte at its end."""
    whole = itertools.takewhile(lambda pair: pair[1] <= stop, read(path, start))
    wanted = ((entry, end) for entry, end in whole if entry["kind"] in kinds)
    for kind, run in itertools.groupby(wanted, lambda pair: pair[0]["kind"]):
        while chunk := list(itertools.islice(run, BATCH.get(kind, 1))):
            yield [entry for entry, _ in chunk], chunk[-1][1]


@contextlib.contextmanager
def lock(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock file; False if it is taken and we do not wait. Where there are no such locks, all goes without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        taken = False
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (ImportError, OSError) as error:
            taken = isinstance(error, BlockingIOError)
        yield not taken
