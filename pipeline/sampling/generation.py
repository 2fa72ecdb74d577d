"""The samples of a trained generator, and pictures of them: what the generate stage writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from pipeline.core.checksums import write_sums
from pipeline.core.errors import PipelineError
from pipeline.core.files import ArrayWriter, atomic_folder
from pipeline.core.progress import progress
from pipeline.core.world import ALONE, World
from pipeline.models import NETWORKS
from pipeline.params import GenerateParams, Params
from pipeline.sampling import images as sampled
from pipeline.sampling.images import rows_of_classes, sample
from pipeline.sampling.pictures import COLUMNS, grid, name_rows, picture, save_animation, save_picture
from pipeline.sampling.shared import share_samples


def wanted_labels(generate: GenerateParams, description: dict[str, Any]) -> torch.Tensor:
    """The labels of all samples, int64: `generate.samples` of them, or as many as there are training images.

    If one class is asked for, these are the training images of this class.

    Args:
        description: dataset.json.

    Raises:
        PipelineError: there is no such class, or it has fewer than 2 training images, too few to measure against.
    """
    count, counts, choice = description["train"], description["class_counts"], generate.labels
    if isinstance(choice, int):
        if choice >= len(counts):
            raise PipelineError(f"generate.labels: must be data, balanced or a class below {len(counts)}, got {choice}")
        count = counts[choice]
        if count < 2:
            raise PipelineError(f"generate.labels: class {choice} has {count} training images: name another class")
    return sampled.labels(choice, counts, generate.samples or count)


def generate_samples(
    generators: dict[str, nn.Module],
    labels: torch.Tensor,
    info: dict[str, Any],
    params: Params,
    grids: Path,
    out: Path,
    classes: Sequence[str] = (),
    world: World = ALONE,
) -> None:
    """Write samples of each generator to the folder `out`, one for each label, all of the same latents.

    `generators` holds the final one as "images", whose samples are also written as grid.png, progress.gif, final/ and
    png/, and perhaps others: to <name>.npy each, uint8 (n, C, S, S), and their labels to labels.npy. The grid of a
    conditional generator has one class a row, with its name from `classes`.

    Args:
        world: the ranks that share the arrays' samples, of which this is the first; see `follow_samples`.
    """
    settings = sample_settings(info, params)
    conditional = NETWORKS[info["recipe"]["network"]].conditional
    if conditional:
        shown = rows_of_classes(labels.unique().tolist()[:COLUMNS], COLUMNS, COLUMNS)
    else:
        shown = labels[: COLUMNS**2]
    with atomic_folder(out) as folder:
        for number, (name, generator) in enumerate(generators.items()):
            png = folder / "png" if params.generate.png_folder and name == "images" else None
            bar = progress(None, f"{name} of {out.name}", len(labels), "images")
            with ArrayWriter(folder / f"{name}.npy", tuple(info["image_shape"]), np.uint8) as rows:
                for images in share_samples(world, number, generator, labels, settings):
                    if png:
                        _write_singles(images.numpy(), png, rows.count, digits=6)
                    rows.append(images.numpy())
                    bar.update(len(images))
            bar.close()
        np.save(folder / "labels.npy", labels.numpy())
        images = torch.cat(list(sample(generators["images"], shown, *settings)))
        sheet = grid(images, COLUMNS)
        if conditional and classes:
            sheet = name_rows(sheet, [_shown_name(label, classes) for label in shown[::COLUMNS].tolist()])
        save_picture(sheet, folder / "grid.png")
        first = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)[:10]
        _write_singles(np.array(first), folder / "final", 0, digits=2)
        save_animation([_opened(path) for path in sorted(grids.glob("*.png"))], folder / "progress.gif")
        write_sums(folder)


def sample_settings(info: dict[str, Any], params: Params) -> tuple[int, int, int]:
    """The seed of the samples, the size of a batch, and that of the latents; `info`: generator.json."""
    return params.generate.seed, params.generate.batch_size, info["recipe"]["latent_dim"]


def _shown_name(label: int, classes: Sequence[str]) -> str:
    """A class's number and its name, unless the latter is the same or has letters that the built-in font lacks.

    >>> [_shown_name(label, ["0", "cat", "\u732b"]) for label in range(3)]
    ['0', '1 cat', '2']
    """
    name = classes[label]
    return f"{label} {name}" if name != str(label) and name.isascii() and name.isprintable() else str(label)


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError) as error:  # the latter for a chunk whose checksum is wrong
        raise PipelineError(f"{path} is damaged ({error}): delete it and run `dvc repro` again") from None


def _write_singles(images: np.ndarray, folder: Path, first: int, digits: int) -> None:
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images, start=first):
        picture(image).save(folder / f"{index:0{digits}d}.png")
