"""scores/<experiment>/record.json, read back and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.report.readers import finite_numbers, read_keys

PROTOCOL_KEYS = ("floor_images", "real_split")
KEYS = ("protocol", "sampling_error", "not_available", "collapsed", "best")
NOT_METRICS = ("seed", "floor", "ratio_to_floor")  # numbers in the file that are not shown as metrics


@dataclass(frozen=True)
class Scores:
    """The metrics of one experiment.

    value: the distance by which models are ranked, of the final generator.
    floor: the distance of `protocol["floor_images"]` real test images; None if it is 0, see `not_available["floor"]`.
    at_floor: the distance of as many generated images; `ratio` is this divided by `floor`.
    metrics: all other metrics by name, including those of single classes.
    errors: sampling errors by name, of `metrics` and of the distance itself.
    not_available: the reason for each metric that is missing, by its name in pipeline.metrics.METRICS.
    collapsed: values that show that the model has collapsed or learnt nothing, such as "coverage 0.010"; else empty.
    further: the names of further extractors, and what the distance under each is called.
    best_value: the distance at `best_step`, the checkpoint that had the lowest small-sample distance.
    """

    value: float
    floor: float | None
    at_floor: float | None
    ratio: float | None
    error: float | None
    metrics: dict[str, float]
    errors: dict[str, float]
    not_available: dict[str, str]
    collapsed: tuple[str, ...]
    best_value: float
    best_step: int
    protocol: dict[str, Any]
    further: dict[str, str]


def read_scores(path: Path, metric: str) -> Scores:
    """Read record.json, in which `metric` is the name of the distance.

    Raises:
        PipelineError: the file is missing or damaged, or a number in it is not finite.
    """
    at_floor = f"{metric}_at_floor"
    held = read_keys(path, (metric, *KEYS))
    protocol = held["protocol"] if isinstance(held["protocol"], dict) else {}
    lacking = [key for key in PROTOCOL_KEYS if key not in protocol]
    if lacking:
        raise PipelineError(f"{path} lacks protocol.{lacking[0]}: run `dvc repro`, which writes it again")
    numbers, errors = finite_numbers(path, held), finite_numbers(path, held["sampling_error"])
    best = finite_numbers(path, held["best"])
    if metric not in numbers or not {metric, "step"} <= best.keys():
        raise PipelineError(f"{path} holds values that are not finite numbers: delete it and run `dvc repro` again")
    return Scores(
        value=numbers[metric],
        floor=numbers.get("floor"),
        at_floor=numbers.get(at_floor),
        ratio=numbers.get("ratio_to_floor"),
        error=errors.get(metric),
        metrics={key: value for key, value in numbers.items() if _is_shown(key, metric)},
        errors=errors,
        not_available=held["not_available"],
        collapsed=tuple(map(str, held["collapsed"])),
        best_value=best[metric],
        best_step=int(best["step"]),
        protocol=protocol,
        further=_further(held.get("further")),
    )


def _is_shown(key: str, metric: str) -> bool:
    """Whether a number is one of the further metrics; of other extractors the ratio to the floor is, its parts not."""
    return key not in (metric, *NOT_METRICS) and not key.endswith(("_at_floor", "/floor"))


def _further(held: Any) -> dict[str, str]:
    entries = held.items() if isinstance(held, dict) else ()
    return {str(name): str(entry["metric"]) for name, entry in entries if isinstance(entry, dict) and "metric" in entry}
