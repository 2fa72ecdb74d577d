"""scores/<experiment>/metrics.json, read back and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.report.readers import finite_numbers, read_keys

KEYS = ("floor", "ratio_to_floor", "protocol", "sampling_error", "not_available", "collapsed", "best")
NO_METRICS = ("seed", "floor", "ratio_to_floor")  # numbers of the file that are no further metrics


@dataclass(frozen=True)
class Scores:
    """What one experiment's samples were found to be.

    value: the distance by which models are ranked, of the final generator.
    metrics: all other metrics by name, also of single classes.
    errors: sampling errors by name, of `metrics` and of the distance itself.
    not_available: why metrics are lacking, by the names of pipeline.metrics.METRICS.
    collapsed: what says that the model has collapsed or has learnt nothing, such as "coverage 0.010"; mostly empty.
    best_value: the same distance of the checkpoint at `best_step`, which had the lowest small-sample distance.
    """

    value: float
    floor: float
    ratio: float
    error: float | None
    metrics: dict[str, float]
    errors: dict[str, float]
    not_available: dict[str, str]
    collapsed: tuple[str, ...]
    best_value: float
    best_step: int
    protocol: dict[str, Any]


def read_scores(path: Path, metric: str) -> Scores:
    """Read metrics.json, of which `metric` is the distance.

    Raises:
        PipelineError: the file is missing or damaged, or a number in it is not finite.
    """
    held = read_keys(path, (metric, *KEYS))
    numbers, errors = finite_numbers(path, held), finite_numbers(path, held["sampling_error"])
    best = finite_numbers(path, held["best"])
    if not {metric, "floor", "ratio_to_floor"} <= numbers.keys() or not {metric, "step"} <= best.keys():
        raise PipelineError(f"{path} holds values that are not finite numbers: delete it and run `dvc repro` again")
    return Scores(
        value=numbers[metric],
        floor=numbers["floor"],
        ratio=numbers["ratio_to_floor"],
        error=errors.get(metric),
        metrics={key: value for key, value in numbers.items() if key not in (metric, *NO_METRICS)},
        errors=errors,
        not_available=held["not_available"],
        collapsed=tuple(map(str, held["collapsed"])),
        best_value=best[metric],
        best_step=int(best["step"]),
        protocol=held["protocol"],
    )
