"""What a number must say of how it was measured: the protocol."""

import hashlib
from pathlib import Path


def code_version() -> str:
    """16 hexadecimal digits that change with any code of this package: with what may change a number."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
