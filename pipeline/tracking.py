"""What MLflow is told, without ever waiting for it: a local spool file, and a thread that sends what is spooled.

    Tracker.metrics(..)  ->  .work/<experiment>/spool.jsonl  ->  sender thread  ->  MLflow
    python -m pipeline.tracking sync      send what a dead server, or a killed run, has left in the spools

A slow, dead or failing server costs one warning; what is unsent stays in the spool. An entry keeps the time at which it
was first logged, and a (kind, key, step) is spooled once: so sending again overwrites, and a run that replays steps
after a kill adds nothing twice. Points and files go forward separately: a server that takes no files gets the points.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import logging
import math
import os
import re
import shutil
import tempfile
import threading
import time
import urllib.parse
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pipeline.errors import PipelineError, exit_cleanly
from pipeline.files import read_json, sha256, write_json
from pipeline.layout import root
from pipeline.spool import BATCH, Spool, groups, lock, read

INTERVAL, RETRY = 5.0, 60.0  # seconds between two rounds of sending, and after a failed one
CLOSE_WAIT = {"FINISHED": 30.0, "FAILED": 15.0, "KILLED": 15.0}  # seconds that closing waits at most
SETTINGS = {"HTTP_REQUEST_MAX_RETRIES": "1", "HTTP_REQUEST_TIMEOUT": "10", "DISABLE_TELEMETRY": "true",
            "LOGGING_LEVEL": "WARNING", "ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}  # fmt: skip
LANES = {"sent": {"run", *BATCH, "status"}, "sent_files": {"image", "artifact", "model"}}
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "RESOURCE_DOES_NOT_EXIST"}
KIND = "custom_model_development"  # makes the UI open on training runs, not on traces of agents
SPOOL_TAG = "pipeline.spool"  # marks our run on the server: a lost answer to its creation makes no second run

logger = logging.getLogger(__name__)
_warned: set[tuple[str, str]] = set()


class Tracker:
    """One MLflow run, kept beside the experiment's checkpoints in `folder`; a later stage continues the same run.

    No method raises because of MLflow or of the disk, and only `close` waits, for a bounded time. The experiment and
    the run's name are those of the first opening.

    >>> with Tracker(Path(".work/dcgan-0-1f2e"), "mnist", "dcgan-0") as tracker:      # doctest: +SKIP
    ...     tracker.metrics(100, {"loss/d": 0.7})
    """

    def __init__(self, folder: Path, experiment: str, run_name: str, enabled: bool = True) -> None:
        self._folder, self._failed, self._closing = Path(folder), False, threading.Event()
        self._spool: Spool | None = None
        if enabled:
            with self._disk_errors():
                self._spool = Spool(self._folder, experiment, run_name)
        if self._spool:
            self._add("status", "", "RUNNING")
            self._sender = _Sender(self._folder)
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
        """Log an image file as one step of the image series `key`, which the UI shows with a slider."""
        self._add_file("image", key, Path(path), step)
        self.tags({"mlflow.loggedImages": "True"})  # makes the UI look for image series

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

    def close(self, status: str = "FINISHED") -> None:
        """Send the rest and set the run's status; give up at once if the server has failed. Later calls do nothing.

        Args:
            status: "FINISHED", "FAILED" or "KILLED".
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
        return f"spool/{name}/{path.name}"

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _warn_once(self._folder, "disk", f"not everything reaches MLflow: {error}")

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


class _Sender:
    """The only part that talks to MLflow: it sends the spool in `folder` to the environment's tracking URI."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dropped = folder, 0
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root().resolve() / 'mlflow.db'}"
        self._client: Any = None
        self._run_id = self._experiment_id = ""

    def send(self) -> int | None:
        """Send what is unsent and return the number of entries; None if another process is sending this spool.

        Raises:
            Exception: whatever MLflow raises; what went before is remembered as sent.
        """
        with lock(self.folder / "spool.lock", wait=False) as ours:
            try:
                return self._send() if ours else None
            except Exception:
                self._client = None  # connect afresh next time, and look whether the run still exists
                raise

    def _send(self) -> int:
        spool, state_file = self.folder / "spool.jsonl", self.folder / "mlflow.json"
        header = next(read(spool), (None, 0))[0]
        if header is None:
            return 0
        states = read_json(state_file) if state_file.exists() else {}
        server = hashlib.sha256(self.uri.encode()).hexdigest()  # the URI itself may hold a password
        state = states.setdefault(server, {"run_id": ""})
        if self._client is None:
            self._connect(header, state["run_id"])
        if state["run_id"] != self._run_id:
            state |= {"run_id": self._run_id, "experiment": header["key"], **dict.fromkeys(LANES, 0)}
        count, fault = 0, None
        for lane, kinds in LANES.items():
            try:
                for group, end in groups(spool, state[lane], kinds):
                    self._deliver(group)
                    count, state[lane] = count + len(group), end
                    write_json(state_file, states)
            except Exception as error:
                fault = fault or error
        if fault:
            raise fault
        return count

    def _connect(self, header: dict[str, Any], run_id: str) -> None:
        """Open the store, the experiment and the run, and make what is missing."""
        local, name = self.uri.startswith("sqlite:"), header["key"]
        place = (root() / "mlruns").resolve().as_uri() if local else None
        # Two processes that create a sqlite store at once break it.
        with lock(root() / ".work" / "mlflow.lock", wait=True) if local else contextlib.nullcontext():
            client = _open_client(self.uri)
            if client.get_experiment_by_name(name) is None:
                try:
                    client.create_experiment(name, place, {"mlflow.experimentKind": KIND})
                except Exception:  # has another process made it in between?
                    if client.get_experiment_by_name(name) is None:
                        raise
            experiment = client.get_experiment_by_name(name)
        self._client, self._experiment_id = client, experiment.experiment_id
        if not (run_id and self._is_active(run_id)):
            mark = {SPOOL_TAG: header["value"]["id"]}
            ours = f"tags.`{SPOOL_TAG}` = '{mark[SPOOL_TAG]}'"
            found = client.search_runs([self._experiment_id], ours, max_results=1)
            found = found or [client.create_run(self._experiment_id, header["time"], mark, header["value"]["name"])]
            run_id = found[0].info.run_id
        self._run_id = run_id

    def _is_active(self, run_id: str) -> bool:
        """Whether the run exists and is not deleted."""
        try:
            return self._client.get_run(run_id).info.lifecycle_stage == "active"
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def _deliver(self, group: list[dict[str, Any]]) -> None:
        """Send entries of one kind; one that will never be taken is dropped with a warning, not to block the rest."""
        kind, key = group[0]["kind"], group[0]["key"]
        try:
            if kind in BATCH:
                self._send_batch(kind, group)
            elif kind == "status":
                self._send_status(group[0])
            elif kind != "run":  # the header: `_connect` has made the run
                getattr(self, f"_send_{kind}")(group[0])
        except Exception as error:
            refused = getattr(error, "error_code", "") in REFUSALS and self._is_active(self._run_id)
            if not refused and not isinstance(error, _Unsendable):
                raise
            if len(group) > 1:
                self._deliver(group[: len(group) // 2])
                self._deliver(group[len(group) // 2 :])
                return
            self.dropped += 1
            _warn_once(self.folder, f"{kind} {key}", f"{kind} {key} is left out of MLflow: {self.reason(error)}")

    def _send_batch(self, kind: str, group: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        if kind == "metric":
            items: list[Any] = [Metric(e["key"], e["value"], e["time"], e["step"]) for e in group]
        else:
            items = [(Param if kind == "param" else RunTag)(e["key"], e["value"]) for e in group]
        self._client.log_batch(self._run_id, **{f"{kind}s": items}, synchronous=True)

    def _send_status(self, entry: dict[str, Any]) -> None:
        if entry["value"] == "RUNNING":
            self._client.update_run(self._run_id, "RUNNING")
        else:
            self._client.set_terminated(self._run_id, entry["value"], entry["time"])

    def _send_artifact(self, entry: dict[str, Any]) -> None:
        with _local_faults():
            path = (self.folder / entry["value"]).resolve(strict=True)
        self._client.log_artifact(self._run_id, str(path), entry["key"].rpartition("/")[0])

    def _send_image(self, entry: dict[str, Any]) -> None:
        """As MlflowClient.log_image does, but under a name that sending again overwrites."""
        key, step, moment = entry["key"].replace("/", "~"), entry["step"], entry["time"]
        name = f"{key}+step+{step}+timestamp+{moment}"
        name += f"+{uuid.uuid5(uuid.NAMESPACE_URL, name)}"
        with tempfile.TemporaryDirectory() as folder:
            with _local_faults():
                from mlflow.tracking.multimedia import compress_image_size
                from PIL import Image

                with Image.open(self.folder / entry["value"]) as image:
                    image.save(f"{folder}/{name}.png")
                    compress_image_size(image).save(f"{folder}/{name}+compressed.webp")
            self._client.log_artifacts(self._run_id, folder, "images")

    def _send_model(self, entry: dict[str, Any]) -> None:
        """As mlflow.pytorch.log_model does, but without its global state, and into the same model when sent again."""
        from mlflow.entities import LoggedModelOutput

        models = self._client.search_logged_models([self._experiment_id], f"source_run_id = '{self._run_id}'")
        if any(model.status == "READY" for model in models):
            return
        model = models[0] if models else self._client.create_logged_model(
            self._experiment_id, entry["key"], self._run_id)  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            with _local_faults():
                _export(self.folder / entry["value"], Path(folder), model, self._run_id)
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, 0)])
            self._client.log_model_artifacts(model.model_id, folder)
        self._client.finalize_logged_model(model.model_id, "READY")

    def reason(self, error: BaseException) -> str:
        """The first line of what went wrong, without the tracking URI's credentials."""
        text = f"{type(error).__name__}: {error}".split("\n")[0]
        user = "".join(re.findall(r"://(.*)@", self.uri))
        password = user.partition(":")[2]
        query = self.uri.partition("?")[2]
        for secret in (user + "@" if user else "", query, password, urllib.parse.unquote(password)):
            text = text.replace(secret, "***") if secret else text
        return text[:300]

    def warn_unsent(self, reason: str) -> None:
        where = re.sub(r"://.*@", "://", self.uri).partition("?")[0]
        _warn_once(where, "unsent", f"MLflow at {where} does not take what is logged ({reason}); all is kept in "
                   f"{self.folder}: send it later with `python -m pipeline.tracking sync`")  # fmt: skip


class _Unsendable(Exception):
    """An entry that cannot be sent, whatever the server does."""


@contextlib.contextmanager
def _local_faults() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _Unsendable(f"{type(error).__name__}: {error}") from error


def _export(source: Path, folder: Path, model: Any, run_id: str) -> None:
    """Write the generator in `source` to `folder` as an MLflow model: a pt2 graph, not a pickle.

    The example is a batch of 2: torch.export takes a dimension of 1 for a constant. The requirements are given since
    to infer them takes MLflow 10 seconds.
    """
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from pipeline.checkpoint import load_generator  # here, since it imports torch, which `sync` seldom needs

    recipe = read_json(source / "generator.json")["recipe"]
    generator, _ = load_generator(source, "raw" if recipe["ema_decay"] is None else "ema")
    latents = TensorSpec(np.dtype("float32"), (-1, recipe["latent_dim"]), "z")
    inputs = Schema([latents, TensorSpec(np.dtype("int64"), (-1,), "y")])
    mlflow.pytorch.save_model(
        generator.eval(),
        folder,
        mlflow_model=Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id),
        signature=ModelSignature(inputs=inputs),
        input_example=(np.zeros((2, recipe["latent_dim"]), "float32"), np.zeros(2, "int64")),
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "torch", "numpy")],
        serialization_format="pt2",
    )
    graph = torch.export.load(folder / "data" / "model.pt2").module()
    graph(torch.zeros(3, recipe["latent_dim"]), torch.zeros(3, dtype=torch.int64))  # raises if the batch became fixed


def _open_client(uri: str) -> Any:
    """An MlflowClient; the first one imports MLflow, told to fail early and to keep quiet."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the URI's password too
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic|torch)\.")
    from mlflow.tracking.client import MlflowClient

    for name, level in {"mlflow": "WARNING", "alembic": "WARNING", "urllib3.connectionpool": "ERROR"}.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(tracking_uri=uri)


def _clean(key: str) -> str:
    """`key` in the characters and the length that MLflow allows."""
    return re.sub(r"[^\w\-./ ]", "_", key, flags=re.ASCII)[:250]


def _warn_once(where: Path | str, what: str, message: str) -> None:
    if (str(where), what) not in _warned:
        _warned.add((str(where), what))
        logger.warning(message)


def sync() -> None:
    """Send what is unsent of every spool under .work/, and print a line for each.

    Raises:
        PipelineError: something could not be sent.
    """
    failed, folders = 0, sorted(path.parent for path in (root() / ".work").glob("*/spool.jsonl"))
    for folder in folders:
        sender = _Sender(folder)
        try:
            count = sender.send()
            text = "another process is sending it" if count is None else f"{count} entries sent"
            failed += bool(sender.dropped)
            text += f", {sender.dropped} left out" if sender.dropped else ""
        except Exception as error:
            failed, text = failed + 1, sender.reason(error)
        header = next(read(folder / "spool.jsonl"), ({"value": {"name": folder.name}}, 0))[0]
        print(f"{header['value']['name']}: {text}", flush=True)
    if failed:
        raise PipelineError(
            f"{failed} of {len(folders)} runs could not be sent to MLflow completely: start its server or set "
            "MLFLOW_TRACKING_URI, then run `python -m pipeline.tracking sync` again"
        )
    if not folders:
        print("nothing to send")


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.tracking", description=(__doc__ or "").split("\n")[0])
    parser.add_subparsers(dest="command").add_parser("sync", help="send what is unsent of all spools under .work/")
    if parser.parse_args(arguments).command == "sync":
        sync()
    else:
        parser.print_help()


if __name__ == "__main__":
    main()
