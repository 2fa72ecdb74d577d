"""MLflow's client, opened so that it fails early and prints little, and our local sqlite store."""

import logging
import os
import shutil
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


def active_run(client: Any, run_id: str) -> Any:
    """The run, or None if it does not exist or is deleted."""
    try:
        run = client.get_run(run_id)
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def open_client(uri: str) -> Any:
    """An MlflowClient. The first call imports MLflow, with settings that make it fail early and print little."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the password in the URI
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic|torch)\.")
    from mlflow.tracking.client import MlflowClient

    if not uri.startswith("http"):
        from mlflow.store.db import utils

        # MLflow retries for two minutes to open a database; our next round comes sooner. There is no public setting: a
        # test fails if MLflow no longer reads this constant.
        utils.MAX_RETRY_COUNT = 0
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(tracking_uri=uri)


def make_store(path: Path) -> None:
    """Create a sqlite store whole or not at all: MLflow cannot repair one in which only some tables exist."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "mlflow.db"
        open_client(f"sqlite:///{store}").search_experiments(max_results=1)
        with atomic_path(path) as temporary:
            shutil.copyfile(store, temporary)
