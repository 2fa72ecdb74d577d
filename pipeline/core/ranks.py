"""The ranks of a stage: one process for each device, started from here, by torchrun, or by a cluster's scheduler.

With `runtime.devices` above 1 a stage is rank 0 and starts the others: the same command with RANK and WORLD_SIZE set,
as torchrun sets them. Where these are set already, somebody else has started the ranks, over several machines perhaps.
What other ranks say is kept, and shown if they fail. They die with rank 0, and write nothing.
"""

import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from typing import IO

import torch
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.core.devices import choose_device
from pipeline.core.errors import PipelineError, printable
from pipeline.core.processes import last_words, threads_each
from pipeline.core.world import END, RankLost, World

Devices = str | int | tuple[int, ...]  # runtime.devices: "auto", a number of devices, or the numbers of GPUs

ANSWER = 120  # seconds within which a rank answers another one in the middle of a step
START = 300  # seconds for all ranks to start: importing, and CUDA, can be slow on a busy machine
LEADS = 7 * 86_400  # seconds that the others wait for rank 0, which can be scoring; they learn at once of its death

SAME = "the same"  # what rank 0 says of all ranks' code, params and data
REMEDIES = {
    "code": "give all machines the same version of the pipeline",
    "torch": "give all machines the same version of torch",
    "params": "give all machines the same params.yaml",
    "precision": "write fp32 or bf16 as train.precision, which is auto",
    "data": "give all machines the same data/prepared, for example by `dvc pull prepare`",
}


@dataclass(frozen=True)
class Place:
    """Which rank this process is, of how many, and its device; `given`: by torchrun or a scheduler, not from here."""

    rank: int
    size: int
    device: torch.device
    given: bool = False


def find_place(device: str, devices: Devices, images: int | None = None, group: int = 1) -> Place:
    """What runtime.device and runtime.devices, or the variables of torchrun, say of this process.

    Args:
        images: of a step, which the ranks must be able to share evenly, in groups of so many; with "auto" as many GPUs
            are used as can.

    Raises:
        PipelineError: there are not so many devices, or the images cannot be shared.
    """
    units = None if images is None else images // group
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank, size, local = _numbers("RANK", "WORLD_SIZE", "LOCAL_RANK")
        given = "PIPELINE_RANKS" not in os.environ
        if given and devices not in (1, "auto"):
            raise _fault(f"RANK and WORLD_SIZE say that {size} ranks are started already: set it to 1")
        own = _given_device(device, local) if given else rank_devices(device, devices, units)[rank]
    else:
        there = rank_devices(device, devices, units)
        rank, size, own, given = 0, len(there), there[0], False
    if images is not None and (problem := uneven(images, group, size)):
        raise _fault(f"batches of {problem}")
    if own.index is not None:
        torch.cuda.set_device(own)
    return Place(rank, size, own, given)


def uneven(images: int, group: int, count: int, sharers: str = "devices") -> str:
    """That `count` devices cannot share so many images evenly, in groups of so many; "" = they can.

    >>> uneven(64, 1, 2), uneven(8, 4, 4)
    ('', '8 images in groups of 4 cannot be shared evenly by 4 devices, only by 1, 2')
    """
    units = images // group
    if units % count == 0:
        return ""
    able = ", ".join(str(one) for one in range(1, min(units, 64) + 1) if units % one == 0)
    groups = f" in groups of {group}" if group > 1 else ""
    return f"{images} images{groups} cannot be shared evenly by {count} {sharers}, only by {able}"


def rank_devices(name: str, asked: Devices, units: int | None = None) -> list[torch.device]:
    """The device of each rank that is started from here.

    Args:
        units: what is to be shared evenly where the number of devices is free.

    Raises:
        PipelineError: there are not so many devices.
    """
    device = choose_device(name)
    if asked == 1 or (asked == "auto" and device.type != "cuda"):
        return [device]
    if device.type == "cpu":
        if isinstance(asked, tuple):
            raise _fault("a list names GPUs, but runtime.device is the CPU here: give a number of processes")
        return [device] * int(asked)
    if device.type != "cuda":
        raise _fault(f"{device.type} has one device: set it to 1")
    if device.index is not None:
        raise _fault(f"runtime.device {name} is one device: set that to cuda, or devices to 1")
    there = torch.cuda.device_count()
    if asked == "auto":
        count = next(count for count in range(there, 0, -1) if units is None or units % count == 0)
        return [torch.device("cuda", index) for index in range(count)]
    wanted = asked if isinstance(asked, tuple) else range(int(asked))
    if max(wanted) >= there:
        raise _fault(f"{list(wanted) if isinstance(asked, tuple) else asked} was asked for, but {there} GPUs are here")
    return [torch.device("cuda", index) for index in wanted]


def rank_command(spec: ModuleSpec | None, arguments: Sequence[str] | None) -> list[str]:
    """What runs a stage again, after the name of the Python interpreter; `spec` is its module's `__spec__`."""
    assert spec is not None
    return ["-m", spec.name, *(sys.argv[1:] if arguments is None else arguments)]


@contextlib.contextmanager
def open_world(place: Place, command: Sequence[str], received: list[int], agreed: Mapping[str, str]) -> Iterator[World]:
    """The ranks, all there and all with the same code, params and data. However this is left, no rank goes on.

    Args:
        command: what the other ranks run, after the name of the Python interpreter.
        received: where this process's stop signals arrive.
        agreed: what must be the same on all ranks, a digest of each; REMEDIES has remedies for some names.

    Raises:
        PipelineError: a rank does not start, does not answer, ends early, or differs in `agreed`.
    """
    if place.size == 1:
        yield World(signals=received)
        return
    with contextlib.ExitStack() as stack:
        others = _Others(place.size)
        stack.callback(others.end)
        try:
            store = _meet(place, command, others)
            _compare(place, store, {"torch": torch.__version__, **agreed}, others)
            world = _connect(place, store, received)
        except (RuntimeError, ValueError, OSError) as error:
            raise PipelineError(_unreachable(place, others, error)) from error
        stack.callback(dist.destroy_process_group)
        try:
            yield world
        except RankLost as lost:
            fault = others.fault() if place.rank == 0 else ""
            raise PipelineError(f"{fault or lost}: run the same command again to continue") from lost
        finally:
            if place.rank == 0 and world.intact:
                with contextlib.suppress(RankLost), world.lead(END):
                    others.ending = True


class _Others:
    """The processes that rank 0 has started, and what they have said."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.processes: list[subprocess.Popen[bytes]] = []
        self.said: list[IO[bytes]] = []
        self.ending = False  # whether they have been told to

    def start(self, command: Sequence[str], port: int) -> None:
        """Start the ranks 1 to size - 1, with their share of the cores."""
        threads = threads_each(self.size)
        torch.set_num_threads(int(threads))  # of rank 0, which runs already
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        shared = {"OMP_NUM_THREADS": threads, "WORLD_SIZE": str(self.size), "PIPELINE_PARENT": str(os.getpid())}
        shared |= {"PIPELINE_RANKS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in range(1, self.size):
            variables = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            said = tempfile.TemporaryFile()  # noqa: SIM115  `end` closes it
            self.said.append(said)
            whole = [sys.executable, *command]
            self.processes.append(
                subprocess.Popen(whole, env=variables, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            )

    def fault(self, patience: float = 5.0) -> str:
        """Which process has ended before it should, and how; "" = none within so many seconds."""
        until = time.monotonic() + patience
        while self.processes:
            for rank, process in enumerate(self.processes, 1):
                if (code := process.poll()) is not None:
                    return f"rank {rank} (process {process.pid}) {self._how(rank, code)}"
            if time.monotonic() > until:
                break
            time.sleep(0.1)
        return ""

    def _how(self, rank: int, code: int) -> str:
        file = self.said[rank - 1]
        file.seek(0)
        words = last_words(code, file.read().decode(errors="replace"))
        return f"was {words}" if code < 0 else f"has ended: {words}"

    def end(self) -> None:
        """Leave none behind. They have nothing to save."""
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0 if self.ending else 0.0)
            process.kill()
            process.wait()
        for file in self.said:
            file.close()


def _meet(place: Place, command: Sequence[str], others: _Others) -> TCPStore:
    """The store through which the ranks find each other."""
    wait = datetime.timedelta(seconds=START)
    if place.rank or place.given:
        host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
        if not host or not port.isdecimal():
            raise PipelineError("RANK is set, but MASTER_ADDR or MASTER_PORT is not: set all of them, as torchrun does")
        keeps = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun keeps it
        return TCPStore(host, int(port), place.size, keeps, wait, wait_for_workers=False)
    server = socket.create_server(("127.0.0.1", 0))  # nobody from outside reaches it
    port = server.getsockname()[1]
    listening = server.detach()
    store = TCPStore("127.0.0.1", port, place.size, True, wait, wait_for_workers=False, master_listen_fd=listening)
    others.start(command, port)
    return store


def _compare(place: Place, store: TCPStore, mine: Mapping[str, str], others: _Others) -> None:
    """See that all ranks have the same.

    Raises:
        PipelineError: a rank has something else, or does not say.
    """
    store.set(f"mine/{place.rank}", json.dumps(mine))
    if place.rank == 0:
        verdict = ""
        for rank in range(1, place.size):
            _await(store, f"mine/{rank}", rank, others)
            theirs = json.loads(store.get(f"mine/{rank}"))
            unlike = [name for name, value in mine.items() if theirs.get(name) != value]
            if unlike and not verdict:
                remedy = REMEDIES.get(unlike[0], "give all ranks the same")
                verdict = f"rank {rank} has another {unlike[0]} than rank 0: {remedy}"
        store.set("verdict", verdict or SAME)
    store.wait(["verdict"], datetime.timedelta(seconds=START))
    verdict = store.get("verdict").decode()
    if verdict != SAME:
        raise PipelineError(verdict)


def _await(store: TCPStore, key: str, rank: int, others: _Others) -> None:
    """Wait for another rank's answer, but no longer than its process lives.

    Raises:
        PipelineError: it has ended, or has not answered in time.
    """
    until = time.monotonic() + START
    while not store.check([key]):
        if fault := others.fault(0.0):
            raise PipelineError(fault)
        if time.monotonic() > until:
            raise PipelineError(
                f"rank {rank} has not answered for {START} seconds: look at its output, and see that it reaches rank 0"
            )
        time.sleep(0.05)


def _connect(place: Place, store: TCPStore, received: list[int]) -> World:
    backend = "cpu:gloo,cuda:nccl" if place.device.type == "cuda" else "gloo"
    answer = datetime.timedelta(seconds=ANSWER)
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=answer)
    leads = answer if place.rank == 0 else datetime.timedelta(seconds=LEADS)
    commands = dist.new_group(backend="gloo", timeout=leads)
    assert isinstance(commands, dist.ProcessGroup)
    return World(place.rank, place.size, commands, received)


def _unreachable(place: Place, others: _Others, error: Exception) -> str:
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("MASTER_PORT", "")
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return f"port {port} is in use by another program: choose another one as MASTER_PORT (torchrun --master-port)"
    if fault := others.fault(1.0):
        return fault
    return (
        f"rank {place.rank} does not reach the others at {host}:{port} ({printable(str(error).splitlines()[0], 200)}): "
        "see that rank 0 runs, and that no firewall blocks the connection"
    )


def _given_device(name: str, local: int) -> torch.device:
    """That of the rank which is number `local` on this machine."""
    device = choose_device(name)
    return choose_device(f"cuda:{local}") if device.type == "cuda" and device.index is None else device


def _numbers(*names: str) -> list[int]:
    """Variables that are numbers, 0 where they are not set.

    Raises:
        PipelineError: one is no number.
    """
    found = [os.environ.get(name, "0") for name in names]
    for name, text in zip(names, found, strict=True):
        if not text.isdecimal():
            raise PipelineError(f"the environment variable {name} must be a whole number, got {printable(text)}")
    return [int(text) for text in found]


def _fault(problem: str) -> PipelineError:
    return PipelineError(f"runtime.devices: {problem}", field="runtime.devices", problem=problem)
