"""What is known of features that come from files: by which network they were made, as the files or the caller say.

No network is needed then, and no weights.
"""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.core.errors import PipelineError, suggest
from pipeline.core.metric_names import distance_name
from pipeline.metrics.extractors import EXTRACTORS, inception
from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.npz import load_arrays

# The protocols of FID by the names of the tools that measure by them, and the extractor of each.
RESIZES = {
    "pytorch-fid": "inception",
    "tf": "inception_tf",
    "clean-fid": "inception_clean",
    "torchmetrics": "inception_torchmetrics",
}
ALIASES = {
    "legacy_pytorch": "pytorch-fid",
    "legacy_tensorflow": "tf", "ttur": "tf", "stylegan": "tf", "stylegan2-ada": "tf", "stylegan3": "tf", "adm": "tf",
    "edm": "tf", "r3gan": "tf", "torch-fidelity": "tf", "cfm": "tf",
    "clean": "clean-fid",
}  # fmt: skip
INCEPTION_DIM = inception.DIM


def stated_extractor(name: str | None) -> str | None:
    """The extractor that a caller names by a protocol, such as `tf` or `edm`, or by its own name.

    Raises:
        PipelineError: there is none of this name.
    """
    if name is None or name in EXTRACTORS:
        return name
    protocol = ALIASES.get(name, name)
    if protocol not in RESIZES:
        choices = suggest(name, [*RESIZES, *ALIASES, *EXTRACTORS])
        raise PipelineError(f"--statistics-protocol {name}: no such protocol; {choices}")
    return RESIZES[protocol]


def without_network(dims: dict[Path, int], name: str | None) -> Extractor:
    """The extractor of features that are all in files, of which each has `dims` dimensions; it extracts nothing.

    Args:
        name: as the caller states it; None = what the files say, or Inception where they say nothing.

    Raises:
        PipelineError: the files are of different networks, or it is not known of which.
    """
    if name is not None and name not in EXTRACTORS:
        raise PipelineError(f"--extractor: unknown name {name!r}; {suggest(name, EXTRACTORS)}")
    (first, dim), *others = dims.items()
    for path, other in others:
        if other != dim:
            raise PipelineError(f"{path} has {other} dimensions, {first} {dim}: they are of different extractors")
    said = [found for path in dims if (found := _protocol(path)) is not None]
    protocol = said[0] if said else {"extractor": name or "inception"}
    held = str(protocol.get("extractor"))
    if name is not None and held != name:
        raise PipelineError(f"{first} was made by {held}, not by {name}: choose --extractor {held}")
    if held.startswith("inception") and dim != INCEPTION_DIM:
        raise PipelineError(
            f"{first} has {dim} dimensions, the extractor {INCEPTION_DIM}: choose its own with --extractor"
        )
    extractor = Extractor(held, _metric(held, protocol), dim, nn.Identity(), torch.device("cpu"), protocol)
    return dataclasses.replace(extractor, version="that of whoever made the files")


def _protocol(path: Path) -> dict[str, Any] | None:
    """What one of our own statistics files says of how its features were made."""
    try:
        found = json.loads(str(load_arrays(path, ("protocol",))["protocol"]))
    except (ValueError, LookupError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _metric(extractor: str, protocol: dict[str, Any]) -> str:
    """What the Fréchet distance is called: by the hash of the weights, if these are not the known ones."""
    digest = str(protocol.get("weights_sha256", ""))
    known = {getattr(inspect.getmodule(load), "SHA256", "") for load in EXTRACTORS.values()}
    return distance_name(extractor, "" if digest in known else digest)
