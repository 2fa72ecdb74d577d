"""Can this installation's numbers be trusted? Versions, and a table of checks: pass, fail, or cannot be checked here.

python -m pipeline.metrics doctor                     the checks
python -m pipeline.metrics doctor --explain PROTOCOL --experiment NAME
                                                      why an experiment's number differs from one of that protocol
"""

import argparse
import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.core import paths
from pipeline.core.devices import choose_device
from pipeline.core.errors import PipelineError, exit_cleanly
from pipeline.core.files import read_json
from pipeline.core.provenance import provenance
from pipeline.core.tables import table
from pipeline.evaluate.explain import PROTOCOLS, explain
from pipeline.evaluate.stated import ALIASES
from pipeline.metrics.extractors import EXTRACTORS, load_extractor
from pipeline.metrics.extractors.base import Extractor
from pipeline.metrics.extractors.weights import WeightsNotFound
from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.reference import check_known_value
from pipeline.params import PARAMS_FILE, MetricsParams, load

PASS, FAIL, UNKNOWN = "pass", "FAIL", "cannot be checked here"


class _Unchecked(Exception):
    """Why a check cannot be made on this machine."""


class _Failed(Exception):
    """What a check found to be wrong."""


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.metrics doctor") -> None:
    """Print the table; exit status 1 if a check failed."""
    description = (__doc__ or "").replace("python -m pipeline.metrics doctor", prog)
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=formatter)
    parser.add_argument("--explain", metavar="PROTOCOL", help=", ".join([*PROTOCOLS, *ALIASES]))
    parser.add_argument("--experiment", metavar="NAME", help="an experiment under scores/, such as sagan-0")
    options = parser.parse_args(arguments)
    if bool(options.explain) != bool(options.experiment):
        raise PipelineError("--explain PROTOCOL and --experiment NAME go together: give both")
    if options.explain:
        _print_explanation(options.explain, options.experiment)
        return
    print(table(list(provenance().items())), end="\n\n")
    rows = [(name, *_outcome(check)) for name, check in checks().items()]
    print(table([("check", "result", ""), *rows]))
    if any(result == FAIL for _, result, _ in rows):
        sys.exit(1)


def checks() -> dict[str, Callable[[], str]]:
    """Each check by its name: it returns what it found, or raises `_Failed`, PipelineError or `_Unchecked`."""
    extractors: dict[str, Extractor] = {}
    return {
        "a set of features is 0 from itself": _identity,
        "a shift by v gives |v|²": _shift,
        "the value is pytorch-fid's": _pytorch_fid,
        **{f"weights of {name}": functools.partial(_weights, name, extractors) for name in EXTRACTORS},
        **{
            f"the batch size does not matter ({name})": functools.partial(_batches, name, extractors)
            for name in EXTRACTORS
        },
        "CIFAR-10: training to test images is 3.151": _known_value,
    }


def _outcome(check: Callable[[], str]) -> tuple[str, str]:
    try:
        return PASS, check()
    except _Unchecked as reason:
        return UNKNOWN, str(reason)
    except (_Failed, PipelineError) as fault:
        return FAIL, str(fault)


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise _Failed(fault)


def _features(count: int, dim: int, seed: int) -> np.ndarray:
    source = np.random.default_rng(seed)
    return (source.standard_normal((count, dim)) @ source.standard_normal((dim, dim))).astype(np.float32)


def _identity() -> str:
    worst = 0.0
    for count, dim in [(400, 64), (40, 64)]:  # of full rank, and of less
        gaussian = Gaussian.from_features(_features(count, dim, 0))
        worst = max(worst, abs(frechet_distance(gaussian, gaussian)) / gaussian.trace)
    _require(worst <= 1e-9, f"{worst:.1e} of the trace")
    return f"to {worst:.0e} of the trace"


def _shift() -> str:
    features, shift = _features(400, 64, 0).astype(np.float64), np.linspace(-1, 2, 64)
    found = frechet_distance(Gaussian.from_features(features), Gaussian.from_features(features + shift))
    error = abs(found / (shift @ shift) - 1)
    _require(bool(error <= 1e-9), f"off by {error:.1e}")
    return f"to {error:.0e}"


def _pytorch_fid() -> str:
    worst = 0.0
    for count, tolerance in [(400, 1e-9), (40, 1e-5)]:  # pytorch-fid is inexact where the covariance is singular
        first, second = (Gaussian.from_features(_features(count, 64, seed)) for seed in (0, 1))
        ours, scale = frechet_distance(first, second), first.trace + second.trace
        sigmas = [gaussian.factor @ gaussian.factor.T for gaussian in (first, second)]
        try:
            from pytorch_fid.fid_score import calculate_frechet_distance

            with warnings.catch_warnings(action="ignore"):  # scipy: `disp` goes
                theirs = float(calculate_frechet_distance(first.mean, sigmas[0], second.mean, sigmas[1]))
        except Exception as error:  # scipy >= 1.18 has another sqrtm, and pytorch-fid raises whatever follows
            raise _Unchecked(f"pytorch-fid's function fails: {str(error).splitlines()[0][:80]}") from None
        gap = abs(ours - theirs) / scale
        _require(gap <= tolerance, f"{ours:.6f}, pytorch-fid says {theirs:.6f} ({count} features of 64 dimensions)")
        worst = max(worst, gap)
    return f"to {worst:.0e} of the traces"


def _params(name: str) -> MetricsParams:
    """Settings under which an extractor is loaded: from where params.yaml says, if it names that one."""
    ours = load().metrics if PARAMS_FILE.exists() else None
    return MetricsParams(
        extractor=name,
        further_extractors=(),
        weights=ours.weights if ours and ours.extractor == name else None,
        unknown_weights="refuse",
        batch_size=8,
        compile=False,
        bootstrap=0,
        infinity=False,
    )


def _weights(name: str, extractors: dict[str, Extractor]) -> str:
    try:
        extractors[name] = load_extractor(_params(name), choose_device("auto"))
    except WeightsNotFound as error:
        raise _Unchecked(str(error)) from None
    return f"sha256 {extractors[name].protocol['weights_sha256'][:16]}..."


def _batches(name: str, extractors: dict[str, Extractor]) -> str:
    if name not in extractors:
        raise _Unchecked("no weights")
    extractor = extractors[name]
    images = torch.randint(256, (7, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = extractor(images)
    single = torch.cat([extractor(image[None]) for image in images])
    error, tolerance = float((whole - single).abs().max() / whole.abs().max()), 1e-5
    if extractor.device.type != "cpu":
        tolerance = 1e-3
    _require(error <= tolerance, f"features differ by {error:.1e} of the largest")
    return f"to {error:.0e} of the largest feature"


def _known_value() -> str:
    """The floor that the reference stage measured, where the data and the extractor are those of which it is known."""
    path = paths.REFERENCE / "floor.json"
    floor: Any = read_json(path) if path.exists() else {}
    found = None
    if isinstance(floor, dict) and isinstance(floor.get("value"), float):
        found = check_known_value(floor["value"], str(floor.get("metric")), str(floor.get("data_sha256")))
    if found is None:
        raise _Unchecked("`dvc repro reference` checks it on CIFAR-10 under Inception's weights (preset cifar10)")
    return found


def _print_explanation(protocol: str, experiment: str) -> None:
    metric, value, rows = explain(protocol, experiment, load())
    print(f"{experiment}: {metric} {value:.4f}. Beside {protocol}, one field changed at a time:\n")
    print(table([("field", "here", protocol, metric), *[tuple(map(str, row)) for row in rows]]))
