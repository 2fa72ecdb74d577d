"""What MLflow's experiments are called and where their pages are, as far as that is known before anything has run.

MLflow's pages find an experiment and a run by numbers of the store alone, but a registered model by its name.
"""

import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.params import Params

HOST, PORT = "127.0.0.1", 5000
LOCAL = f"http://{HOST}:{PORT}"  # where `make ui` serves them
CREDENTIALS = re.compile(r"([\w+.-]+://)?(.*)@")  # of a URI, after its scheme


def group_name(params: Params, init_from: str | None, description: Mapping[str, Any]) -> str:
    """The experiment of runs on the data of a dataset.json, and the registered model of their generators.

    One holds one data set and protocol, and what training begins with, `init_from` of the recipe: runs that it lists
    side by side are comparable. So what is measured by another protocol becomes another run.
    """
    metrics, generate = params.metrics, params.generate
    measured = [description["sha256"], metrics.extractor, metrics.weights, metrics.unknown_weights]
    measured += [generate.samples, generate.seed, generate.weights, generate.labels, init_from]
    key = hashlib.sha256(json.dumps(measured).encode()).hexdigest()[:6]
    return f"{description['name']}-{description['image_shape'][1]}px-{metrics.extractor}-{key}"


def without_credentials(uri: str) -> str:
    """A tracking URI without user, password and query, any of which may hold a secret."""
    return CREDENTIALS.sub(r"\1", uri).partition("?")[0]


def server() -> str:
    """The address of MLflow's pages, without credentials; empty if a store is named that `make ui` does not show."""
    address = without_credentials(os.environ.get("MLFLOW_TRACKING_URI") or LOCAL).partition("#")[0].rstrip("/")
    return address if re.fullmatch("https?://.+", address) else ""


def model_pages(params: Params, recipes: Iterable[Mapping[str, Any]], description: Mapping[str, Any]) -> dict[str, str]:
    """The pages of the registered models of trained recipes by their names, which are those of their experiments."""
    if not (params.runtime.tracking and params.runtime.log_model and server()):
        return {}
    names = (group_name(params, recipe.get("init_from"), description) for recipe in recipes)
    return {name: f"{server()}/#/models/{urllib.parse.quote(name, safe='')}" for name in names}
