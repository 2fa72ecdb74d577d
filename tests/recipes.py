"""What most tests train: one tiny recipe, one short budget, params that hold them, and a few random images.

Fields that are not named here are those of params.yaml's `recipe:`, so a new field changes no test.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.data.batches import ImageSet
from pipeline.models import NETWORKS
from pipeline.params import Params, Recipe, TrainParams, load, parse

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (1, 16, 16)
CLASSES = 3
BUDGET: dict[str, Any] = {
    "steps": 4, "precision": "fp32", "accumulate": 1, "channels_last": False, "report_every": 2, "grid_every": 9,
    "score_every": 9, "score_samples": 2, "rollbacks": 0, "rollback_lr": 0.5,
}  # fmt: skip
RECIPE: dict[str, Any] = load(ROOT / "params.yaml").recipe.model_dump(mode="json") | {
    "network": "dcgan", "loss": "bce", "width_g": 4, "width_d": 4, "latent_dim": 5, "norm_d": "none", "init": "xavier",
    "batch_size": 4, "n_critic": 1, "lr_g": 1e-3, "lr_d": 1e-3, "beta1": 0.5, "beta2": 0.999, "lr_decay": "none",
    "ema_decay": 0.9, "flip": True, "dequantise": True,
}  # fmt: skip
FLOW: dict[str, Any] = {"network": "unet", "loss": "flow_matching", "latent_dim": 256, "sampling_steps": 2}


def tiny_recipe(**changes: Any) -> Recipe:
    """The tiny recipe with some fields changed: ``tiny_recipe(loss="hinge")``.

    A network that scales itself goes without the spectral norm that was asked for.
    """
    recipe = Recipe.model_validate(RECIPE | changes)
    if recipe.network not in NETWORKS or NETWORKS[recipe.network].spectral:
        return recipe
    norm = "none" if recipe.norm_d == "spectral" else recipe.norm_d
    return recipe.model_copy(update={"norm_d": norm, "spectral_norm_g": False})


def tiny_budget(**changes: Any) -> TrainParams:
    """The short budget with some fields changed: ``tiny_budget(steps=2)``."""
    return TrainParams.model_validate(BUDGET | changes)


def tiny_params(changes: Mapping[str, Any] | None = None, **models: Mapping[str, Any]) -> Params:
    """params.yaml with the tiny recipe, the short budget and `models`, by default all of its names but flows.

    Args:
        changes: values by dotted name, as `Params.override` takes them.
        models: what each model changes of the tiny recipe: ``tiny_params(dcgan={}, sagan={"network": "sagan"})``.
    """
    tree = load(ROOT / "params.yaml").sparse()
    if not models:
        networks = {name: own.get("network", "cnn") for name, own in tree["models"].items()}
        models = {name: {"network": network} for name, network in networks.items() if not NETWORKS[network].flow}
    compared = [name for name in tree["compare"]["models"] if name in models] or list(models)
    tree |= {"recipe": RECIPE, "train": BUDGET, "models": models}
    tree |= {"compare": {"models": compared, "seeds": [0]}}
    tree["search"] |= {"steps": 4, "score_every": 2, "samples": 10, "space": {"lr_g": {"low": 1e-4, "high": 1e-2}}}
    tree["runtime"] |= {"device": "cpu", "tracking": False, "log_model": False, "checkpoint_every": 2}
    return parse(tree, "tests/recipes.py").override(changes or {})


def image_set(
    count: int = 24, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES, device: str = "cpu"
) -> ImageSet:
    """The same `count` random images each time, uint8 (N, C, S, S), with the labels 0, 1, .. in turn."""
    source = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *shape), generator=source, dtype=torch.uint8)
    labels = torch.arange(count) % classes if classes else torch.zeros(count, dtype=torch.int64)
    return ImageSet(images.to(device), labels.to(device), classes)
