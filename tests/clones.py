"""A clone of the repository with tiny params, in which end-to-end tests run what a user runs."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import params

ROOT = Path(__file__).resolve().parent.parent


def hear_signals() -> None:
    """A background job of a script, and what nohup starts, has some signals ignored, and so has all that it starts."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def make_clone(folder: Path, changes: Mapping[str, Any]) -> None:
    """The repository as it would be committed now, at `folder`, and then `changes` to its params.yaml."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "clone"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)
    params.save(changes, folder / "params.yaml")


def environment() -> dict[str, str]:
    # The tests' own interpreter comes first: dvc.yaml says `python`. All have as many threads: values depend on it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "MLFLOW_TRACKING_URI": "", "DVC_NO_ANALYTICS": "1"}
    return {"OMP_NUM_THREADS": "1", **os.environ, **own}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`python -m command...` in a clone."""
    command = (sys.executable, "-m", *command)
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done
