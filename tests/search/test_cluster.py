"""Workers on a Ray cluster: a real one of this machine, started by the test."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core.errors import PipelineError
from pipeline.search.workers.cluster import _connect, run_on_ray

pytest.importorskip("ray", reason="Ray is an extra: requirements-cluster.txt")
pytestmark = pytest.mark.slow
NEEDS = {"num_cpus": 1.0, "num_gpus": 0.0}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one node with two CPUs."""
    port, client = free_port(), free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2",
               "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}",
               "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", client)) == 0:
                break
        assert cluster.poll() is None, "the cluster did not start"
        time.sleep(0.5)
    yield f"ray://127.0.0.1:{client}"
    cluster.terminate()
    try:
        cluster.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(cluster.pid, signal.SIGKILL)


def a_command(code: str, folder: Path) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), str(folder)]


def test_each_worker_runs_with_its_share_of_a_node(address: str, tmp_path: Path) -> None:
    command = a_command(
        """
        import os, pathlib, sys, time
        pathlib.Path(sys.argv[1], str(os.getpid())).write_text(
            f"{os.environ['OMP_NUM_THREADS']} {os.environ['PIPELINE_PARENT'] == str(os.getppid())} "
            f"{os.environ['GIVEN']} {os.getcwd()}")
        time.sleep(2)
        """,
        tmp_path,
    )
    seen = []
    run_on_ray(address, command, 2, {"GIVEN": "a b"}, NEEDS, lambda: False, lambda: seen.append(1))
    written = [path.read_text() for path in tmp_path.iterdir()]
    assert written == [f"1 True a b {os.getcwd()}"] * 2
    assert seen


def test_a_worker_that_dies_is_started_again(address: str, tmp_path: Path) -> None:
    command = a_command(
        """
        import os, pathlib, signal, sys
        marks = pathlib.Path(sys.argv[1])
        (marks / str(os.getpid())).touch()
        if len(list(marks.iterdir())) < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    run_on_ray(address, command, 1, {}, NEEDS, lambda: False, lambda: None)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_stop_reaches_the_workers(address: str, tmp_path: Path) -> None:
    command = a_command(
        """
        import pathlib, signal, sys, time
        folder, received = pathlib.Path(sys.argv[1]), []
        signal.signal(signal.SIGTERM, lambda *_: received.append(1))
        (folder / "begun").touch()
        while not received:
            time.sleep(0.05)
        (folder / "checkpoint").touch()
        """,
        tmp_path,
    )
    run_on_ray(address, command, 1, {}, NEEDS, (tmp_path / "begun").exists, lambda: None)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (tmp_path / "checkpoint").exists()


def test_no_cluster_is_one_sentence() -> None:
    with pytest.raises(PipelineError, match=r"^ray://127\.0\.0\.1:\d+: no Ray cluster answers there \([^\n]+\)$"):
        run_on_ray(f"ray://127.0.0.1:{free_port()}", ["true"], 1, {}, NEEDS, lambda: False, lambda: None)


@pytest.mark.parametrize(
    ("said", "tried", "joined"),
    [
        (["Initialization failure from server:\nbusy"] * 2, 3, True),
        (["Initialization failure from server:\nbusy"] * 3, 3, False),
        (["ray client connection timeout"], 1, False),
    ],
)
def test_a_cluster_that_is_busy_is_asked_again(said: list[str], tried: int, joined: bool) -> None:
    calls = []

    def init(**options: object) -> None:
        calls.append(options)
        if len(calls) <= len(said):
            raise ConnectionAbortedError(said[len(calls) - 1])

    if joined:
        _connect(SimpleNamespace(init=init), "ray://here:1")
    else:
        with pytest.raises(PipelineError, match=r"^ray://here:1: no Ray cluster answers there \([^\n]+\)$"):
            _connect(SimpleNamespace(init=init), "ray://here:1")
    assert len(calls) == tried and calls[0]["address"] == "ray://here:1"
