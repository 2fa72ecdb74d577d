"""What MLflow is told, without ever waiting for it: a local spool file, and a thread that sends what is spooled.

    Tracker.metrics(..)  ->  .work/<experiment>/outbox.jsonl  ->  sender thread  ->  MLflow
    python -m pipeline.tracking sync      send what a dead server, or a killed run, has left in the spools

A slow, dead or failing server costs one warning; what is unsent stays in the spool. An entry keeps the time at which it
was first logged, and a (kind, key, step) is spooled once: so sending again overwrites, and a run that replays steps
after a kill adds nothing twice. Points and files go forward separately: a server that takes no files gets the points.
"""

import contextlib
import math
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pipeline.core.errors import PipelineError
from pipeline.core.files import fsync, sha256
from pipeline.core.paths import root
from pipeline.tracking.outbox import Outbox, first
from pipeline.tracking.uploader import Uploader, warn_once

INTERVAL, RETRY = 5.0, 60.0  # seconds between two rounds of sending, and after a failed one
CLOSE_WAIT = {"FINISHED": 30.0, "FAILED": 15.0, "KILLED": 5.0}  # seconds that closing waits at most


class Tracker:
    """One MLflow run, kept beside the experiment's checkpoints in `folder`; a later stage continues the same run.

    No method raises because of MLflow or of the disk, and only `close` waits, for a bounded time. The experiment, the
    run's name and its parent are those of the first opening.

    Args:
        parent: the folder of another Tracker, of the same experiment and opened before: this run is nested in its run.

    >>> with Tracker(Path(".work/dcgan-0-1f2e"), "mnist", "dcgan-0") as tracker:      # doctest: +SKIP
    ...     tracker.metrics(100, {"loss/d": 0.7})
    """

    def __init__(
        self, folder: Path, experiment: str, run_name: str, enabled: bool = True, parent: Path | None = None
    ) -> None:
        self._folder, self._failed, self._closing = Path(folder), False, threading.Event()
        self._spool: Outbox | None = None
        if enabled:
            with self._disk_errors():
                self._spool = Outbox(self._folder, experiment, run_name, parent)
        if self._spool:
            self._add("status", "", "RUNNING")
            self._sender = Uploader(self._folder)
            self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)
            self._thread.start()

    def params(self, values: Mapping[str, Any]) -> None:
        """Log params. The first value of a name stands, since MLflow refuses to change it."""
        for key, value in values.items():
            self._add("param", key, str(value)[:5000])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags. The last value of a name stands."""
        for key, value in values.items():
            self._add("tag", key, str(value)[:5000])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at `step`; where a metric is nan or inf, the first such value and its step become a tag."""
        for key, value in values.items():
            if math.isfinite(value):
                self._add("metric", key, float(value), step)
            elif self._spool and not self._spool.holds("tag", _clean(f"nonfinite/{key}")):
                self.tags({f"nonfinite/{key}": f"{float(value)} at step {step}"})

    def image(self, key: str, path: Path, step: int) -> None:
        """Log an image file as one step of the image series `key`, which the UI shows with a slider.

        No power cut takes it back: who goes on from a later checkpoint does not draw it again.
        """
        self._add_file("image", key, Path(path), step)
        self.tags({"mlflow.loggedImages": "True"})  # makes the UI look for image series
        if self._spool:
            with self._disk_errors():
                fsync(self._folder / "outbox.jsonl")

    def artifact(self, path: Path, folder: str) -> None:
        """Log a file into the artifact folder `folder`; a changed file of the same name replaces it."""
        self._add_file("artifact", folder.strip("/") + "/" + Path(path).name, Path(path), 0)

    def model(self, folder: Path) -> None:
        """Log the generator in `folder` as the MLflow model `generator`, once per run.

        It is called as G(z (N, latent_dim) float32, y (N,) int64), and has the averaged weights if there are any.
        """
        if self._spool and not self._spool.holds("model", "generator"):
            with self._disk_errors():
                for path in sorted(Path(folder).glob("generator.*")):
                    self._keep(path, "model")
                self._add("model", "generator", "spool/model")

    def rollback(self, number: int, step: int) -> None:
        """The run's rollback `number` led back to `step`: what is logged of later steps from now on stands beside what
        was logged of them before, and MLflow shows the newest."""
        self._add("back", str(number), step)

    def close(self, status: str = "FINISHED") -> None:
        """Send the rest and set the run's status; give up at once if the server has failed. Later calls do nothing.

        Args:
            status: "FINISHED", "FAILED" or "KILLED". It stands, however the with-block around it ends: a pruned trial
                closes with "KILLED".
        """
        if self._spool is None or self._closing.is_set():
            return
        self._add("status", "", status)
        self._closing.set()
        if not self._failed:
            self._thread.join(CLOSE_WAIT[status])
            if self._thread.is_alive():
                self._sender.warn_unsent("sending takes too long")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        killed = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit)
        self.close("FINISHED" if kind is None else "KILLED" if killed else "FAILED")

    def _add(self, kind: str, key: str, value: Any, step: int = 0) -> None:
        if self._spool:
            with self._disk_errors():
                self._spool.add(kind, _clean(key), value, int(step))

    def _add_file(self, kind: str, key: str, path: Path, step: int) -> None:
        if self._spool:
            with self._disk_errors():
                self._add(kind, key, self._keep(path, sha256(path)[:16]), step)

    def _keep(self, path: Path, name: str) -> str:
        """Copy a file beside the spool: DVC removes outputs, and temporary copies of the repository, as it likes."""
        (self._folder / "spool" / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self._folder / "spool" / name / path.name)
        fsync(self._folder / "spool" / name / path.name)
        return f"spool/{name}/{path.name}"

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            warn_once(self._folder, "disk", f"not everything reaches MLflow: {error}")

    def _work(self) -> None:
        """The sender thread: a round of sending every `INTERVAL` seconds, later after a failure, and one at the end."""
        delay = 0.0
        while not (self._closing.wait(delay) and self._failed):
            closing = self._closing.is_set()
            try:
                done = self._sender.send() is not None
                self._failed, delay = False, INTERVAL
                if closing and done:
                    return
                if closing:  # another process is sending this spool
                    time.sleep(0.2)
            except Exception as error:
                self._failed, delay = True, RETRY
                self._sender.warn_unsent(self._sender.reason(error))


def _clean(key: str) -> str:
    """`key` in the characters and the length that MLflow allows."""
    return re.sub(r"[^\w\-./ ]", "_", key, flags=re.ASCII)[:250]


def _name(folder: Path) -> str:
    """The name of the run whose spool lies in `folder`; the folder's, where the spool cannot be read."""
    with contextlib.suppress(OSError):
        return str((first(folder) or {"value": {}})["value"].get("name", folder.name))
    return folder.name


def sync() -> None:
    """Send what is unsent of every spool under .work/, and print a line for each.

    Raises:
        PipelineError: something could not be sent.
    """
    failed, folders = 0, sorted(path.parent for path in (root() / ".work").rglob("outbox.jsonl"))
    for folder in folders:
        sender = Uploader(folder)
        try:
            count = sender.send()
            text = "another process is sending it" if count is None else f"{count} entries sent"
            failed += bool(sender.dropped)
            text += f", {sender.dropped} left out" if sender.dropped else ""
        except Exception as error:
            failed, text = failed + 1, sender.reason(error)
        print(f"{_name(folder)}: {text}", flush=True)
    if failed:
        raise PipelineError(
            f"{failed} of {len(folders)} runs could not be sent to MLflow completely: start its server or set "
            "MLFLOW_TRACKING_URI, then run `python -m pipeline.tracking sync` again"
        )
    if not folders:
        print("nothing to send")
