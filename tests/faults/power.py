"""A power cut, from inside the process that it hits: what is not fsynced is torn, and then comes SIGKILL."""

import os
import random
import signal
from typing import Any

ACTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}  # as Python's audit hooks name them


class PowerCut:
    """An audit hook that lists this process's acts on files in `folders`, and cuts the power before act number `at`.

    Files that were opened for writing and not fsynced since are then cut at a random length, as a disk's cache may.
    """

    def __init__(self, folders: list[str], at: int | None, seed: int) -> None:
        self.folders, self.at, self.chance = [os.path.realpath(folder) + os.sep for folder in folders], at, seed
        self.acts: list[tuple[str, str]] = []
        self._unsynced: set[str] = set()
        self._busy = False
        self._fsync = os.fsync
        os.fsync = self._synced  # type: ignore[assignment]

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ACTS or self._busy:
            return
        path = _path(arguments[0], arguments[1] if event in ("os.remove", "os.rmdir") else -1)
        if not any(f"{path}{os.sep}".startswith(folder) for folder in self.folders):
            return
        self._busy = True
        if self.at == len(self.acts):
            self._cut()
        self.acts.append((event, path))
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self._unsynced.add(path)
        elif event == "os.remove":
            self._unsynced.discard(path)
        elif event == "os.rename":
            new = _path(arguments[1], -1)
            moved = {old for old in self._unsynced if f"{old}{os.sep}".startswith(f"{path}{os.sep}")}
            self._unsynced = (self._unsynced - moved) | {new + old[len(path) :] for old in moved}
        self._busy = False

    def _synced(self, descriptor: int) -> None:
        self._fsync(descriptor)
        self._unsynced.discard(os.readlink(f"/proc/self/fd/{descriptor}"))

    def _cut(self) -> None:
        chance = random.Random(self.chance)
        for path in sorted(filter(os.path.isfile, self._unsynced)):
            os.truncate(path, chance.randint(0, os.path.getsize(path)))
        os.kill(os.getpid(), signal.SIGKILL)


def _path(path: Any, folder: int) -> str:
    """The absolute path of an act, of which the folder may be given by its descriptor."""
    if isinstance(path, int):
        return ""
    here = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else os.getcwd()
    return os.path.normpath(os.path.join(here, os.fsdecode(path)))
