"""Warnings that are said once in a process."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)
warned: set[tuple[str, str]] = set()


def warn_once(where: Path | str, what: str, message: str) -> None:
    """Log the message, unless this process has said that of the same place."""
    if (str(where), what) not in warned:
        warned.add((str(where), what))
        logger.warning(message)
