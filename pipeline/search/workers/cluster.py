"""Workers of a study on a Ray cluster: each is a task with its CPUs and its GPU, started again where its node dies.

Ray is an extra: `pip install -r requirements-cluster.txt`. The repository, with its environment and prepared data, lies
at the same path on every node (a shared disk), and the storage is one that all nodes reach.
"""

import importlib
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.errors import PipelineError

WAIT = 1.0  # seconds between two looks at whether to stop
GRACE = 30.0  # seconds that the workers have to write their checkpoints
BUSY, ATTEMPTS = "Initialization failure from server", 3  # what a cluster says that is too busy for a new client yet
RETRIES = 20  # of a worker that dies, or whose node does


def run_on_ray(
    address: str,
    command: list[str],
    count: int,
    environment: Mapping[str, str],
    needs: Mapping[str, float],
    should_stop: Callable[[], bool],
    report_progress: Callable[[], None],
) -> None:
    """Run `command` in `count` tasks at once until all end well.

    Args:
        address: ray://HOST:10001, a cluster's address, or "auto" on one of its nodes.
        environment: variables for the tasks, beside those of their node.
        needs: what each task occupies on its node: num_cpus, num_gpus.
        report_progress: called about once a second.

    Raises:
        PipelineError: Ray is not installed or not reachable, or a task failed again and again.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise PipelineError("--cluster needs Ray: pip install -r requirements-cluster.txt") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _connect(ray, address)
    try:
        task = ray.remote(max_retries=RETRIES, retry_exceptions=True, **needs)(_make_task())
        variables = {"OMP_NUM_THREADS": str(max(1, int(needs["num_cpus"]))), **environment}
        left = [task.remote(command, os.getcwd(), variables) for _ in range(count)]
        while left and not should_stop():
            done, left = ray.wait(left, timeout=WAIT)
            report_progress()
            for reference in done:
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    raise PipelineError(f"a worker on the cluster failed: {str(error).splitlines()[-1]}") from None
        for reference in left:
            ray.cancel(reference)  # KeyboardInterrupt in the task, which asks the worker to write its checkpoint
        if left:
            ray.wait(left, num_returns=len(left), timeout=GRACE)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Join the cluster; try again if it answers, but is too busy to start a server for this client in time.

    Raises:
        PipelineError: no cluster answers.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters comes as an error
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            return
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            if attempt == ATTEMPTS or not str(error).startswith(BUSY):
                reason = str(error).splitlines()[0]
                raise PipelineError(f"{address}: no Ray cluster answers there ({reason})") from None


def _make_task() -> Callable[[list[str], str, dict[str, str]], None]:
    """What runs on a node. Its Ray process cannot import this package; a function in a function is sent as a whole."""

    def task(command: list[str], folder: str, variables: dict[str, str]) -> None:
        import os
        import subprocess
        import time

        parent = {"PIPELINE_PARENT": str(os.getpid())}
        worker = subprocess.Popen(command, cwd=folder, env={**os.environ, **variables, **parent})
        try:
            while (code := worker.poll()) is None:
                time.sleep(0.2)  # Ray's interruption comes between two looks, not into a wait
        except BaseException:
            worker.terminate()
            worker.wait()
            raise
        if code:
            raise RuntimeError(f"{' '.join(command[1:3])} ended with status {code}")

    return task
