"""Sends an outbox to MLflow; knows what a server refuses for good, and what it has received already.

The MLflow run has a tag with the id of its outbox. For each server, mlflow.json keeps the run's id and the byte up to
which the outbox was sent. So neither a lost answer nor a killed process duplicates anything. A run whose outbox names a
parent is a nested run of the parent's: whichever process comes first creates the parent's run, under the parent's lock,
but only the parent's own uploader sends the parent's entries.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.errors import PipelineError, visible
from pipeline.core.files import fsync, read_json, write_json
from pipeline.core.paths import root
from pipeline.tracking.addresses import CREDENTIALS, without_credentials
from pipeline.tracking.mlflow_client import RUN_TAG, active_run, has_run, make_store, open_client, relocate, store_uri
from pipeline.tracking.mlflow_model import export, give_alias, register
from pipeline.tracking.outbox import BATCH, ends_a_line, lock, read_header, requests
from pipeline.tracking.warn_once import warn_once

# Streams are sent independently, each up to its own byte: a server that refuses files still gets the points.
STREAMS = {
    "sent": {"run", *BATCH, "status", "dataset", "view"},
    "sent_files": {"image", "artifact", "model", "version"},
}
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "RESOURCE_DOES_NOT_EXIST"}
EXPERIMENT_KIND = "custom_model_development"  # makes the UI open on training runs, not on traces of agents
PARENT_TAG = "mlflow.parentRunId"  # MLflow's UI nests runs by this tag
THUMBNAIL = (256, 256)  # pixels; what MlflowClient.log_image stores beside an image


class Uploader:
    """Sends the outbox in `folder` to `uri`, by default MLFLOW_TRACKING_URI or the project's own mlflow.db.

    `dropped` counts the entries that MLflow refused for good.
    """

    def __init__(self, folder: Path, uri: str = "") -> None:
        self.folder = folder
        self.dropped = 0
        self._store = root().resolve() / "mlflow.db"
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or store_uri(self._store)
        self._server = hashlib.sha256(self.uri.encode()).hexdigest()  # the URI itself may hold a password
        self._state_file = self.folder / "mlflow.json"
        self._client: Any = None
        self._run_id = ""
        self._experiment_id = self._key = ""
        header = read_header(folder) if (folder / "outbox.jsonl").exists() else None
        self.begun = header["time"] / 1000 if header else 0.0  # seconds since the epoch

    def is_settled(self) -> bool:
        """Whether all is sent, to a run that is still there; False where only MLflow's client, not a file, can tell."""
        state, path = self._states()[self._server], self.folder / "outbox.jsonl"
        if not has_run(self._store, state["run_id"]):
            return False
        sent = [(state[stream], kinds) for stream, kinds in STREAMS.items()]
        size = path.stat().st_size
        return all(ends_a_line(path, end) and not any(requests(path, end, size, kinds)) for end, kinds in sent)

    def send(self) -> int | None:
        """Send the unsent entries and return their number; None if another process is sending this outbox.

        Raises:
            Exception: whatever MLflow raises. Entries sent before it are remembered as sent.
        """
        with lock(self.folder / "outbox.lock", wait=False) as ours:
            try:
                return self._send() if ours else None
            except Exception:
                self._client = None  # reconnect next time, and check that the run still exists
                raise

    def run_for_children(self, client: Any) -> str:
        """The id of this outbox's run, which is created if `client` does not find it; no entries are sent.

        "" if there is no outbox. It waits only if the run must be created, because another process may be creating it.
        """
        header = read_header(self.folder) if (self.folder / "outbox.jsonl").exists() else None
        if header is None:
            return ""
        run_id = str(self._states()[self._server]["run_id"])
        if run_id and active_run(client, run_id):
            return run_id
        with lock(self.folder / "outbox.lock", wait=True):
            write_json(self._state_file, self._open(header))
            return self._run_id

    def _states(self) -> dict[str, Any]:
        """For each server, the run there and the byte up to which each stream is sent.

        A damaged state file is ignored: the run is found by its tag and everything is resent.
        """
        try:
            states = read_json(self._state_file) if self._state_file.exists() else {}
        except PipelineError:
            states = {}
        known = states if isinstance(states, dict) else {}
        return {self._server: {"run_id": ""}} | {k: v for k, v in known.items() if _is_state(v)}

    def _open(self, header: dict[str, Any]) -> dict[str, Any]:
        """Find or create the run, and return the states. Needs the outbox's lock.

        Everything is sent again if the run is new or if the outbox was cut.
        """
        states = self._states()
        state = states[self._server]
        # The run id differs if a nested run's uploader has created this run again.
        if self._client is None or state["run_id"] != self._run_id:
            self._connect(header, state["run_id"])
        cut = not all(ends_a_line(self.folder / "outbox.jsonl", state.get(stream, 0)) for stream in STREAMS)
        if state["run_id"] != self._run_id or cut:
            state |= {"run_id": self._run_id, "experiment": header["key"], **dict.fromkeys(STREAMS, 0)}
        return states

    def _send(self) -> int:
        header = read_header(self.folder)
        if header is None:
            return 0
        states = self._open(header)
        state = states[self._server]
        path = self.folder / "outbox.jsonl"
        stop = path.stat().st_size
        fsync(path)  # entries that were sent and then lost in a power cut would be logged and sent a second time
        count = 0
        fault: Exception | None = None
        for stream, kinds in STREAMS.items():
            try:
                for group, end in requests(path, state[stream], stop, kinds):
                    self._deliver(group)
                    count += len(group)
                    state[stream] = end
                    write_json(self._state_file, states)
            except Exception as error:
                fault = fault or error
        if fault:
            raise fault
        return count

    def _connect(self, header: dict[str, Any], run_id: str) -> None:
        """Open the store, the experiment and the run, and create what is missing: a parent's run before its child's."""
        client, run, experiment_id = self._open_experiment(header["key"], run_id)
        tags = {RUN_TAG: header["value"]["id"]}
        parent = self._parent_run(header, client)
        if parent:
            tags[PARENT_TAG] = parent
        if run is None:
            ours = f"tags.`{RUN_TAG}` = '{tags[RUN_TAG]}'"
            found = client.search_runs([experiment_id], ours, max_results=1)
            name = header["value"]["name"]
            run = found[0] if found else client.create_run(experiment_id, header["time"], tags, name)
        if not run.info.run_id:
            raise PipelineError("its answers are not those of an MLflow server")
        # The parent's run may have been created again, or later than this one.
        if parent and run.data.tags.get(PARENT_TAG) != parent:
            client.set_tag(run.info.run_id, PARENT_TAG, parent)
        self._client, self._experiment_id, self._run_id = client, experiment_id, run.info.run_id
        self._key = header["key"]

    def _open_experiment(self, name: str, run_id: str) -> tuple[Any, Any, str]:
        """A client, the run if it is there, and the id of its MLflow experiment, whatever somebody has renamed it to.

        Without a run the experiment is `name`, which is created if it does not exist. If somebody has deleted it, it
        stays deleted, and `name-2` and so on is taken.
        """
        if self.uri in ("sqlite://", "sqlite:///:memory:"):
            raise PipelineError(f"{self.uri} is a database in memory, which is lost when this process ends")
        local = self.uri.startswith("sqlite:///")
        artifacts = (root() / "mlruns").resolve().as_uri() if local else None
        # Two processes that create a sqlite store at once break it.
        with lock(root() / ".work" / "mlflow.lock", wait=True) if local else contextlib.nullcontext():
            if self.uri == store_uri(self._store) and artifacts:
                make_store(self._store)
                relocate(self._store, artifacts)
            elif local:
                make_store(Path(self.uri.removeprefix("sqlite:///").partition("?")[0]))
            client = open_client(self.uri)
            if run_id and (run := active_run(client, run_id)):
                return client, run, run.info.experiment_id
            for number in itertools.count(1):
                wanted = name if number == 1 else f"{name}-{number}"
                experiment = client.get_experiment_by_name(wanted)
                if experiment is None:
                    try:
                        client.create_experiment(wanted, artifacts, {"mlflow.experimentKind": EXPERIMENT_KIND})
                    except Exception:  # another process may have created it in the meantime
                        if client.get_experiment_by_name(wanted) is None:
                            raise
                    experiment = client.get_experiment_by_name(wanted)
                if experiment.lifecycle_stage != "deleted":  # a server that is no MLflow says nothing
                    return client, None, experiment.experiment_id
        raise AssertionError("unreachable")

    def _parent_run(self, header: dict[str, Any], client: Any) -> str:
        """The id of the parent's run on this server; "" if there is no parent or it has no outbox."""
        if "parent" not in header["value"]:
            return ""
        parent = Uploader(Path(os.path.realpath(self.folder / header["value"]["parent"])), self.uri)
        return parent.run_for_children(client)

    def _deliver(self, group: list[dict[str, Any]]) -> None:
        """Send entries of one kind. What MLflow refuses for good is dropped with a warning, and the rest is sent."""
        kind, key = group[0]["kind"], group[0]["key"]
        try:
            if kind in BATCH:
                self._send_batch(kind, group)
            elif kind == "status":
                self._send_status(group[0])
            elif kind != "run":  # the header: `_connect` has created the run
                getattr(self, f"_send_{kind}")(group[0])
        except Exception as error:
            refused = getattr(error, "error_code", "") in REFUSALS and active_run(self._client, self._run_id)
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

    def _send_dataset(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        held, source = entry["value"], json.dumps({"uri": "data/prepared"})
        made = Dataset(entry["key"], held["digest"], "local", source, profile=json.dumps(held["profile"]))
        self._client.log_inputs(self._run_id, [DatasetInput(made, [InputTag("mlflow.data.context", "training")])])

    def _send_view(self, entry: dict[str, Any]) -> None:
        self._client.set_experiment_tag(self._experiment_id, entry["key"], entry["value"])

    def _send_version(self, entry: dict[str, Any]) -> None:
        models = self._client.search_logged_models([self._experiment_id], f"source_run_id = '{self._run_id}'")
        if not models:
            raise _Unsendable("the run has no model: runtime.log_model was false")
        version = register(self._client, self._key, models[0].model_id, self._run_id)
        if entry["key"]:
            give_alias(self._client, version, entry["key"], entry["value"])

    def _send_artifact(self, entry: dict[str, Any]) -> None:
        with _local_faults():
            path = (self.folder / entry["value"]).resolve(strict=True)
        self._client.log_artifact(self._run_id, str(path), entry["key"].rpartition("/")[0])

    def _send_image(self, entry: dict[str, Any]) -> None:
        """As MlflowClient.log_image does, but with a name that stays the same, so that sending again overwrites.

        The pattern of the name is MLflow's own and not documented; a test compares it with log_image.
        """
        key = entry["key"].replace("/", "~")
        name = f"{key}+step+{entry['step']}+timestamp+{entry['time']}"
        name += f"+{uuid.uuid5(uuid.NAMESPACE_URL, name)}"
        with tempfile.TemporaryDirectory() as folder:
            with _local_faults():
                from PIL import Image, ImageOps

                with Image.open(self.folder / entry["value"]) as image:
                    image.save(f"{folder}/{name}.png")
                    ImageOps.contain(image, THUMBNAIL).save(f"{folder}/{name}+compressed.webp")
            self._client.log_artifacts(self._run_id, folder, "images")

    def _send_model(self, entry: dict[str, Any]) -> None:
        """As mlflow.pytorch.log_model does, but without its global state, and to the same model when sent again."""
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
        """The first line of an error, without the credentials of the tracking URI."""
        lines = f"{error}".split("\n")
        # SQLAlchemy may say first, in brackets, what it was about to do.
        text = f"{type(error).__name__}: {next((line for line in lines if not line.startswith('(raised as')), '')}"
        user = found[2] if (found := CREDENTIALS.match(self.uri)) else ""
        password = user.partition(":")[2]
        query = self.uri.partition("?")[2]
        for secret in (user + "@" if user else "", query, password, urllib.parse.unquote(password)):
            text = text.replace(secret, "***") if secret else text
        return visible(text[:300])

    @property
    def remedy(self) -> str:
        """What to do if the store accepts nothing."""
        if self.uri.startswith("sqlite:///"):
            place = self.uri.removeprefix("sqlite:///").partition("?")[0]
            return f"see that {place}, its folder and mlruns/ can be written"
        return "start the MLflow server or set MLFLOW_TRACKING_URI"

    def warn_unsent(self, reason: str) -> None:
        """Warn once for each server that entries could not be sent, and say how to send them later."""
        where = without_credentials(self.uri)
        warn_once(
            where,
            "unsent",
            f"logging to MLflow at {where} failed ({reason}); everything is kept in {self.folder}: "
            f"{self.remedy}, then send it with `python -m pipeline.tracking sync`",
        )


def _is_state(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("run_id"), str):
        return False
    return not value["run_id"] or all(isinstance(value.get(s), int) and value[s] >= 0 for s in STREAMS)


class _Unsendable(Exception):
    """An entry that cannot be sent to any server, for example because its file is missing."""


@contextlib.contextmanager
def _local_faults() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):  # $TMPDIR is full: it may have room later
            raise
        raise _Unsendable(f"{type(error).__name__}: {error}") from error
