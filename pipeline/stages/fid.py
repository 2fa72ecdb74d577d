"""Stage fid: every metric of one model's samples against the real images, with the protocol of the measurement."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.core import paths
from pipeline.core.checksums import SUMS, write_sums
from pipeline.core.devices import memory_errors
from pipeline.core.errors import exit_cleanly, warn
from pipeline.core.files import read_json, write_bytes
from pipeline.core.ranks import rank_command
from pipeline.data.prepared import load_array, load_description
from pipeline.evaluate.model_card import model_card
from pipeline.evaluate.scoring import Further, score_samples
from pipeline.experiment import Experiment
from pipeline.metrics import Extractor, load_reference
from pipeline.metrics.further import further_extractors
from pipeline.metrics.shared import shared_extractor
from pipeline.params import MetricsParams, Params
from pipeline.sampling.generation import wanted_labels
from pipeline.stages import agreed, begin, experiment_options, finish, take


@exit_cleanly
def main(arguments: list[str] | None = None) -> None:
    options, params = experiment_options(arguments), begin()
    take(paths.PREPARED)
    take(paths.REFERENCE)
    description = load_description(paths.PREPARED)
    experiment = Experiment(params, options.model, options.seed, description)
    same = agreed(params, description["sha256"])
    with shared_extractor(params, rank_command(__spec__, arguments), same) as extractor:
        if extractor is not None:
            _measure(experiment, params, extractor)
            finish(params, "metrics", "generate")


def _measure(experiment: Experiment, params: Params, extractor: Extractor) -> None:
    description = experiment.description
    folder, run = paths.SAMPLES / experiment.name, paths.RUNS / experiment.name
    take(folder)
    take(run, "generator.json")
    reference = load_reference(paths.REFERENCE, extractor, description["sha256"])
    info = read_json(run / "generator.json")
    shape = (len(wanted_labels(params.generate, description)), *experiment.image_shape)
    names = ["images", "best"] if (folder / "best.npy").exists() else ["images"]
    samples = {name: load_array(folder / f"{name}.npy", np.uint8, shape) for name in names}
    real = load_array(paths.PREPARED / "train.npy", np.uint8, (description["train"], *experiment.image_shape))
    out, closest = paths.SCORES / experiment.name, paths.CLOSEST / f"{experiment.name}.png"
    labels = load_array(folder / "labels.npy", np.int64, shape[:1]) if experiment.conditional else None
    with memory_errors("lower metrics.batch_size or generate.samples"):
        further = _further(params.metrics, extractor)
        record = score_samples(samples, labels, real, info, params, extractor, reference, out, closest, further)
    made_from = (os.path.relpath(path, out) for path in (closest, run / SUMS, folder / SUMS))
    write_bytes(out / "model_card.md", model_card(info, record, description).encode())
    write_sums(out, "metrics.json", "record.json", "model_card.md", *made_from)
    name, best = extractor.metric, record["best"]
    print(
        f"{experiment.name}: {name} {record[name]:.2f}; {_beside_floor(record, name)}; "
        f"best checkpoint (step {best['step']}) {best[name]:.2f}"
    )
    if record["collapsed"]:
        warn(f"{experiment.name} has collapsed or learnt next to nothing: {', '.join(record['collapsed'])}")
    with experiment.open_tracker() as tracker:
        numbers = {key: value for key, value in record.items() if isinstance(value, float)}
        errors = {f"sampling_error/{key}": value for key, value in record["sampling_error"].items()}
        tracker.metrics(info["steps"], {**numbers, **errors, f"best/{name}": best[name]})
        tracker.tags({"collapsed": ", ".join(record["collapsed"])})
        tracker.tags({f"protocol.{key}": str(text) for key, text in record["protocol"].items()})
        tracker.artifact(closest, "final")


def _further(params: MetricsParams, first: Extractor) -> Iterator[Further]:
    """Each further extractor with its reference, one after another."""
    for name, extractor in further_extractors(params, first.device):
        if isinstance(extractor, str):
            yield name, extractor, None
        else:
            yield name, replace(extractor, shared=first.shared), load_reference(paths.REFERENCE / name, extractor)


def _beside_floor(record: dict[str, Any], metric: str) -> str:
    """What `ratio_to_floor` says, in words, or why there is none."""
    if "ratio_to_floor" not in record:
        return f"not compared with the floor: {record['not_available']['floor']}"
    count = record["protocol"]["floor_images"]
    return (
        f"{count:,} generated images {record[f'{metric}_at_floor']:.2f}, {record['ratio_to_floor']:.2f} times the "
        f"floor, {record['floor']:.2f}, of {count:,} test images"
    )


if __name__ == "__main__":
    main()
