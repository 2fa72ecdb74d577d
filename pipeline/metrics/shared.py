"""Features by several ranks: the first hands out batches, one to each, and gathers their features.

A batch passes one rank's network whole, as it would pass the only one: the features are the same bits.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pipeline.core.ranks import find_place, open_world
from pipeline.core.world import FEATURES, World
from pipeline.metrics.extractors import EXTRACTORS, load_extractor
from pipeline.metrics.extractors.base import Extractor
from pipeline.params import MetricsParams, Params


@contextlib.contextmanager
def shared_extractor(params: Params, command: Sequence[str], agreed: Mapping[str, str]) -> Iterator[Extractor | None]:
    """The extractor of a stage, by which all ranks of runtime.devices compute; None on another than the first.

    The others have then done their part: all that the first wanted of them. For `command` and `agreed` see
    `pipeline.core.ranks.open_world`.
    """
    place = find_place(params.runtime.device, params.runtime.devices)
    with open_world(place, command, [], agreed) as world:
        if world.rank:
            world.follow({FEATURES: follow_features(world, params.metrics, place.device)})
            yield None
        else:
            yield share_among(world, load_extractor(params.metrics, place.device))


def share_among(world: World, extractor: Extractor) -> Extractor:
    """The extractor of the first rank, whose batches all ranks share; the others run what `follow_features` gives."""
    if world.size == 1:
        return extractor
    return dataclasses.replace(extractor, shared=functools.partial(_hand_out, world))


def follow_features(world: World, params: MetricsParams, device: torch.device) -> Callable[[int], None]:
    """What another rank does for FEATURES: its share, by the extractor of that number, loaded when it is first used."""

    @functools.cache
    def load(number: int) -> Extractor:
        name = sorted(EXTRACTORS)[number]
        own = {} if name == params.extractor else {"extractor": name, "weights": None}
        return load_extractor(params.model_copy(update=own), device)

    def features(number: int) -> None:
        _one_batch_each(world, load(number))

    return features


def _hand_out(world: World, extractor: Extractor, batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
    remaining, number = iter(batches), sorted(EXTRACTORS).index(extractor.name)
    while group := list(islice(remaining, world.size)):
        with world.lead(FEATURES, number):
            features = _one_batch_each(world, extractor, group)
        yield from (part.numpy() for part in features.split([len(images) for images in group]))


def _one_batch_each(world: World, extractor: Extractor, group: list[Tensor] | None = None) -> Tensor:
    """Features float32 (N, dim) of all images of `group`, which the first rank has; each computes those of a batch."""
    sizes = torch.zeros(world.size + 3, dtype=torch.int64)  # of each batch, then of an image
    if group is not None:
        sizes[: len(group)] = torch.tensor([len(images) for images in group])
        sizes[world.size :] = torch.tensor(group[0].shape[1:])
    world.share([sizes])
    counts, shape = sizes.tolist()[: world.size], sizes.tolist()[world.size :]
    images = torch.empty(sum(counts), *shape, dtype=torch.uint8) if group is None else torch.cat(group)
    world.share([images])
    features, start, own = torch.zeros(len(images), extractor.dim), sum(counts[: world.rank]), counts[world.rank]
    if own:
        features[start : start + own] = extractor(images[start : start + own])
    return world.total(features)
