"""The view `ranking` of an MLflow experiment: its runs sorted by the distance, with columns that say what each one is.

MLflow's pages take the order of runs and the columns from the browser, or from a view that was saved as a tag of the
experiment. The tag's form is MLflow's own and not documented: if it changes, the table opens as MLflow pleases.
"""

import base64
import contextlib
import json
import sqlite3
import zlib
from pathlib import Path

VIEW = "ranking"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
FURTHER = ("metrics.`ratio_to_floor`", "tags.`model`", "params.`seed`")  # columns after the distance


def ranking_view(metric: str) -> str:
    """The value of `VIEW_TAG`: runs by `metric`, the lowest first."""
    distance = f"metrics.`{metric}`"
    state = {"orderByKey": distance, "orderByAsc": True, "selectedColumns": [distance, *FURTHER]}
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": VIEW, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})


def ranked_experiments(store: Path) -> dict[str, str]:
    """The experiments in a sqlite store that have the view, newest first: names, and paths on MLflow's pages."""
    query = (
        "SELECT name, experiment_id FROM experiments JOIN experiment_tags USING (experiment_id) "
        "WHERE key = ? AND lifecycle_stage = 'active' ORDER BY last_update_time DESC, experiment_id DESC"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute(query, (VIEW_TAG,)).fetchall()
    except sqlite3.Error:  # there is no store yet, or one of another version
        return {}
    page = f"runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
    return {name: f"#/experiments/{number}/{page}" for name, number in found}
