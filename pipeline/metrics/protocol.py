"""What a number must say of how it was measured: the protocol."""

import hashlib
from pathlib import Path
from typing import Any


def code_version() -> str:
    """16 hexadecimal digits that change with any code of this package: with what may change a number."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def protocol_of(extractor: dict[str, Any]) -> dict[str, Any]:
    """What every number says, whatever the two sets: the extractor's own protocol, quantisation, and the code."""
    return {**extractor, "quantisation": "uint8", "code_version": code_version()}
