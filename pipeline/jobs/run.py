"""Trainings side by side, from where they are to their end: started, watched, and ended together."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.processes import last_words
from pipeline.core.progress import FILE, read_progress
from pipeline.jobs.plan import Leg
from pipeline.jobs.processes import end, share
from pipeline.jobs.table import FAILED, FINISHED, STARTING, STOPPED, TRAINING, WAITING, ProgressTable, Row

POLL = 0.5  # seconds between two looks at the processes


@dataclass
class Training:
    """One leg and its process. `fault`: how it failed, in one line; "" if it did not."""

    leg: Leg
    state: str = WAITING
    fault: str = ""
    process: subprocess.Popen[bytes] | None = None
    slot: int = 0
    _read: int = 0  # bytes of its log

    @property
    def folder(self) -> Path:
        return self.leg.experiment.work_folder()

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    @property
    def progress(self) -> Path:
        """The file to which the process writes how far it is."""
        return self.folder / "progress.json"

    def start(self, command: Sequence[str], variables: dict[str, str], slot: int) -> None:
        """Start `command`; its output goes into `log`, its progress into the file beside it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.progress.unlink(missing_ok=True)
        with open(self.log, "wb") as log:
            env = {**variables, FILE: str(self.progress.resolve())}
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.state, self.slot = STARTING, slot

    def new_lines(self) -> list[str]:
        """The whole lines that the process has written since the last call."""
        with open(self.log, "rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [line for line in whole.decode(errors="replace").splitlines() if line.strip()]

    def look(self, stopping: bool) -> list[str]:
        """Bring `state` up to date; returns the lines that the process has written since the last call."""
        assert self.process is not None
        code = self.process.poll()
        lines = self.new_lines()
        if code is None:
            self.state = TRAINING if read_progress(self.progress) else STARTING
            return lines
        if code == 0:
            self.state = FINISHED
        elif stopping:
            self.state = STOPPED
        else:
            self.state, self.fault = FAILED, last_words(code, self.log.read_text(errors="replace"))
        return lines

    def row(self) -> Row:
        """The training as it is now."""
        found, steps, recipe = read_progress(self.progress), self.leg.steps, self.leg.experiment.recipe
        if self.process is None or not found:
            step = steps if self.state == FINISHED else self.leg.step()
            return Row(self.leg.name, self.state, step, steps)
        speed = found["per_second"] * recipe.batch_size * recipe.n_critic
        return Row(self.leg.name, self.state, found["done"], steps, speed, found["shown"].get("distance"))


def train_side_by_side(
    legs: Sequence[Leg], jobs: int, gpus: Sequence[str], should_stop: Callable[[], bool], shown: ProgressTable
) -> list[Training]:
    """Train `legs`, in their order, at most `jobs` at once, until all have ended or `should_stop` says so.

    One that fails does not stop the others. However this is left, no process of it goes on.
    """
    trainings = [Training(leg) for leg in legs]
    try:
        while not should_stop():
            _start_waiting(trainings, jobs, gpus)
            running = [one for one in trainings if one.state in (STARTING, TRAINING)]
            if not running:
                break
            time.sleep(POLL)
            _look(running, False, shown)
            shown.show([one.row() for one in trainings])
    finally:
        running = [one for one in trainings if one.process and one.state in (STARTING, TRAINING)]
        end(one.process for one in running if one.process)
        _look(running, True, shown)
        if trainings:
            shown.show([one.row() for one in trainings], last=True)
    return trainings


def _start_waiting(trainings: Sequence[Training], jobs: int, gpus: Sequence[str]) -> None:
    for training in trainings:
        taken = {one.slot for one in trainings if one.state in (STARTING, TRAINING)}
        free = [slot for slot in range(jobs) if slot not in taken]
        if training.state == WAITING and free:
            stage = {"DVC_STAGE": f"train@{training.leg.name}"}  # as which it is known in MLflow
            training.start(train_command(training.leg), {**share(free[0], jobs, gpus), **stage}, free[0])


def train_command(leg: Leg) -> list[str]:
    """The command that trains a leg."""
    model, seed = leg.experiment.model, leg.experiment.seed
    return [sys.executable, "-m", "pipeline.stages.train", "--model", model, "--seed", str(seed)]


def _look(trainings: Sequence[Training], stopping: bool, shown: ProgressTable) -> None:
    for training in trainings:
        for line in training.look(stopping):
            shown.say(f"{training.leg.name}: {line}")
