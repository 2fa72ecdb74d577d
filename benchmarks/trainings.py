"""What the comparisons of trainings share: prepared data, one training on one thread, rows that outlive a kill."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.devices import make_deterministic
from pipeline.core.files import read_json, write_json
from pipeline.data.batches import ImageSet
from pipeline.data.prepared import load_description, load_images, prepare
from pipeline.gan.flow import loss_of
from pipeline.gan.graphs import Graphs, not_captured
from pipeline.gan.state import Diverged, TrainState
from pipeline.gan.step import create_state, train
from pipeline.metrics import Extractor, extract
from pipeline.params import Params, Recipe, TrainParams
from pipeline.report.uncertainty import mean_interval
from pipeline.sampling.images import labels, sample

CPU = torch.device("cpu")
SAMPLING_SEED = 1000  # of the latents of `samples`


@dataclass(frozen=True)
class Data:
    """Prepared images of both splits, uint8 (N, C, S, S), and what dataset.json says of them."""

    description: dict[str, Any]
    train: ImageSet
    test: ImageSet

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.description["image_shape"]
        return channels, height, width


def one_thread() -> None:
    """The same numbers every time, and CPU seconds that are those of the work."""
    torch.set_num_threads(1)
    make_deterministic()


def data_of(params: Params, folder: Path, device: torch.device = CPU) -> Data:
    """The images that `params.data` names, prepared in `folder` once, on a device."""
    if not folder.exists():
        prepare(params.data, folder)
    return Data(load_description(folder), *(load_images(folder, split, device) for split in ("train", "test")))


def trained(
    recipe: Recipe,
    budget: TrainParams,
    images: ImageSet,
    shape: tuple[int, int, int],
    seed: int,
    each: Callable[[TrainState, float], bool] = lambda state, seconds: False,
) -> tuple[TrainState, float, int | None]:
    """Train until the budget ends, a value diverges, or `each` (state, seconds of training) says so after a step.

    Returns the state, the CPU seconds of the steps alone (on CUDA, by graphs, those that passed from the first step to
    the last), and the step at which it diverged.
    """
    device = images.images.device
    on_cuda = device.type == "cuda"
    state = create_state(recipe, budget, shape, images.n_classes, seed, device)
    state.graphs = Graphs() if on_cuda and not not_captured(recipe) else None
    clock = time.perf_counter if on_cuda else time.process_time
    seconds, started = 0.0, clock()
    try:
        for _ in train(state, images, loss_of(recipe), recipe, budget):
            seconds += clock() - started
            if each(state, seconds):
                break
            started = clock()
    except Diverged as fault:
        return state, seconds, fault.step
    return state, seconds, None


def samples(state: TrainState, counts: Sequence[int], count: int, latent_dim: int) -> np.ndarray:
    """`count` images of the average of G, or of G where there is none, uint8 (N, C, S, S), with the data's labels."""
    asked, generator = labels("data", counts, count), state.gan.generator if state.ema is None else state.ema
    return torch.cat(list(sample(generator, asked, SAMPLING_SEED, 256, latent_dim))).cpu().numpy()


def features(extractor: Extractor, images: np.ndarray | Tensor) -> np.ndarray:
    """float32 (N, D) of images uint8 (N, C, S, S)."""
    return np.concatenate(list(extract(extractor, iter(torch.as_tensor(images).split(256)))))


def pixels_of(images: ImageSet) -> np.ndarray:
    """The images of a set that is in memory, uint8 (N, C, S, S)."""
    assert isinstance(images.images, Tensor)
    return images.images.cpu().numpy()


def kept(path: Path, make: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What stands in `path`, or what `make` of the arguments returns, which is then written there and printed."""
    if not path.exists():
        row = make(*arguments)
        write_json(path, row)
        print({name: value for name, value in row.items() if name != "images"}, flush=True)
    row = read_json(path)
    assert isinstance(row, dict)
    return row


def mean_text(values: Sequence[float], digits: int) -> str:
    """The mean over seeds with its 95% interval, which one seed does not have."""
    mean, interval = f"{np.mean(values):.{digits}f}", mean_interval(values)
    return mean if interval is None else f"{mean} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
