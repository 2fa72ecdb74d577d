"""The outbox: a local file that keeps every entry for MLflow, before and after it is sent. Knows nothing of MLflow."""

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

ENTRY_KEYS = {"kind", "key", "step", "value", "time"}
STEPPED = ("metric", "image")  # kinds with one entry per step
BATCH = {"metric": 1000, "param": 100, "tag": 100}  # the most that MLflow takes in a request; other kinds go singly

EntryId = tuple[str, str, int]  # kind, key, step


class Outbox:
    """The file of entries, one JSON object per line, in the order in which they were logged."""

    def __init__(self, folder: Path, experiment: str, run_name: str, parent: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "outbox.jsonl"
        self._path.touch()
        self._end = 0  # bytes of whole, readable entries
        self._unwritten = b""  # what a full disk refused
        self._values: dict[EntryId, Any] = {}
        self._before_rollback: dict[EntryId, Any] = {}
        for entry, end in read_entries(self._path):
            self._remember(entry)
            self._end = end
        os.truncate(self._path, self._end)  # a kill can tear the last line
        if read_header(folder) is None:
            header = {"name": run_name, "id": uuid.uuid4().hex}
            place = _parent_path(parent, folder) if parent else ""
            self.add("run", experiment, header | ({"parent": place} if place else {}), 0)

    def holds(self, kind: str, key: str) -> bool:
        return (kind, key, 0) in self._values

    def add(self, kind: str, key: str, value: Any, step: int) -> bool:
        """Append an entry unless the outbox has it; returns whether it was new.

        Metrics, images and params keep the value that was logged first.

        An entry of kind "rollback" says that training went back to the step that is its value. Later steps can then be
        logged a second time; a value that equals the one from before the rollback is not repeated.

        Raises:
            OSError: the disk refuses the entry. It is kept in memory and written before the next one.
        """
        known = self._values.get((kind, key, step))
        if known is None and self._before_rollback.get((kind, key, step)) == value:
            return False
        if known == value or (known is not None and kind in (*STEPPED, "param", "rollback")):
            return False
        entry = {"kind": kind, "key": key, "step": step, "value": value, "time": time.time_ns() // 1_000_000}
        self._remember(entry)
        self._unwritten += json.dumps(entry).encode() + b"\n"
        with open(self._path, "ab", buffering=0) as file:
            if file.write(self._unwritten) != len(self._unwritten):
                file.truncate(self._end)
                raise OSError("the disk is full")
        self._end += len(self._unwritten)
        self._unwritten = b""
        return True

    def _remember(self, entry: dict[str, Any]) -> None:
        self._values[entry["kind"], entry["key"], entry["step"]] = entry["value"]
        if entry["kind"] == "rollback":
            later = [place for place in self._values if place[0] in STEPPED and place[2] > entry["value"]]
            self._before_rollback |= {place: self._values.pop(place) for place in later}


def _parent_path(parent: Path, folder: Path) -> str:
    """The path of `parent` as stored in `folder`; "" if they are the same folder.

    It is relative if both are within .work/, which can be moved, and else absolute.
    """
    work, above, here = (os.path.realpath(path) for path in (root() / ".work", parent, folder))
    if above == here:
        return ""
    both_inside = all(Path(path).is_relative_to(work) for path in (above, here))
    return os.path.relpath(above, here) if both_inside else above


def read_header(folder: Path) -> dict[str, Any] | None:
    """The header of the outbox in `folder`: experiment, run name, the id for the run tag, and a parent if there is one.

    None if the outbox is empty. If the first header was damaged, a second one stands further below.
    """
    return next((entry for entry, _ in read_entries(folder / "outbox.jsonl") if entry["kind"] == "run"), None)


def read_entries(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The entries of an outbox from byte `start` on, each with the byte at which it ends; damaged lines are left out.

    A last line without a line end may still be being written, so it is left out too.
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
            if isinstance(entry, dict) and entry.keys() >= ENTRY_KEYS:
                yield entry, start


def ends_a_line(path: Path, position: int) -> bool:
    """Whether byte `position` is the end of a line, as every entry's end is. If not, the file was cut since."""
    with open(path, "rb") as file:
        file.seek(max(0, position - 1))
        return position == 0 or file.read(1) == b"\n"


def requests(path: Path, start: int, stop: int, kinds: set[str]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The entries of `kinds` between two bytes, grouped as one request can take them, each group with its last byte."""
    whole = itertools.takewhile(lambda pair: pair[1] <= stop, read_entries(path, start))
    wanted = ((entry, end) for entry, end in whole if entry["kind"] in kinds)
    for kind, run in itertools.groupby(wanted, lambda pair: pair[0]["kind"]):
        while chunk := list(itertools.islice(run, BATCH.get(kind, 1))):
            yield [entry for entry, _ in chunk], chunk[-1][1]


@contextlib.contextmanager
def lock(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock file. Yields False if another process holds it and `wait` is false.

    On a file system without such locks it yields True: sending twice does no harm.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        taken = False
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (ImportError, OSError) as error:
            taken = isinstance(error, BlockingIOError)
        yield not taken
