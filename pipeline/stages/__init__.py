"""The stages that dvc.yaml runs: each reads its inputs, calls one function, and writes its outputs.

check -> prepare -> reference -> train -> generate -> fid -> report
"""

import argparse
import ctypes
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.core.checksums import SUMS, verify_checksums
from pipeline.core.errors import STOP_SIGNALS, PipelineError, Stopped
from pipeline.core.files import sha256
from pipeline.core.seconds import note_seconds
from pipeline.params import PARAMS_FILE, Params, load

CODE = {str(path): sha256(path) for path in Path(__file__).parent.parent.rglob("*.py")}  # as it is being imported

LEG = re.compile(r"\w+@(?P<model>[a-z0-9][a-z0-9_]*)-(?P<seed>\d+)")  # what DVC calls one: train@dcgan-0

TAKEN: dict[Path, bytes] = {}  # the folders that this stage reads, and the SHA256SUMS that they had
READ: list[tuple[bytes, Params]] = []  # params.yaml as this stage began with it: to read it again takes 0.2 s


def begin(computes: bool = True) -> Params:
    """What every stage does first: tie its life to its parent's, read params.yaml, validate it, ask for determinism.

    Args:
        computes: False for a stage that only shows what others computed: it needs no torch, and leaves to the stage
            `check` what goes beyond the types and ranges of single values.
    """
    stop_by_exception()
    _die_with_parent()
    content = PARAMS_FILE.read_bytes() if PARAMS_FILE.is_file() else b""
    params = load()
    READ[:] = [(content, params)]
    if computes:
        from pipeline.check import validate
        from pipeline.core.devices import make_deterministic

        validate(params)
        make_deterministic()
    return params


def take(folder: Path, *names: str) -> None:
    """Verify an input of this stage, see `verify_checksums`, and remember it for `finish`."""
    verify_checksums(folder, *names)
    TAKEN[folder] = (folder / SUMS).read_bytes()


def finish(params: Params, *declared: str) -> None:
    """What every stage does last: see that its code, params and inputs are still those that it began with.

    How long it took is kept for `python -m pipeline.core.seconds`.

    DVC reads all three only when a stage is over. So a result would count as made by what was changed meanwhile.

    Args:
        declared: the names under `params` of the stage in dvc.yaml.

    Raises:
        PipelineError: something was changed; the stage is to run again.
    """
    same = any(known is params and _holds(PARAMS_FILE, content) for content, known in READ)
    now = params if same else load()
    changed = [f"{name} of {PARAMS_FILE}" for name in declared if _value(params, name) != _value(now, name)]
    imported = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    changed += [path for path, digest in CODE.items() if path in imported and _digest(path) != digest]
    changed += [str(folder) for folder, sums in TAKEN.items() if not _holds(folder / SUMS, sums)]
    if changed:
        raise PipelineError(
            f"{changed[0]} was changed while this ran: the result was computed with the old version, but DVC would "
            "record the new one; run the same command again, which is quick if you undo the change first"
        )
    note_seconds()


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _value(whole: Params, name: str) -> Any:
    """What stands under a dotted name, None where nothing does."""
    tree: Any = whole.model_dump()
    for part in name.split("."):
        tree = tree.get(part)
    return tree


def _digest(path: str) -> str:
    return sha256(path) if os.path.exists(path) else ""


def agreed(values: Params, data_sha256: str) -> dict[str, str]:
    """Digests of what all ranks of a stage must have the same of; `values`: of params.yaml."""
    code = {path.rpartition("/pipeline/")[2]: digest for path, digest in CODE.items()}
    shaping = values.model_dump(mode="json", exclude={"runtime"})
    whole = {"code": code, "params": shaping, "data": data_sha256}
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in whole.items()}


def stop_by_exception() -> None:
    """From now on a stop signal raises `Stopped`, so that what is open is closed and nothing half-made stays."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    _on_stop(stop)


def stop_signals() -> list[int]:
    """A list that from now on receives the number of each stop signal, for whoever has work to save first."""
    received: list[int] = []
    _on_stop(lambda number, _: received.append(number))
    return received


def _on_stop(handler: Callable[[int, Any], None]) -> None:
    """One that was ignored from the start, as nohup has SIGHUP ignored, stays so."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def experiment_options(arguments: list[str] | None) -> argparse.Namespace:
    """The model and the seed of this leg of the comparison: `--model NAME --seed N`, or DVC's name of the stage.

    dvc.yaml gives no options: a value of params.yaml in a command would be run by a shell.
    """
    leg = LEG.fullmatch(os.environ.get("DVC_STAGE", ""))
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--model", required=not leg, default=leg and leg["model"], help="an entry under models: in params.yaml")
    add("--seed", required=not leg, default=leg and leg["seed"], type=int, help="the training seed")
    return parser.parse_args(arguments)


def no_options(about: str | None) -> None:
    """Answer to --help, and refuse what else stands on the command line of a stage that takes no options."""
    argparse.ArgumentParser(description=about).parse_args()


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when DVC or the search that started this dies: no kill leaves it behind (Linux).

    A rank other than the first, which has nothing to save, and may wait for the first for ever, is killed.
    """
    last = signal.SIGKILL if os.environ.get("RANK", "0") != "0" else signal.SIGTERM
    search = os.environ.get("PIPELINE_PARENT")
    if sys.platform == "linux" and (search or os.environ.keys() & {"DVC_STAGE", "RANK"}):
        parent = int(search) if search else os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, last)
        if os.getppid() != parent:  # it died before the kernel knew
            os.kill(os.getpid(), last)
