"""What was found sound is not checked again: the slowest part of a check is to import what it needs.

.work/sound.json keeps a digest of everything that such a finding depends on. After any change the digest is another
one, and the check runs in full. Faults are never kept. Without the file everything is checked again.
"""

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.files import write_json

KEPT = 32  # findings: this many versions of params.yaml are remembered


def digest_of(*facts: object) -> str:
    """64 hexadecimal digits that change with any of these values, which JSON or `str` can write."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def is_known(digest: str) -> bool:
    return digest in _known()


def remember(digest: str) -> None:
    """Keep a finding; where nothing can be written, the next check is as slow as this one."""
    with contextlib.suppress(PipelineError, OSError):
        write_json(_file(), [*(one for one in _known() if one != digest), digest][-KEPT:])


def stamp(path: Path | str) -> tuple[object, ...]:
    """What changes with a file's or a folder's content: size, time of change and number; () = there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino


def installation() -> list[object]:
    """What changes with this pipeline's code, and with what is installed beside it."""
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        code.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    return [code.hexdigest(), sys.version, *((path, stamp(path)) for path in sys.path if path.endswith("-packages"))]


def _known() -> list[str]:
    try:
        known = json.loads(_file().read_bytes())
    except (OSError, ValueError):
        return []
    return known if isinstance(known, list) else []


def _file() -> Path:
    return paths.root() / ".work" / "sound.json"
