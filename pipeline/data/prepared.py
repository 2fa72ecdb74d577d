"""Prepared images: a data set as uint8 arrays on disk.

prepare(params, folder) -> train.npy, test.npy, ... -> load_images -> ImageSet
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError

from pipeline.core.checksums import write_sums
from pipeline.core.devices import free_memory, memory_errors
from pipeline.core.errors import PipelineError, printable, suggest, warn
from pipeline.core.files import ArrayWriter, atomic_folder, damaged, read_json, require_space, write_json
from pipeline.core.progress import progress
from pipeline.core.randomness import rng
from pipeline.data.batches import ImageSet
from pipeline.data.datasets import DATASETS
from pipeline.data.host_images import HostImages
from pipeline.data.pictures import RESIZE_FILTER, BadImage, reason_of, to_row
from pipeline.data.source import Items, Source
from pipeline.params import DataParams
from pipeline.params.schema import Section, faults

SPLITS = ("train", "test")
RESIDENT = ("auto", "device", "host")
MOST_RESIDENT = 0.6  # of a device's free memory for the images: the rest is for the networks and a step


class _Description(Section):
    """The content of dataset.json."""

    name: str
    train: Annotated[int, Field(ge=2, lt=2**63)]
    test: Annotated[int, Field(ge=2, lt=2**63)]
    image_shape: tuple[Literal[1, 3], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    classes: list[str]
    class_counts: list[Annotated[int, Field(ge=0)]]
    source_size: Any
    skipped: dict[str, int]
    sha256: str


DESCRIPTION_KEYS = set(_Description.model_fields)


@dataclass
class _Tally:
    """What is counted over both splits."""

    digest: Any = field(default_factory=hashlib.sha256)
    bad: list[BadImage] = field(default_factory=list)
    resized: int = 0


def prepare(params: DataParams, out: Path) -> dict[str, Any]:
    """Write a data set to the folder `out`, whole or not at all, and return the content of its dataset.json.

    `out` gets train.npy and test.npy (uint8, (N, C, H, W)), train_labels.npy and test_labels.npy (int64, (N,)), and
    dataset.json. Its sha256 is that of the arrays' values in the order train, train_labels, test, test_labels. The same
    params and files give the same bytes.

    Raises:
        PipelineError: the data set is unknown or missing, an image is refused, or there are too few images.
    """
    if params.dataset not in DATASETS:
        raise PipelineError(f"data.dataset: unknown value {params.dataset!r}; {suggest(params.dataset, DATASETS)}")
    source, tally = DATASETS[params.dataset](params), _Tally()
    chosen = _choose(source, params)
    images = sum(len(indices) for _, indices in chosen.values())
    require_space(out, images * (params.channels * params.image_size**2 + 8))
    with atomic_folder(out) as folder:
        labels = {
            split: _write_split(folder, split, items, indices, params, tally)
            for split, (items, indices) in chosen.items()
        }
        counts = {split: len(found) for split, found in labels.items()}
        if min(counts.values()) < 2:
            found = f"{counts['train']} for training, {counts['test']} for testing, {len(tally.bad)} bad"
            rule = "at least 2 of each are needed: add images, or change data.test_fraction or data.limit"
            raise PipelineError(f"{params.dataset}: too few usable images ({found}); {rule}")
        description = {
            "name": params.dataset,
            **counts,
            "image_shape": [params.channels, params.image_size, params.image_size],
            "classes": list(source.classes),
            "class_counts": np.bincount(labels["train"], minlength=len(source.classes)).tolist(),
            "source_size": {"crop": "centre", "filter": RESIZE_FILTER.name.lower(), "images_changed": tally.resized},
            "skipped": {**source.skipped, **Counter(fault.kind for fault in tally.bad)},
            "sha256": tally.digest.hexdigest(),
        }
        write_json(folder / "dataset.json", description)
        write_sums(folder)
    _warn_of_empty_classes(description)
    if tally.bad:
        names = "; ".join(map(str, tally.bad[:3])) + ("; ..." if len(tally.bad) > 3 else "")
        warn(f"skipped {len(tally.bad)} bad images: {names}")
    return description


def _warn_of_empty_classes(description: dict[str, Any]) -> None:
    counted = zip(description["classes"], description["class_counts"], strict=False)
    empty = [f"{number} ({printable(name)})" for number, (name, count) in enumerate(counted) if not count]
    if empty:
        more = ", ..." if len(empty) > 5 else ""
        warn(f"{description['name']}: no training image of class {', '.join(empty[:5])}{more}: add images of it")


def _choose(source: Source, params: DataParams) -> dict[str, tuple[Items, list[int]]]:
    """The items and the ascending indices to use for each split: a held-out test split and `limit`, both stratified."""
    if source.test is None:
        count = len(source.train.labels)
        order = _stratified(source.train.labels, params.seed, "split")
        held_out = max(2, min(round(params.test_fraction * count), count - 2))  # a covariance needs 2
        splits = {"train": (source.train, sorted(order[held_out:])), "test": (source.train, sorted(order[:held_out]))}
    else:
        given = {"train": source.train, "test": source.test}
        splits = {split: (items, list(range(len(items.labels)))) for split, items in given.items()}
    chosen = {}
    for split, (items, indices) in splits.items():
        order = _stratified([items.labels[index] for index in indices], params.seed, "limit", split)
        chosen[split] = items, sorted(indices[place] for place in order[: params.limit])
    return chosen


def _stratified(labels: Sequence[int], *name: object) -> list[int]:
    """The indices of `labels` in a random order, named `name`, in which each prefix has every class in proportion.

    The image that comes as number r of the n of its class has the place (r + 1/2) / n. So the first half of the order
    has half of each class, up to rounding, and a class with a single image has it in the middle.
    """
    order = torch.randperm(len(labels), generator=rng("cpu", *name)).tolist()
    counts = Counter(labels)
    seen: Counter[int] = Counter()
    places: dict[int, float] = {}
    for index in order:
        label = labels[index]
        places[index] = (seen[label] + 0.5) / counts[label]
        seen[label] += 1
    return sorted(order, key=places.__getitem__)


def _write_split(
    folder: Path, split: str, items: Items, indices: list[int], params: DataParams, tally: _Tally
) -> np.ndarray:
    """Stream one split to its two files and into `tally`; returns the labels of its images, int64 (N,)."""
    size, found = params.image_size, list[int]()
    with ArrayWriter(folder / f"{split}.npy", (params.channels, size, size), np.uint8) as rows:
        for index in progress(indices, f"prepare {params.dataset} {split}", len(indices), "images"):
            try:
                picture = items.picture(index)
                row = to_row(picture, params.channels, size)
            except BadImage as fault:
                if params.bad_images == "refuse":
                    raise PipelineError(f"{fault}: repair or remove it, or set data.bad_images: skip") from fault
                tally.bad.append(fault)
                continue
            rows.append(row[None])
            tally.digest.update(row.tobytes())
            tally.resized += (picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size) != (size, size)
            found.append(items.labels[index])
    labels = np.array(found, np.int64)
    with ArrayWriter(folder / f"{split}_labels.npy", (), np.int64) as writer:
        writer.append(labels)
    tally.digest.update(labels.tobytes())
    return labels


def load_description(folder: Path) -> dict[str, Any]:
    """The content of dataset.json in a prepared folder.

    Raises:
        PipelineError: the file is missing or is not one that `prepare` wrote.
    """
    path = Path(folder) / "dataset.json"
    description = read_json(path)
    if not isinstance(description, dict) or not description.keys() >= DESCRIPTION_KEYS:
        raise damaged(path, "it lacks keys")
    try:
        _Description.model_validate_json(json.dumps(description))  # in JSON a list may stand for a tuple
    except ValidationError as error:
        raise damaged(path, faults(error, _Description)[0]) from None
    return description


def load_images(folder: Path, split: str, device: torch.device | str, resident: str = "device") -> ImageSet:
    """A prepared split for `device`. It is read, not mapped: a file that is cut short meanwhile gives an error.

    Args:
        resident: "device": copied there, so that a later change of the file cannot affect training. "host": its images
            stay in their file and are read batch by batch, to the same bits; a later change of the file is an error.
            "auto": host if they are more than `MOST_RESIDENT` of the device's free memory.

    Raises:
        PipelineError: a file is missing, damaged, or does not fit dataset.json.
        OutOfMemory: the images do not fit.
    """
    assert split in SPLITS and resident in RESIDENT, (split, resident)
    description = load_description(folder)
    count, classes = description[split], len(description["classes"])
    shape, device = (count, *description["image_shape"]), torch.device(device)
    images = HostImages(Path(folder) / f"{split}.npy", shape, device)
    labels = load_array(Path(folder) / f"{split}_labels.npy", np.int64, (count,))
    if labels.min() < 0 or labels.max() >= max(classes, 1):
        raise damaged(Path(folder) / f"{split}_labels.npy", f"labels outside 0..{max(classes, 1) - 1}")
    known = torch.from_numpy(labels).to(device, copy=True)
    if resident == "host" or (resident == "auto" and math.prod(shape) > MOST_RESIDENT * free_memory(device)):
        return ImageSet(images, known, classes)
    with memory_errors("set runtime.resident: host, or lower data.limit or data.image_size"):
        return ImageSet(images.copy(), known, classes)


def load_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The array in a .npy file, mapped; it must have this type and shape."""
    array = map_array(path)
    if array.dtype != dtype or array.shape != shape:
        raise damaged(path, f"it does not hold {np.dtype(dtype)} {shape}, as dataset.json says")
    return array


def map_array(path: Path) -> np.ndarray:
    """The array in a .npy file, mapped copy-on-write, because torch warns about read-only memory."""
    try:
        return np.lib.format.open_memmap(path, mode="c")  # unlike np.load, it never unpickles or opens a zip
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist: run `dvc repro`, which makes it") from None
    except Exception as error:  # OSError, ValueError, or anything that a garbled header causes
        raise damaged(path, reason_of(error)) from error
