"""Workers of a study on this machine: processes with their share of the cores and a GPU, restarted if they die."""

import subprocess
import time
from collections.abc import Callable, Mapping

import torch

from pipeline.core.errors import PipelineError, warn
from pipeline.jobs.processes import end, share, visible_gpus

POLL = 0.5  # seconds between two looks at the workers
SHORT_LIFE, LIVES = 20.0, 5  # a worker that ends within so many seconds, so many times in a row, is not started again


def run_here(
    command: list[str],
    count: int,
    environment: Mapping[str, str],
    over: Callable[[], bool],
    should_stop: Callable[[], bool],
    report_progress: Callable[[], None],
) -> None:
    """Keep `count` processes of `command` running until `over` or `should_stop` says so, then end them.

    Args:
        environment: variables for the processes, beside those of this one.
        report_progress: called every half a second.

    Raises:
        PipelineError: a worker ended because of a user's mistake, or workers died again and again.
    """
    workers: dict[int, subprocess.Popen[bytes]] = {}
    gpus = visible_gpus() if torch.cuda.device_count() > 1 else []
    started, short = dict.fromkeys(range(count), 0.0), 0
    try:
        while not over() and not should_stop():
            for index in range(count):
                worker = workers.get(index)
                if worker is not None and worker.poll() is None:
                    continue
                if worker is not None and worker.returncode == 2:
                    raise PipelineError("a worker stopped with an error: see its message above")
                if worker is not None and worker.returncode != 0:
                    short = short + 1 if time.monotonic() - started[index] < SHORT_LIFE else 0
                    if short >= LIVES:
                        raise PipelineError(f"workers died {LIVES} times in a row: see their messages above")
                    warn(f"a worker died (exit status {worker.returncode}); another continues its trial")
                workers[index] = subprocess.Popen(command, env={**share(index, count, gpus), **environment})
                started[index] = time.monotonic()
            report_progress()
            time.sleep(POLL)
    finally:
        end(workers.values())
