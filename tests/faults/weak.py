"""A file system that cannot do everything, from inside the process that meets it."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any


def weaken(kind: str, number: int) -> None:
    """From now on this process's file system lacks something, and says so by this errno."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    def of(what: Callable[..., bool], act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: refuse() if what(given[0]) else act(*given, **named)

    def folder(place: Any) -> bool:
        return stat.S_ISDIR(os.stat(place).st_mode)

    fakes: dict[str, list[tuple[Any, str, Any]]] = {
        "locks": [(fcntl, "flock", refuse)],
        "fsync": [(os, "fsync", refuse)],
        "fsync of folders": [(os, "fsync", of(folder, os.fsync))],
        "modes": [(os, "chmod", _forbid), (Path, "chmod", _forbid)],
        # Of folders that were there, as a lower layer of overlayfs: a new one has a suffix.
        "renames of folders": [(os, "replace", of(lambda path: folder(path) and not Path(path).suffix, os.replace))],
        "renames": [(os, "replace", refuse), (os, "rename", refuse)],
    }
    for place, name, fake in fakes[kind]:
        setattr(place, name, fake)


def _forbid(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
