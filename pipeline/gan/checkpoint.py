"""Checkpoints that survive anything, and the finished generator.

A checkpoint is one safetensors file, `step-<step>-<sha256 of the file, 16 digits>.safetensors`: it is whole, or its
name gives it away. The last two are kept, and the older one serves when the newer is damaged. No pickle is involved.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from pipeline.core.errors import PipelineError, warn
from pipeline.core.files import read_json, write_bytes, write_json
from pipeline.gan.state import TrainState
from pipeline.models import build_gan
from pipeline.params import Recipe

KEPT = 2
BEST = "best."  # what the names of the best generator's tensors begin with in a checkpoint


@dataclass
class RunHistory:
    """What a run knows beside its state.

    history, timing: the rows of history.csv and timing.csv so far; seconds: the time spent.
    best_step: the step of the lowest distance so far; best: the generator's tensors at that step.
    grids: the sha256 of each grid so far, by the name of its file.
    rollbacks: each return from a diverged state: what had diverged, at which step, and the step gone back to.
    environments: what shapes the bits and is no parameter, see `pipeline.core.devices.environment`, and from which step
        on; more than one where a run was resumed under another one.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    timing: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    best_step: int | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    grids: dict[str, str] = field(default_factory=dict)
    environments: list[dict[str, Any]] = field(default_factory=list)

    def best_distance(self) -> float:
        """The lowest distance of a trained generator so far, inf before the first."""
        trained = (row for row in self.history if row["step"] > 0)
        return min((row["distance"] for row in trained if "distance" in row), default=math.inf)

    def untrained_distance(self) -> float | None:
        """The distance before the first step, by which one sees whether anything was learnt."""
        return next((row.get("distance") for row in self.history if row["step"] == 0), None)

    def last_distance(self) -> float | None:
        """The distance that was measured last."""
        return next((row["distance"] for row in reversed(self.history) if "distance" in row), None)

    def pixel_std_ratio(self) -> float:
        """Of the last grid: how much its images differ, as a share of real images' differences; 1 before the first."""
        return next((row["pixel_std_ratio"] for row in reversed(self.history) if "pixel_std_ratio" in row), 1.0)


def save_checkpoint(folder: Path, state: TrainState, progress: RunHistory, good_every: int | None = None) -> Path:
    """Write the state after `state.step` steps to `folder`, and remove all but the last two checkpoints.

    Args:
        good_every: the newest of the checkpoints after a multiple of so many steps stays too.
    """
    told = {name: value for name, value in vars(progress).items() if name != "best"}
    metadata = {"step": str(state.step), "progress": json.dumps(told)}
    tensors = state.tensors() | {BEST + name: tensor for name, tensor in progress.best.items()}
    content = write_tensors(_portable(tensors), metadata)
    path = folder / f"step-{state.step:08d}-{_digest(content)}.safetensors"
    write_bytes(path, content)
    paths = checkpoints(folder)
    good = [path for path in paths if good_every and step_of(path) % good_every == 0][:1]
    for old in paths[KEPT:]:
        if old not in good:
            old.unlink(missing_ok=True)
    return path


def checkpoint_bytes(state: TrainState) -> int:
    """How large a checkpoint can be, with the best generator's tensors in it."""
    named = state.tensors()
    return sum(tensor.nbytes for tensor in [*named.values(), *generator_tensors(state).values()])


def load_checkpoint(folder: Path, state: TrainState) -> RunHistory:
    """Bring `state` to the newest whole checkpoint of `folder`; without one, leave it as it is, at step 0.

    A damaged checkpoint is reported on stderr, renamed to .damaged and passed over.
    """
    for leftover in folder.glob(".step-*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    for path in checkpoints(folder):
        content = path.read_bytes()
        try:
            if _digest(content) != path.stem.split("-")[2]:
                raise ValueError("its content does not match its name")
            saved, metadata = read_tensors(content), _metadata(content)
            step, progress = int(metadata["step"]), RunHistory(**json.loads(metadata["progress"]))
        except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
            warn(f"{path} is damaged and passed over: {error}")
            path.rename(path.with_suffix(".damaged"))
            continue
        live = state.tensors()
        progress.best = {name.removeprefix(BEST): saved.pop(name) for name in list(saved) if name.startswith(BEST)}
        if {name: t.shape for name, t in saved.items()} != {name: t.shape for name, t in live.items()}:
            raise PipelineError(f"{path} is not of this recipe: delete the folder {folder} to train from the start")
        for name, tensor in live.items():
            tensor.copy_(saved[name])
        state.step = step
        return progress
    return RunHistory()


def read_history(path: Path) -> RunHistory | None:
    """What a checkpoint knows beside the state, without the best generator's tensors; None if it is damaged."""
    content = path.read_bytes()
    whole = _digest(content) == path.stem.split("-")[2]
    return RunHistory(**json.loads(_metadata(content)["progress"])) if whole else None


def generator_tensors(state: TrainState) -> dict[str, Tensor]:
    """The generator's weights as `raw.<name>`, and their average, if there is one, as `ema.<name>`; not copied."""
    prefixes = {"g.": "raw.", "ema.": "ema."}
    return {
        new + name.removeprefix(old): tensor
        for name, tensor in state.tensors().items()
        for old, new in prefixes.items()
        if name.startswith(old)
    }


def export_networks(folder: Path, state: TrainState, best: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write generator.safetensors, best.safetensors, the same of an earlier step, discriminator.safetensors, and
    generator.json.

    `info` must say how to rebuild the network: `recipe`, `image_shape` and `n_classes`.
    """
    write_bytes(folder / "generator.safetensors", write_tensors(_portable(generator_tensors(state))))
    write_bytes(folder / "best.safetensors", write_tensors(_portable(best)))
    discriminator = state.gan.discriminator.state_dict()
    write_bytes(folder / "discriminator.safetensors", write_tensors(_portable(discriminator)))
    write_json(folder / "generator.json", dict(info))


def load_generator(folder: Path, weights: str, checkpoint: str = "generator") -> tuple[nn.Module, dict[str, Any]]:
    """The generator that `export_networks` wrote, on the CPU and in evaluation mode, and its generator.json.

    Args:
        weights: "raw" or "ema".
        checkpoint: "generator", the final one, or "best".

    Raises:
        PipelineError: a file is missing or damaged, or holds no such weights.
    """
    path, info = folder / f"{checkpoint}.safetensors", read_json(folder / "generator.json")
    try:
        tensors = read_tensors(path.read_bytes())
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
    except SafetensorError as error:
        raise PipelineError(f"{path} is damaged ({error}): delete it and run `dvc repro` again") from None
    wanted = {name.removeprefix(f"{weights}."): t for name, t in tensors.items() if name.startswith(f"{weights}.")}
    if not wanted:
        raise PipelineError(f"{path} holds no {weights} weights: set generate.weights, or the recipe's ema_decay")
    try:
        recipe = Recipe.of_file(info["recipe"])
        generator = build_gan(recipe, tuple(info["image_shape"]), info["n_classes"], seed=0).generator
        generator.load_state_dict(wanted)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise PipelineError(
            f"{folder}: its weights and generator.json do not go together ({str(error).splitlines()[0]}): "
            "delete it and run `dvc repro` again"
        ) from error
    return generator.eval(), info


def _portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors wants them: on the CPU, in row-major order."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def checkpoints(folder: Path) -> list[Path]:
    """The newest first; no pipe, from which one would read for ever, and no folder."""
    return sorted(filter(Path.is_file, folder.glob("step-*-*.safetensors")), reverse=True)


def step_of(path: Path) -> int:
    """After how many steps a checkpoint was written."""
    return int(path.stem.split("-")[1])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: 8 bytes of header length, then the header as JSON."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return dict(header["__metadata__"])
