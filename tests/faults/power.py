"""A power cut, from inside the process that it hits: what is not fsynced is torn, and then comes SIGKILL."""

import os
import random
import signal
from typing import Any

ACTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}  # as Python's audit hooks name them


class PowerCut:
    """An audit hook that lists this process's acts on files in `folders`, and cuts the power before act number `at`.

    Files that were opened for writing and not fsynced since are then cut at a random length, as a disk's cache may, but
    never before what they held when they were opened to be appended to, or fsynced.
    """

    def __init__(self, folders: list[str], at: int | None, seed: int) -> None:
        self.folders, self.at, self.draws = [os.path.realpath(folder) + os.sep for folder in folders], at, seed
        self.acts: list[tuple[str, str]] = []
        self._safe: dict[str, int] = {}  # of each file that is not fsynced, the bytes that a cut leaves
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
            keeps = os.path.isfile(path) and not arguments[2] & os.O_TRUNC
            self._safe.setdefault(path, os.path.getsize(path) if keeps else 0)
            self._safe[path] *= keeps
        elif event == "os.remove":
            self._safe.pop(path, None)
        elif event == "os.rename":
            new = _path(arguments[1], -1)
            moved = [old for old in self._safe if f"{old}{os.sep}".startswith(f"{path}{os.sep}")]
            self._safe |= {new + old[len(path) :]: self._safe.pop(old) for old in moved}
        self._busy = False

    def _synced(self, descriptor: int) -> None:
        self._fsync(descriptor)
        self._safe.pop(os.readlink(f"/proc/self/fd/{descriptor}"), None)

    def _cut(self) -> None:
        draws = random.Random(self.draws)
        for path, safe in sorted(self._safe.items()):
            if os.path.isfile(path) and os.path.getsize(path) > safe:
                os.truncate(path, draws.randint(safe, os.path.getsize(path)))
        os.kill(os.getpid(), signal.SIGKILL)


def _path(path: Any, folder: int) -> str:
    """The absolute path of an act, of which the folder may be given by its descriptor."""
    if isinstance(path, int):
        return ""
    here = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else os.getcwd()
    return os.path.normpath(os.path.join(here, os.fsdecode(path)))
