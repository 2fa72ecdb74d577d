"""Warm start: a recipe begins with the generator and the discriminator of an earlier run.

    python -m pipeline.warm_start sagan-0 sagan_digits     keep the networks of runs/sagan-0 as pretrained/sagan_digits

It prints the line for the recipe: `init_from: sagan_digits@<sha256 of the weights, 16 digits>`. DVC remakes what lies
in runs/; so the networks are kept outside. With the hash in params.yaml, other weights are another recipe.
"""

import argparse
import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from torch import Tensor

from pipeline.core import paths
from pipeline.core.checksums import verify_checksums
from pipeline.core.errors import PipelineError, exit_cleanly
from pipeline.core.files import atomic_folder, read_json
from pipeline.gan.step import TrainState
from pipeline.params import PARAMS_FILE

NETWORKS = ("generator.safetensors", "discriminator.safetensors")
FILES = (*NETWORKS, "generator.json")


def origin(init_from: str) -> dict[str, Any]:
    """Whose networks `init_from` names: name, sha256, and the run's model, seed, steps and data.

    Raises:
        PipelineError: nothing is kept under this name, or its hash is another one or missing.
    """
    name, _, wanted = init_from.partition("@")
    folder = _folder(name)
    if not folder.is_dir():
        raise PipelineError(f"{folder} does not exist: python -m pipeline.warm_start RUN {name} keeps a run there")
    found = _sha256(folder)
    if not wanted:
        raise PipelineError(f"it must say which weights, write {name}@{found}")
    if wanted != found:
        raise PipelineError(f"the weights in {folder} are {name}@{found}; write that, or bring back those of {wanted}")
    try:
        info = read_json(folder / "generator.json")
        run = {key: info[key] for key in ("model", "seed", "steps", "data_sha256")}
    except (PipelineError, KeyError, TypeError):
        raise PipelineError(f"{folder / 'generator.json'} is not of this pipeline: keep the run again") from None
    return {"name": name, "sha256": found, **run}


def warm_start(state: TrainState, init_from: str) -> None:
    """Give G and D of an untrained `state` the weights that `init_from` names; the optimisers start afresh.

    G takes the raw weights. Its average, if it has one, takes the averaged ones, or where there are none the raw ones.

    Raises:
        PipelineError: as `origin`, or the networks' tensors are not those of the recipe. Nothing is then changed.
    """
    folder = _folder(origin(init_from)["name"])
    generator, discriminator = (_read(folder / name) for name in NETWORKS)
    raw, average = _part(generator, "raw."), _part(generator, "ema.")
    pairs = [
        ("generator", state.gan.generator, raw),
        ("discriminator", state.gan.discriminator, discriminator),
        ("averaged generator", state.ema, average or raw),
    ]
    wanted = [(what, network.state_dict(), saved) for what, network, saved in pairs if network is not None]
    for what, live, saved in wanted:
        _require_same_shapes(live, saved, f"{folder}: the {what}")
    for _, live, saved in wanted:
        for name, tensor in live.items():
            tensor.copy_(saved[name])


def keep(run: str, name: str) -> str:
    """Copy the networks of runs/<run> to pretrained/<name>, and return what `init_from` must say.

    Raises:
        PipelineError: there is no such run, a file of it is damaged, the name is not fit, or taken by other weights.
    """
    source, folder = paths.RUNS / run, _folder(name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,63}", name):
        raise PipelineError(f"{name}: a name has up to 64 small letters, digits and underscores")
    if not _holds(source, FILES):
        known = ", ".join(sorted(path.name for path in paths.RUNS.glob("*") if _holds(path, FILES))) or "none"
        raise PipelineError(f"{source} holds no trained generator and discriminator; there are: {known}")
    verify_checksums(source, *FILES)
    found = _sha256(source)
    if folder.exists() and not (_holds(folder, NETWORKS) and _sha256(folder) == found):
        raise PipelineError(f"{folder} holds other weights already: choose another name, or delete it")
    with atomic_folder(folder) as copy:
        for file in FILES:
            shutil.copyfile(source / file, copy / file)
    return f"{name}@{found}"


def _folder(name: str) -> Path:
    return paths.root() / paths.PRETRAINED / name


def _holds(folder: Path, files: Sequence[str]) -> bool:
    return all((folder / file).is_file() for file in files)


def _sha256(folder: Path) -> str:
    """16 hexadecimal digits over both networks' files."""
    digest = hashlib.sha256()
    for name in NETWORKS:
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise PipelineError(f"{folder / name} cannot be read ({error.strerror}): keep the run again") from None
    return digest.hexdigest()[:16]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path.read_bytes())
    except SafetensorError as error:
        raise PipelineError(f"{path} is damaged ({error}): keep the run again") from None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _require_same_shapes(live: dict[str, Tensor], saved: dict[str, Tensor], what: str) -> None:
    remedy = "network, widths, latent_dim, norm, image size and classes must be those of the origin"
    for name in sorted(live.keys() | saved.keys()):
        here, there = (tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (live, saved))
        if here != there:
            raise PipelineError(f"{what} has {there} as {name}, the recipe builds {here}: {remedy}")


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.warm_start") -> None:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.split("\n")[0])
    parser.add_argument("run", help="an experiment under runs/, such as sagan-0")
    parser.add_argument("name", help="what to call its networks under pretrained/")
    options = parser.parse_args(arguments)
    print(f"init_from: {keep(options.run, options.name)}      # for a recipe under models: in {PARAMS_FILE}")
