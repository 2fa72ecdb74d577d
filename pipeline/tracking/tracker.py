"""One MLflow run as stages and searches see it, and `sync`, which sends what is left of all of them."""

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
from pipeline.tracking.outbox import Outbox, read_header
from pipeline.tracking.uploader import Uploader
from pipeline.tracking.views import VIEW_TAG, ranking_view
from pipeline.tracking.warn_once import warn_once

INTERVAL = 5.0  # seconds between two rounds of sending
RETRY = 60.0  # seconds until the next round after a failed one
SYSTEM_EVERY = 15.0  # seconds between two looks at what the machine does
FILES = "outbox"  # the folder of copied files, beside outbox.jsonl
CLOSE_WAIT = {"FINISHED": 30.0, "FAILED": 15.0, "KILLED": 5.0}  # seconds that `close` waits at most


class Tracker:
    """One MLflow run, kept beside the experiment's checkpoints in `folder`; a later stage continues the same run.

    No method raises because of MLflow or the disk. Only `close` waits, for a bounded time. The experiment, the run's
    name and its parent are those with which the run was first opened.

    Args:
        parent: the folder of another Tracker of the same MLflow experiment, opened earlier. This run becomes a nested
            run of that one.
        quiet: neither import MLflow nor touch the run unless something is unsent: to log again what is mostly known.

    >>> with Tracker(Path(".work/dcgan-0-1f2e"), "mnist", "dcgan-0") as tracker:      # doctest: +SKIP
    ...     tracker.metrics(100, {"loss/d": 0.7})
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        run_name: str,
        enabled: bool = True,
        parent: Path | None = None,
        quiet: bool = False,
    ) -> None:
        self._folder = Path(folder)
        self._failed = False  # whether the last round of sending failed
        self._closing = threading.Event()
        self._lock = threading.Lock()  # the uploader's thread logs too
        self._outbox: Outbox | None = None
        self._thread: threading.Thread | None = None
        if enabled:
            with self._disk_errors():
                self._outbox = Outbox(self._folder, experiment, run_name, parent)
        if self._outbox:
            self._uploader = Uploader(self._folder)
            if not quiet or not self._uploader.is_settled():
                self._add("status", "", "RUNNING")
                self._start()

    def params(self, values: Mapping[str, Any]) -> None:
        """Log params. The first value of a name stays, since MLflow refuses to change it."""
        for key, value in values.items():
            self._add("param", key, str(value)[:5000])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags. The last value of a name counts."""
        for key, value in values.items():
            self._add("tag", key, str(value)[:5000])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at `step`. MLflow refuses nan and inf: the first of a metric becomes a tag with its step."""
        for key, value in values.items():
            if math.isfinite(value):
                self._add("metric", key, float(value), step)
            elif self._outbox and not self._outbox.holds("tag", _clean(f"nonfinite/{key}")):
                self.tags({f"nonfinite/{key}": f"{float(value)} at step {step}"})

    def image(self, key: str, path: Path, step: int) -> None:
        """Log an image file as one step of the image series `key`, which MLflow's UI shows with a slider.

        It is fsynced: a run that resumes from a later checkpoint does not draw this image again.
        """
        self._add_file("image", key, Path(path), step)
        self.tags({"mlflow.loggedImages": "True"})  # makes the UI show image series
        if self._outbox:
            with self._disk_errors():
                fsync(self._folder / "outbox.jsonl")

    def artifact(self, path: Path, folder: str) -> None:
        """Log a file into the artifact folder `folder`; a changed file of the same name replaces it."""
        self._add_file("artifact", folder.strip("/") + "/" + Path(path).name, Path(path), 0)

    def model(self, folder: Path) -> None:
        """Log the generator in `folder` as the MLflow model `generator`, once per run.

        It becomes a version of the registered model that is named as the experiment, described by the run's name.
        The model is called as G(z (N, latent_dim) float32, y (N,) int64). It has the EMA weights if the recipe has EMA.
        """
        if self._outbox and not self._outbox.holds("model", "generator"):
            with self._disk_errors():
                for path in sorted(Path(folder).glob("generator.*")):
                    self._keep(path, "model")
                self._add("model", "generator", f"{FILES}/model")
                self._add("version", "", 0)

    def dataset(self, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        """Log what the run was trained on as MLflow's own dataset input; `profile` are facts about it."""
        self._add("dataset", name, {"digest": digest[:36], "profile": dict(profile)})

    def best(self) -> None:
        """Give the run's version of the registered model the alias `best`.

        If several runs call it, the last one has it: ``mlflow.pytorch.load_model("models:/<experiment>@best")``.
        """
        self._add("version", "best", time.time_ns() // 1_000_000)

    def ranked_by(self, metric: str) -> None:
        """Give the MLflow experiment the view `ranking`: its runs by this metric, the lowest first."""
        self._add("view", VIEW_TAG, ranking_view(metric))

    def rollback(self, number: int, step: int) -> None:
        """Record a rollback to `step`. Later steps may be logged a second time; MLflow shows the newest value."""
        self._add("rollback", str(number), step)

    def close(self, status: str = "FINISHED") -> None:
        """Send the rest and set the run's status; give up at once if the last round failed. Later calls do nothing.

        Args:
            status: "FINISHED", "FAILED" or "KILLED". It stays, however the surrounding with-block ends: a pruned trial
                closes with "KILLED".
        """
        if self._outbox is None or self._closing.is_set():
            return
        self._add("status", "", status)
        self._closing.set()
        if self._thread and not self._failed:
            self._thread.join(CLOSE_WAIT[status])
            if self._thread.is_alive():
                self._uploader.warn_unsent("sending takes too long")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        killed = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit)
        self.close("FINISHED" if kind is None else "KILLED" if killed else "FAILED")

    def _add(self, kind: str, key: str, value: Any, step: int = 0) -> None:
        if self._outbox:
            with self._disk_errors(), self._lock:
                if self._outbox.add(kind, _clean(key), value, int(step)):
                    self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._upload, name="mlflow-uploader", daemon=True)
            self._thread.start()

    def _add_file(self, kind: str, key: str, path: Path, step: int) -> None:
        if self._outbox:
            with self._disk_errors():
                self._add(kind, key, self._keep(path, sha256(path)[:16]), step)

    def _keep(self, path: Path, name: str) -> str:
        """Copy a file beside the outbox, since DVC may remove its outputs or a temporary copy of the repository."""
        target = self._folder / FILES / name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        fsync(target)
        return f"{FILES}/{name}/{path.name}"

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            warn_once(self._folder, "disk", f"not everything reaches MLflow: {error}")

    def _upload(self) -> None:
        """The uploader thread: one round every `INTERVAL` seconds, or `RETRY` after a failure, and one at the end."""
        delay, looked = 0.0, time.monotonic()
        while not (self._closing.wait(delay) and self._failed):
            closing = self._closing.is_set()
            try:
                done = self._uploader.send() is not None
                self._failed, delay = False, INTERVAL
                if not closing and time.monotonic() - looked >= SYSTEM_EVERY:
                    looked = time.monotonic()
                    self.metrics(int(time.time() - self._uploader.begun), system_metrics())
                if closing and done:
                    return
                if closing:  # another process is sending this outbox
                    time.sleep(0.2)
            except Exception as error:
                self._failed, delay = True, RETRY
                self._uploader.warn_unsent(self._uploader.reason(error))


def system_metrics() -> dict[str, float]:
    """What MLflow's own monitors say of the machine, by MLflow's names: system/cpu_utilization_percentage, .."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    found: dict[str, float] = {}
    kinds: tuple[Any, ...] = (CPUMonitor, DiskMonitor, GPUMonitor)
    for kind in kinds:
        with contextlib.suppress(Exception):  # the last without a GPU, or without nvidia-ml-py
            monitor = kind()
            monitor.collect_metrics()
            found |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
    return found


def measured_run(name: str, fingerprint: str) -> Path | None:
    """The folder of the run in which a training was measured last; None if it was tracked nowhere here."""
    outboxes = (root() / ".work").glob(f"{name}-{fingerprint}-*/outbox.jsonl")
    newest = max(outboxes, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def _clean(key: str) -> str:
    """`key` in the characters and the length that MLflow allows."""
    return re.sub(r"[^\w\-./ ]", "_", key, flags=re.ASCII)[:250]


def _name(folder: Path) -> str:
    """The name of the run whose outbox is in `folder`; the folder's name if the outbox cannot be read."""
    with contextlib.suppress(OSError):
        header = read_header(folder)
        if header:
            return str(header["value"].get("name", folder.name))
    return folder.name


def sync() -> None:
    """Send the unsent entries of every outbox under .work/, and print a line for each.

    Raises:
        PipelineError: something could not be sent, or this is no project's root.
    """
    if not (root() / ".work").is_dir() and not (root() / "params.yaml").exists():
        raise PipelineError("there is neither .work nor params.yaml here: run from the repository's root")
    failed, remedy = 0, ""
    folders = sorted(path.parent for path in (root() / ".work").rglob("outbox.jsonl"))
    for folder in folders:
        uploader = Uploader(folder)
        try:
            count = uploader.send()
            text = "another process is sending it" if count is None else f"{count} entries sent"
            failed += bool(uploader.dropped)
            text += f", {uploader.dropped} left out" if uploader.dropped else ""
        except Exception as error:
            failed += 1
            remedy = f": {uploader.remedy}, then run `python -m pipeline.tracking sync` again"
            text = uploader.reason(error)
        print(f"{_name(folder)}: {text}", flush=True)
    if failed:
        raise PipelineError(f"{failed} of {len(folders)} runs could not be sent to MLflow completely{remedy}")
    if not folders:
        print("nothing to send")
