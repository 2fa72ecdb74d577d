"""Sends a spool to MLflow: all that knows MLflow's client, what a server refuses, and what it may have got already.

The run carries a mark of its spool, and a spool keeps for each server the run and the byte up to which it is sent: so
an answer that was lost, and a process that was killed, add nothing twice. A run whose spool names a parent is nested in
the parent's run: whoever comes first makes that, under the parent's lock, but only its own sender sends what it logs.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import urllib.parse
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.core.files import atomic_path, fsync, read_json, write_json
from pipeline.core.paths import root
from pipeline.tracking.mlflow_model import export
from pipeline.tracking.outbox import BATCH, ends_a_line, first, groups, lock

SETTINGS = {"HTTP_REQUEST_MAX_RETRIES": "1", "HTTP_REQUEST_TIMEOUT": "10", "DISABLE_TELEMETRY": "true",
            "LOGGING_LEVEL": "WARNING", "ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}  # fmt: skip
# Of what goes wrong with a database, MLflow logs a traceback, and then raises it.
LOGGED = {"mlflow": "WARNING", "alembic": "WARNING", "urllib3.connectionpool": "ERROR",
          "mlflow.store.db.utils": "CRITICAL"}  # fmt: skip
LANES = {"sent": {"run", *BATCH, "status"}, "sent_files": {"image", "artifact", "model"}}
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "RESOURCE_DOES_NOT_EXIST"}
CREDENTIALS = re.compile(r"([\w+.-]+://)?(.*)@")  # of a URI, after its scheme
KIND = "custom_model_development"  # makes the UI open on training runs, not on traces of agents
SPOOL_TAG = "pipeline.tracking.outbox"  # marks our run on the server: a lost answer to its creation makes no second run
PARENT_TAG = "mlflow.parentRunId"  # what the UI nests runs by

logger = logging.getLogger(__name__)
warned: set[tuple[str, str]] = set()


class Uploader:
    """The only part that talks to MLflow: it sends the spool in `folder` to `uri`, by default the environment's."""

    def __init__(self, folder: Path, uri: str = "") -> None:
        self.folder, self.dropped = folder, 0
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root().resolve() / 'mlflow.db'}"
        self._server = hashlib.sha256(self.uri.encode()).hexdigest()  # the URI itself may hold a password
        self._state_file = self.folder / "mlflow.json"
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

    def run_for_children(self, client: Any) -> str:
        """The id of this spool's run; one that `client` does not find is made, and nothing else is sent.

        Without a spool there is no run, and "". It waits only where the run must be made, for who may be making it.
        """
        header = first(self.folder) if (self.folder / "outbox.jsonl").exists() else None
        if header is None:
            return ""
        run_id = self._states()[self._server]["run_id"]
        if not (run_id and _active_run(client, run_id)):
            with lock(self.folder / "spool.lock", wait=True):
                states = self._open(header)
                write_json(self._state_file, states)
                run_id = self._run_id
        return run_id

    def _states(self) -> dict[str, Any]:
        """For each server the run there and the byte up to which each lane is sent.

        Of a damaged file nothing is believed: the run is found by its mark, and all is sent again.
        """
        try:
            states = read_json(self._state_file) if self._state_file.exists() else {}
        except PipelineError:
            states = {}
        known = states if isinstance(states, dict) else {}
        return {self._server: {"run_id": ""}} | {k: v for k, v in known.items() if _is_state(v)}

    def _open(self, header: dict[str, Any]) -> dict[str, Any]:
        """Make sure of the run, and return the states. Needs the spool's lock.

        Of a spool that was cut, and to a new run, everything is sent.
        """
        states = self._states()
        state = states[self._server]
        if self._client is None or state["run_id"] != self._run_id:  # the latter: a child's sender made it anew
            self._connect(header, state["run_id"])
        cut = not all(ends_a_line(self.folder / "outbox.jsonl", state.get(lane, 0)) for lane in LANES)
        if state["run_id"] != self._run_id or cut:
            state |= {"run_id": self._run_id, "experiment": header["key"], **dict.fromkeys(LANES, 0)}
        return states

    def _send(self) -> int:
        header = first(self.folder)
        if header is None:
            return 0
        states = self._open(header)
        state, count, fault = states[self._server], 0, None
        path = self.folder / "outbox.jsonl"
        stop = path.stat().st_size
        fsync(path)  # what a power cut took back, sent, would be logged and sent anew
        for lane, kinds in LANES.items():
            try:
                for group, end in groups(path, state[lane], stop, kinds):
                    self._deliver(group)
                    count, state[lane] = count + len(group), end
                    write_json(self._state_file, states)
            except Exception as error:
                fault = fault or error
        if fault:
            raise fault
        return count

    def _connect(self, header: dict[str, Any], run_id: str) -> None:
        """Open the store, the experiment and the run, and make what is missing: a parent's run before its child's."""
        local, name = self.uri.startswith("sqlite:///"), header["key"]
        place = (root() / "mlruns").resolve().as_uri() if local else None
        # Two processes that create a sqlite store at once break it.
        with lock(root() / ".work" / "mlflow.lock", wait=True) if local else contextlib.nullcontext():
            if local:
                _make_store(Path(self.uri.removeprefix("sqlite:///").partition("?")[0]))
            client = open_client(self.uri)
            if client.get_experiment_by_name(name) is None:
                try:
                    client.create_experiment(name, place, {"mlflow.experimentKind": KIND})
                except Exception:  # has another process made it in between?
                    if client.get_experiment_by_name(name) is None:
                        raise
            experiment = client.get_experiment_by_name(name)
        tags = {SPOOL_TAG: header["value"]["id"]}
        if parent := self._parent_run(header, client):
            tags[PARENT_TAG] = parent
        run = _active_run(client, run_id) if run_id else None
        if run is None:
            ours = f"tags.`{SPOOL_TAG}` = '{tags[SPOOL_TAG]}'"
            found = client.search_runs([experiment.experiment_id], ours, max_results=1)
            run = found[0] if found else client.create_run(
                experiment.experiment_id, header["time"], tags, header["value"]["name"])  # fmt: skip
        if not run.info.run_id:
            raise PipelineError("its answers are not those of MLflow")
        if parent and run.data.tags.get(PARENT_TAG) != parent:  # the parent's run was made anew, or came later
            client.set_tag(run.info.run_id, PARENT_TAG, parent)
        self._client, self._experiment_id, self._run_id = client, experiment.experiment_id, run.info.run_id

    def _parent_run(self, header: dict[str, Any], client: Any) -> str:
        """The run that the parent's spool has on this server, or ""."""
        if "parent" not in header["value"]:
            return ""
        parent = Uploader(Path(os.path.realpath(self.folder / header["value"]["parent"])), self.uri)
        return parent.run_for_children(client)

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
            refused = getattr(error, "error_code", "") in REFUSALS and _active_run(self._client, self._run_id)
            if not refused and not isinstance(error, _Unsendable):
                raise
            if len(group) > 1:
                self._deliver(group[: len(group) // 2])
                self._deliver(group[len(group) // 2 :])
                return
            self.dropped += 1
            warn_once(self.folder, f"{kind} {key}", f"{kind} {key} is left out of MLflow: {self.reason(error)}")

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
                export(self.folder / entry["value"], Path(folder), model, self._run_id)
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, 0)])
            self._client.log_model_artifacts(model.model_id, folder)
        self._client.finalize_logged_model(model.model_id, "READY")

    def reason(self, error: BaseException) -> str:
        """The first line of what went wrong, without the tracking URI's credentials."""
        text = f"{type(error).__name__}: {error}".split("\n")[0]
        user = found[2] if (found := CREDENTIALS.match(self.uri)) else ""
        password = user.partition(":")[2]
        query = self.uri.partition("?")[2]
        for secret in (user + "@" if user else "", query, password, urllib.parse.unquote(password)):
            text = text.replace(secret, "***") if secret else text
        return text[:300]

    def warn_unsent(self, reason: str) -> None:
        where = CREDENTIALS.sub(r"\1", self.uri).partition("?")[0]
        warn_once(where, "unsent", f"MLflow at {where} does not take what is logged ({reason}); all is kept in "
                   f"{self.folder}: send it later with `python -m pipeline.tracking sync`")  # fmt: skip


def _is_state(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("run_id"), str):
        return False
    return not value["run_id"] or all(isinstance(value.get(lane), int) and value[lane] >= 0 for lane in LANES)


class _Unsendable(Exception):
    """An entry that cannot be sent, whatever the server does."""


@contextlib.contextmanager
def _local_faults() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):  # of $TMPDIR: there may be room later
            raise
        raise _Unsendable(f"{type(error).__name__}: {error}") from error


def _active_run(client: Any, run_id: str) -> Any:
    """The run, or None if it does not exist or is deleted."""
    try:
        run = client.get_run(run_id)
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def open_client(uri: str) -> Any:
    """An MlflowClient; the first one imports MLflow, told to fail early and to keep quiet."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the URI's password too
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic|torch)\.")
    from mlflow.tracking.client import MlflowClient

    if not uri.startswith("http"):
        from mlflow.store.db import utils

        # MLflow would try for two minutes to open a database: our own next round comes sooner.
        utils.MAX_RETRY_COUNT = 0
    for name, level in LOGGED.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(tracking_uri=uri)


def _make_store(path: Path) -> None:
    """Make a sqlite store whole or not at all: of one whose tables were half made, MLflow can make nothing any more."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "mlflow.db"
        open_client(f"sqlite:///{made}").search_experiments(max_results=1)
        with atomic_path(path) as temporary:
            shutil.copyfile(made, temporary)


def warn_once(where: Path | str, what: str, message: str) -> None:
    if (str(where), what) not in warned:
        warned.add((str(where), what))
        logger.warning(message)
