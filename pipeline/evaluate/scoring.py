"""Samples -> record.json: every metric of the final and of the best checkpoint, and how they were measured.

metrics.json holds the few of these numbers that `dvc metrics show` and `dvc exp show` print.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.files import write_json
from pipeline.core.metric_names import distance_name, kernel_name
from pipeline.metrics import (
    Extractor,
    FeatureSet,
    Reference,
    closest_pairs,
    features_of,
    measure,
    metric_versions,
    pixels_of,
    protocol_of,
)
from pipeline.metrics.floor import floor_images
from pipeline.metrics.further import further_metrics, named
from pipeline.metrics.prdc import expected_coverage
from pipeline.models.unet import SOLVERS
from pipeline.params import Params
from pipeline.sampling.images import LEAST_PIXEL_STD_RATIO
from pipeline.sampling.pictures import grid, save_picture

Further = tuple[str, Extractor | str, Reference | None]  # a name, and an extractor with its reference or why not
PAIRS = 10
# Shares of what real images reach: below them a model has collapsed, or learnt next to nothing. The three default
# models on digits have 0.53 of recall and 0.09 of the rarest class or more, a single class of real images 0.01 and 0.
LEAST = {"precision": 0.05, "recall": 0.02, "density": 0.05, "coverage": 0.05, "class_rarest": 0.02}
LEAST_EXPECTED = 20  # images of each class: of fewer, none may be there by chance
MOST_OF_UNTRAINED = 0.8  # of the untrained generator's distance: above it next to nothing was learnt


def score_samples(
    samples: dict[str, np.ndarray],
    labels: np.ndarray | None,
    real: np.ndarray,
    info: dict[str, Any],
    params: Params,
    extractor: Extractor,
    reference: Reference,
    out: Path,
    closest: Path,
    further: Iterable[Further] = (),
) -> dict[str, Any]:
    """Measure samples against the reference; write metrics.json, record.json, which it returns, and a picture.

    Samples of one class, as `generate.labels` can ask for, are measured against the real images of this class only.

    Args:
        samples: uint8 (N, C, S, S), of the final generator as "images", and of the best checkpoint as "best", which is
            missing where the final one is the best.
        labels: int64 (N,), the classes that the samples were generated for; None if the generator ignores labels.
        real: the training images, uint8 (M, C, S, S), of which the picture shows some.
        info: generator.json.
        closest: where the picture is to be, a PNG: the samples closest to training images, above these.
        further: other extractors, whose numbers stand beside those of the first under names of their own.
    """
    only = params.generate.labels
    if isinstance(only, int):
        whole, reference = reference, reference.of_class(only)
        real = real[whole.train.labels == only]
    comparisons = {}
    data = reference.floor.get("data")
    real_pixels = None if reference.train.labels is None else pixels_of(real, data)
    for name, images in samples.items():
        generated = _features(images, labels, extractor, params, f"{name} of {out.name}")
        pixels = None if real_pixels is None else (real_pixels, pixels_of(images, data))
        comparisons[name] = replace(reference.against(generated, extractor, params.metrics), pixels=pixels)
    records = {name: measure(comparison).record() for name, comparison in comparisons.items()}
    record = {
        "model": info["model"],
        "seed": info["seed"],
        **records["images"],
        "collapsed": collapsed(records["images"], info, reference, len(samples["images"])),
        "best": {
            "step": info["best"]["step"],
            "selected_by": {"distance": info["best"]["distance"], "samples": info["curve"]["samples"]},
            **records.get("best", records["images"]),
        },
        "protocol": protocol(extractor, reference, params, info, len(samples["images"])),
        "versions": metric_versions(extractor),
    }
    for other in further:
        _add(other, record, samples, labels, params, info)
    places, nearest, _ = closest_pairs(comparisons["images"], PAIRS)
    pairs = np.concatenate([samples["images"][places], real[nearest]])
    save_picture(grid(pairs, len(places)), closest)
    write_json(out / "record.json", record)
    write_json(out / "metrics.json", key_numbers(record, extractor.metric, info["images_seen"]))
    return record


def _add(
    further: Further,
    record: dict[str, Any],
    samples: dict[str, np.ndarray],
    labels: np.ndarray | None,
    params: Params,
    info: dict[str, Any],
) -> None:
    """Measure by a further extractor; its numbers, protocol and versions go into `record`."""
    name, extractor, reference = further
    if isinstance(extractor, str) or reference is None:
        record["not_available"][distance_name(name)] = str(extractor)
        return
    if isinstance(params.generate.labels, int):
        reference = reference.of_class(params.generate.labels)
    for kind, images in samples.items():
        generated = _features(images, labels, extractor, params, f"{kind} under {name}")
        found = measure(reference.against(generated, extractor, params.metrics), further_metrics())
        places = [record, record["best"]] if len(samples) == 1 else [record if kind == "images" else record["best"]]
        for place in places:
            place.update(named(found.values, extractor))
            place["sampling_error"].update(named(found.errors, extractor))
    record.setdefault("further", {})[name] = {
        "metric": extractor.metric,
        "protocol": protocol(extractor, reference, params, info, len(samples["images"])),
        "versions": metric_versions(extractor, further_metrics()),
    }


def key_numbers(record: dict[str, Any], metric: str, images_seen: int) -> dict[str, float]:
    """The numbers of metrics.json: few, since DVC prints a column for each of each experiment.

    Args:
        record: record.json; a metric that it lacks is left out.
        metric: the Fréchet distance's name.
        images_seen: how many images the model was trained with, repeated ones too.
    """
    shown = (metric, "ratio_to_floor", kernel_name(metric), "precision", "recall")
    numbers = {name: record[name] for name in shown if name in record}
    if metric in record["sampling_error"]:
        numbers["sampling_error"] = record["sampling_error"][metric]
    return {**numbers, "best_checkpoint": record["best"][metric], "images_seen": images_seen}


def protocol(
    extractor: Extractor, reference: Reference, params: Params, info: dict[str, Any], generated: int
) -> dict[str, Any]:
    """All that must agree before two values may be ranked together; the sampler of a flow; a precision but fp32."""
    labels, origin = params.generate.labels, info["init_from"]
    one_class = f", class {labels}" if isinstance(labels, int) else ""
    return {
        "name": f"{_short(len(reference.train), 'train')}-{_short(generated)}{one_class}",
        **protocol_of(extractor),
        "real_split": f"train{one_class}",
        "real_images": len(reference.train),
        "held_out_images": len(reference.test),
        "generated_images": generated,
        "floor_images": floor_images(len(reference.test), generated),
        "data_sha256": reference.floor["data_sha256"],
        "generator": params.generate.weights,
        "batch_norm": "running statistics",
        "checkpoint": "final",
        "sampling_seed": params.generate.seed,
        "labels": one_class.removeprefix(", ") or labels,
        "initialised_from": "nothing" if origin is None else f"{origin['name']}@{origin['sha256']}",
        **sampler_of(info),
        **_trained_in(info),
    }


def sampler_of(info: dict[str, Any]) -> dict[str, Any]:
    """How a flow's samples were made, by generator.json; empty for a GAN, which makes an image in one pass.

    The report shows these fields, but ranks flows and GANs together: they do not have to agree.
    """
    recipe = info.get("recipe", {})
    steps = recipe.get("sampling_steps", 0)
    if not steps:
        return {}
    solver = recipe["solver"]
    return {"sampler": f"{solver}, {steps} steps", "network_evaluations": steps * SOLVERS[solver].evaluations}


def _trained_in(info: dict[str, Any]) -> dict[str, Any]:
    """The precision of a training that was not float32, by generator.json. It need not agree between ranked models."""
    precision = info.get("train", {}).get("precision", "fp32")
    return {} if precision == "fp32" else {"training_precision": precision}


def collapsed(record: dict[str, Any], info: dict[str, Any], reference: Reference, generated: int) -> list[str]:
    """What says that a model has collapsed, or has learnt next to nothing; empty where nothing does.

    Args:
        record: its metrics, of which those in `LEAST` are looked at, where they are.
        info: generator.json: how much the images of the last grid differ, and the learning curve's ends.
        reference: what real test images reach, where it is less than 1: copies of one image have a precision of 0.
        generated: the number of images that were measured.
    """
    reached = {name: min(1.0, reference.floor["metrics"].get(name, 1.0)) for name in LEAST}
    reached["coverage"] = min(reached["coverage"], expected_coverage(len(reference.train), generated))
    labels = reference.train.labels
    if labels is None or generated * np.unique(labels, return_counts=True)[1].min() < LEAST_EXPECTED * len(labels):
        del reached["class_rarest"]
    found = {name: (record[name], LEAST[name] * most) for name, most in reached.items() if name in record}
    found["pixel_std_ratio"] = (info["pixel_std_ratio"], LEAST_PIXEL_STD_RATIO)
    signs = [f"{name} {value:.3f}" for name, (value, least) in found.items() if value < least]
    first, last = info["curve"].get("untrained"), info["curve"].get("final")
    # Where training began with another run's weights, what is called untrained was trained.
    if first and last is not None and info["init_from"] is None and last > MOST_OF_UNTRAINED * first:
        signs.append(f"small-sample distance {last / first:.2f} times the untrained generator's")
    return signs


def _short(count: int, split: str = "") -> str:
    """As the literature writes it: train50k.

    >>> _short(50_000, "train") + "-" + _short(1_438)
    'train50k-1438'
    """
    return split + (f"{count // 1000}k" if count % 1000 == 0 else str(count))


def _features(
    images: np.ndarray, labels: np.ndarray | None, extractor: Extractor, params: Params, title: str
) -> FeatureSet:
    found = np.concatenate(list(features_of(extractor, images, params.metrics.batch_size, title)))
    return FeatureSet(found, labels, device=extractor.device)
