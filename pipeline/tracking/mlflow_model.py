"""The exported generator as an MLflow model, which MLflow loads and serves without this package."""

import contextlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.files import read_json

RANKED_TAG = "pipeline.tracking.ranked"  # of a model version: when its run was named best


def kept_weights(recipe: Mapping[str, Any]) -> str:
    """The weights of a generator that are worth passing on: their average, where its recipe keeps one."""
    return "ema" if recipe["ema_decay"] is not None or recipe.get("ema_half_life") is not None else "raw"


def export(source: Path, folder: Path, model: Any, run_id: str) -> None:
    """Write the generator in `source` to `folder` as an MLflow model: a pt2 graph, not a pickle.

    The example is a batch of 2: torch.export takes a dimension of 1 for a constant. The requirements are given since
    to infer them takes MLflow 10 seconds.
    """
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from pipeline.gan.checkpoint import load_generator  # here, since it imports torch, which `sync` seldom needs

    recipe = read_json(source / "generator.json")["recipe"]
    generator, _ = load_generator(source, kept_weights(recipe))
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


def register(client: Any, name: str, model_id: str, run_id: str) -> Any:
    """Make a run's model a version of the registered model `name`, unless it is, and return that."""
    with contextlib.suppress(Exception):  # it exists; else what follows fails
        client.create_registered_model(name)
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if known:
        return known[0]
    run = client.get_run(run_id).info.run_name
    return client.create_model_version(name, f"models:/{model_id}", run_id, description=run, model_id=model_id)


def give_alias(client: Any, version: Any, alias: str, named: int) -> None:
    """Give a version of a registered model the alias.

    named: when the run was named so, in ms; the alias stays with a run that was named so later.
    """
    name = version.name
    if all(int(v.tags.get(RANKED_TAG, 0)) <= named for v in client.search_model_versions(f"name = '{name}'")):
        client.set_model_version_tag(name, version.version, RANKED_TAG, str(named))
        client.set_registered_model_alias(name, alias, version.version)
