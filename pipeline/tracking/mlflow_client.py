"""MLflow's client, opened so that it fails early and prints little, and our local sqlite store."""

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
import warnings
from pathlib import Path
from typing import Any

from pipeline.core.files import atomic_path

SETTINGS = {"HTTP_REQUEST_MAX_RETRIES": "1", "HTTP_REQUEST_TIMEOUT": "10", "DISABLE_TELEMETRY": "true",
            "LOGGING_LEVEL": "WARNING", "ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}  # fmt: skip
# MLflow logs the traceback of a database error before it raises the error; we report it ourselves.
LOG_LEVELS = {"mlflow": "WARNING", "alembic": "WARNING", "urllib3.connectionpool": "ERROR",
          "mlflow.store.db.utils": "CRITICAL"}  # fmt: skip

RUN_TAG = "pipeline.tracking.outbox"  # finds our run again if the answer to its creation was lost
# Where MLflow's tables hold paths; private to MLflow: a test with a moved store fails if they change.
LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def active_run(client: Any, run_id: str) -> Any:
    """The run, or None if it does not exist or is deleted."""
    try:
        run = client.get_run(run_id)
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def has_run(store: Path, run_id: str) -> bool:
    """Whether a sqlite store holds the run, not deleted. It is asked without MLflow, which takes seconds to import."""
    query = "SELECT 1 FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as database,
    ):
        return database.execute(query, (run_id,)).fetchone() is not None
    return False  # it does not exist, or is none of MLflow's


def open_client(uri: str) -> Any:
    """An MlflowClient. The first call imports MLflow, with settings that make it fail early and print little."""
    _import_mlflow(local=not uri.startswith("http"))
    from mlflow.tracking.client import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _import_mlflow(local: bool) -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    if not os.path.isabs(os.path.expanduser("~")):  # a user without a home, as in containers: MLflow would not start
        os.environ["HOME"] = tempfile.gettempdir()
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the password in the URI
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic|torch)\.")
    import mlflow.tracking.client  # noqa: F401

    if local:
        from mlflow.store.db import utils

        # MLflow retries for two minutes to open a database; our next round comes sooner. There is no public setting: a
        # test fails if MLflow no longer reads this constant.
        utils.MAX_RETRY_COUNT = 0
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def make_store(path: Path) -> None:
    """Create a sqlite store whole or not at all: MLflow cannot repair one in which only some tables exist.

    MLflow writes the folder of its own first experiment into SQL without quoting, and fails at `a'b"c` and at `:a`. So
    it is given another folder, which is then replaced in the table.
    """
    if path.exists():
        return
    _import_mlflow(local=True)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "mlflow.db"
        SqlAlchemyStore(f"sqlite:///{store}", folder)  # type: ignore[no-untyped-call]
        with contextlib.closing(sqlite3.connect(store)) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ?", (str(Path("mlruns/0").absolute()),))
        with atomic_path(path) as temporary:
            shutil.copyfile(store, temporary)


def store_uri(path: Path) -> str:
    """The tracking URI of a sqlite file: absolute, or relative if a ?, # or % in the path would end the URI early."""
    plain = not any(letter in str(path) for letter in "?#%")
    return f"sqlite:///{path if plain else os.path.relpath(path)}"


def relocate(store: Path, artifacts: str) -> None:
    """Point a sqlite store to the folder `artifacts`, a URI, if its project was moved or copied from elsewhere.

    MLflow records absolute paths of files and has no command to change them; so its tables are. Only those below the
    folder mlruns of an experiment of ours are touched.
    """
    with contextlib.closing(sqlite3.connect(store)) as database, database:
        tagged = "SELECT DISTINCT experiment_id FROM runs JOIN tags USING (run_uuid) WHERE key = ?"
        ours = database.execute(tagged, (RUN_TAG,))
        for (experiment,) in ours.fetchall():
            found = database.execute("SELECT artifact_location FROM experiments WHERE experiment_id = ?", (experiment,))
            former = str(found.fetchone()[0])
            if former == artifacts or not former.endswith("/mlruns"):
                continue
            for table, column in LOCATIONS:
                below = f"{column} = ? OR substr({column}, 1, ?) = ?"
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {below}",
                    (artifacts, len(former) + 1, former, len(former) + 1, f"{former}/"),
                )
