"""Processes as the suite sees them: started by the fork server, timed, killed, counted when they should be gone."""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.clones import environment

PATIENCE = 300.0  # seconds that any command may take before it counts as hanging
DEFAULTS: dict[str, Any] = {
    "exec": False, "file_limit": None, "torn": False, "watched": [], "acts": "", "cut": None, "seed": 0,
    "lacks": "", "error": 0, "log": "",
}  # fmt: skip


def adopt_orphans() -> None:
    """Become the parent of what those that this process starts leave behind, and so of what a fork server forks."""
    pr_set_child_subreaper = 36
    assert ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1) == 0


class Job:
    """A running command; `code` is None until it is over, then as subprocess has it: negative for a signal."""

    def __init__(self, pid: int, command: Sequence[str], output: Path, errors: Path) -> None:
        self.pid, self.command, self._output, self._errors = pid, tuple(command), output, errors
        self.code: int | None = None
        self.started = time.monotonic()
        self.seconds = 0.0
        self._handle = os.pidfd_open(pid)

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit code, or None if it still runs after so many seconds."""
        if self.code is None and select.select([self._handle], [], [], seconds)[0]:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.seconds = time.monotonic() - self.started
            os.close(self._handle)
        return self.code

    def signal(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)

    def kill_group(self, number: int) -> None:
        """Signal it and what it started, as a terminal does for Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")


class ForkServer:
    """Starts commands in clones whose code is that of the clone `folder`."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._logs = logs
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            cwd=folder,
            env=variables(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def start(self, folder: Path, *command: str, extra: Mapping[str, str] | None = None, **options: Any) -> Job:
        """Start `python -m command...` in a folder, with `extra` environment variables, and options of DEFAULTS.

        log: another name of the two files that it writes to, for a second process beside a first.
        """
        output, errors = (self._logs / f"{name}{options.get('log', '')}" for name in ("output", "errors"))
        for path in (output, errors):
            path.unlink(missing_ok=True)  # a process that is to be gone may still write to it
        request = {**DEFAULTS, **options, "folder": str(folder), "command": command, "output": str(output)}
        request |= {"errors": str(errors), "environment": variables() | dict(extra or {})}
        assert self._process.stdin
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return Job(int(self._answer()), command, output, errors)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the fork server has died: see above"
        return line


def variables() -> dict[str, str]:
    """The environment of every command: one thread, no MLflow server, nothing of DVC's."""
    whole = {**environment(), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "120"}
    return {name: value for name, value in whole.items() if not name.startswith(("DVC_STAGE", "DVC_ROOT", "PIPELINE_"))}


def left_over(folder: Path, but: set[int], seconds: float) -> list[str]:
    """What still runs in `folder` after so many seconds, which is killed then."""
    deadline = time.monotonic() + seconds
    while (found := _inside(folder, but)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(found.values())


def _inside(folder: Path, but: set[int]) -> dict[int, str]:
    """The processes whose current folder is in `folder`, by their commands; those that are dead have none."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(entry.name) not in but and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
    return found
