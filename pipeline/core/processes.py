"""Processes that one of ours starts: their share of the cores, and what became of them."""

import os

from pipeline.core.errors import printable


def threads_each(count: int) -> str:
    """Threads of each of `count` processes side by side: OMP_NUM_THREADS, where that is set, else a share of the cores.

    It does not depend on how many of them are left to start, since threads shape the bits of a result.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))


def last_words(code: int, said: str) -> str:
    """How a process ended that should not have: by which signal, else the last line that it said, without its `error:`.

    >>> last_words(-9, ""), last_words(2, "warning: a\\nerror: b\\n"), last_words(3, "")
    ('killed by signal 9', 'b', 'exit status 3')
    """
    if code < 0:
        return f"killed by signal {-code}"
    lines = [line for line in said.splitlines() if line.strip()]
    return printable(lines[-1].removeprefix("error: "), 300) if lines else f"exit status {code}"
