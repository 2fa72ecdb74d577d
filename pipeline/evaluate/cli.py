"""How close are the images B to the images A? Two folders, arrays or statistics files; one JSON on stdout.

python -m pipeline.metrics A B                         A real, B generated: the FID and further metrics
python -m pipeline.metrics A --save statistics.npz     the statistics of A, which pytorch-fid can read too
python -m pipeline.metrics doctor                      checks this installation
"""

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from pipeline.core.devices import choose_device
from pipeline.core.errors import PipelineError, exit_cleanly, suggest, warn
from pipeline.core.files import write_bytes
from pipeline.core.metric_names import distance_name
from pipeline.evaluate.compare import ImageSetResult, compare, dimensions_of, measure_image_set, open_image_set
from pipeline.evaluate.features import ReadOptions
from pipeline.evaluate.images import ImageSource
from pipeline.evaluate.stated import stated_extractor, without_network
from pipeline.evaluate.statistics import holds_images, is_statistics, write_statistics
from pipeline.metrics import EXTRACTORS, METRICS, Extractor, load_extractor
from pipeline.metrics.further import further_extractors, further_metrics, named
from pipeline.metrics.protocol import protocol_of
from pipeline.params import MetricsParams

# What a parameter of params.yaml is called here.
OPTIONS = {
    "metrics.extractor": "--extractor",
    "metrics.weights": "--weights",
    "metrics.unknown_weights": "--allow-unknown-weights",
    "runtime.device": "--device",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PipelineError(f"{message} (see --help)")


def _number(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], Any]:
    """A converter for argparse: a number of a kind, within bounds."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what} from {low:,.7g} to {high:,.7g}, got {text!r}")
        return value

    return convert


def _path(text: str) -> Path:
    if not text:  # an unset variable of a script: Path would take it for the current folder
        raise argparse.ArgumentTypeError("must be a path, got ''")
    return Path(text)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = 0.0
    if not -1e9 <= low < high <= 1e9:
        raise argparse.ArgumentTypeError(f"must be two numbers, the smaller one first, such as -1,1; got {text!r}")
    return low, high


def _metrics(text: str) -> tuple[str, ...] | None:
    if text == "all":
        return None
    for name in (names := tuple(text.split(","))):
        if name not in METRICS:
            raise argparse.ArgumentTypeError(f"unknown name {name!r}; {suggest(name, ['all', *METRICS])}")
    return names


def _extractors(text: str) -> tuple[str, ...]:
    for name in (names := tuple(text.split(","))):
        if name not in EXTRACTORS:
            raise argparse.ArgumentTypeError(f"unknown name {name!r}; {suggest(name, EXTRACTORS)}")
    return names


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,2})?", text):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, mps, cuda or cuda:N, got {text!r}")
    return text


def _parser(prog: str) -> argparse.ArgumentParser:
    description = (__doc__ or "").replace("python -m pipeline.metrics", prog)
    formatter = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=prog, description=description, formatter_class=formatter)
    add = parser.add_argument
    add(
        "a",
        type=_path,
        metavar="A",
        help="the real images: a folder, .zip, .npy or .npz, or their features or statistics",
    )
    add("b", type=_path, metavar="B", nargs="?", help="the generated images: the same")
    add("--extractor", metavar="NAME", help=f"{', '.join(EXTRACTORS)} (inception); only inception* give a FID")
    add("--further-extractors", type=_extractors, metavar="NAMES", default=(), help="also measure by these extractors")
    add("--statistics-protocol", metavar="NAME", help="how files of statistics or features were made: tf, clean-fid ..")
    add("--weights", metavar="PATH", help="the file of the extractor's weights, if it is not in its usual place")
    add("--allow-unknown-weights", action="store_true", help="use other weights; the metric is named after their hash")
    add("--device", type=_device, default="auto", help="auto, cpu, mps, cuda or cuda:N")
    add("--batch-size", type=_number(int, 1, 2**20), default=64)
    add("--workers", type=_number(int, 1, 256), default=2, help="threads that decode")
    add("--compile", action="store_true", help="compile the network: takes a minute, pays off for very many images")
    add("--value-range", type=_range, metavar="LOW,HIGH", help="the range of float arrays (0,1), such as -1,1 or 0,255")
    add("--bad-images", choices=("refuse", "skip"), default="refuse", help="what to do with broken or too large files")
    add("--max-megapixels", type=_number(float, 1e-6, 1e5), default=100.0, help="an image with more is too large")
    add("--held-out", type=_path, metavar="PATH", help="real images that are not in A, for the memorisation check")
    add("--metrics", type=_metrics, metavar="NAMES", help=f"all, or of {','.join(METRICS)}")
    add("--bootstrap", type=_number(int, 0, 10_000), default=20, help="resamples for the distance's sampling error")
    add("--infinity", action="store_true", help="extrapolate the distance to infinitely many generated images")
    add("--out", type=_path, metavar="FILE.json", help="write the JSON there too")
    add("--save", type=_path, metavar="FILE.npz", help="write the statistics of A; without B")
    cache = parser.add_mutually_exclusive_group()
    cache.add_argument("--cache", type=_path, metavar="DIR", help="where features of A are kept (~/.cache/gan-metrics)")
    cache.add_argument("--no-cache", action="store_true", help="keep nothing")
    return parser


def _joined(arguments: list[str]) -> list[str]:
    """`--value-range -1,1` as one word: argparse would take -1,1 for an option of its own."""
    words: list[str] = []
    for word in arguments:
        if words and words[-1] == "--value-range":
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _parse(arguments: list[str], prog: str) -> argparse.Namespace:
    """The options, after the checks that need no image."""
    options = _parser(prog).parse_args(_joined(arguments))
    if (options.b is None) == (options.save is None):
        raise PipelineError("name a second set B to compare with A, or --save FILE.npz for A's statistics, not both")
    if options.save and options.further_extractors:
        raise PipelineError("--save keeps the statistics of one extractor: leave out --further-extractors")
    if options.save and options.save.suffix != ".npz":
        raise PipelineError(f"--save {options.save}: others read statistics only from names that end in .npz")
    for path in filter(None, (options.out, options.save)):
        if os.path.isdir(path) or not os.access(path.parent, os.W_OK):
            raise PipelineError(f"{path} cannot be written: name a file in a folder that is there")
    return options


def _load_extractor(options: argparse.Namespace) -> Extractor:
    """The extractor. An error about it names this command's options, not the parameters of params.yaml."""
    try:
        return load_extractor(_params(options), choose_device(options.device))
    except PipelineError as error:
        raise _in_options(error, options.extractor) from None


def _params(options: argparse.Namespace) -> MetricsParams:
    return MetricsParams(
        extractor=options.extractor,
        further_extractors=options.further_extractors,
        weights=options.weights,
        unknown_weights="allow" if options.allow_unknown_weights else "refuse",
        batch_size=options.batch_size,
        compile=options.compile,
        bootstrap=options.bootstrap,
        infinity=options.infinity,
    )


def _in_options(error: PipelineError, extractor: str) -> PipelineError:
    """An error about a parameter of params.yaml as one about this command's option."""
    option = OPTIONS.get(error.field)
    if option is None:
        return error
    if not error.remedy:
        return PipelineError(f"{option}: {error.problem}")
    other = (
        "; or choose --extractor efficientnet_lite0, whose distance is no FID"
        if extractor.startswith("inception")
        else ""
    )
    return PipelineError(f"{error.problem}: {error.remedy}, or give {option}{other}")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """What is printed. All that can be refused cheaply is, before the first image is decoded."""
    read = ReadOptions(
        options.max_megapixels, options.bad_images, options.value_range, options.batch_size, options.workers
    )
    paths = [path for path in (options.a, options.held_out, options.b) if path]
    sources = {path: open_image_set(path, read) for path in paths}
    _require_images(options, sources)
    extractor, stated = _extractor_for(options, sources)
    cache = None if options.no_cache else options.cache or _default_cache()
    others = list(_further(options))
    if len({extractor.name, *options.further_extractors}) <= len(options.further_extractors):
        raise PipelineError("--further-extractors names an extractor twice, or the one that --extractor names, too")
    extractors = [extractor, *(other for _, other in others if isinstance(other, Extractor))]

    def measured(path: Path, cache: Path | None) -> list[ImageSetResult]:
        return measure_image_set(path, sources[path], extractors, read, cache, stated)

    real = measured(options.a, cache)
    if options.save:
        write_statistics(options.save, real[0].features, extractor.protocol)
        saved = {"saved": str(options.save), "protocol": protocol_of(extractor), "a": real[0].record}
        return {**saved, "warnings": real[0].warnings}
    held_out = measured(options.held_out, cache) if options.held_out else [None] * len(extractors)
    generated = measured(options.b, None)
    sides = list(zip(real, generated, held_out, extractors, strict=True))
    result = compare(*sides[0], options.bootstrap, options.infinity, options.metrics)
    if others:
        result["further"] = {}
    for name, other in others:
        if isinstance(other, str):
            result["not_available"][distance_name(name)] = other
    for side in sides[1:]:
        _add(result, side, options)
    return result


def _require_images(options: argparse.Namespace, sources: dict[Path, ImageSource | None]) -> None:
    """Refuse files of features or statistics where they are not enough."""
    need = {options.a: "--save"} if options.save else {}
    if options.further_extractors:
        need |= dict.fromkeys(sources, "--further-extractors")
    for path, name in need.items():
        if sources[path] is None:
            raise PipelineError(f"{path} holds no images, and {name} needs them: name the images")
    if options.held_out and is_statistics(options.held_out) and not holds_images(options.held_out):
        raise PipelineError(f"{options.held_out} holds statistics, and --held-out needs images: name the images")


def _further(options: argparse.Namespace) -> Iterator[tuple[str, Extractor | str]]:
    """Each further extractor by its name, or why it is not available."""
    if options.further_extractors:
        yield from further_extractors(_params(options), choose_device(options.device))


def _add(
    result: dict[str, Any],
    side: tuple[ImageSetResult, ImageSetResult, ImageSetResult | None, Extractor],
    options: argparse.Namespace,
) -> None:
    """Measure by a further extractor; its numbers go into `result`, under names of their own."""
    names = [name for name in further_metrics() if options.metrics is None or name in options.metrics]
    found, extractor = compare(*side, options.bootstrap, options.infinity, names), side[-1]
    for kind in ("metrics", "sampling_error"):
        result[kind] |= named(found[kind], extractor)
    result["warnings"] += [sentence for sentence in found["warnings"] if sentence not in result["warnings"]]
    own = {key: found[key] for key in ("not_available", "protocol", "versions")}
    result["further"][extractor.name] = {"metric": extractor.metric, **own}


def _extractor_for(options: argparse.Namespace, sources: dict[Path, ImageSource | None]) -> tuple[Extractor, bool]:
    """The extractor, without its network where no side has images; and whether the caller states it for the files."""
    stated = stated_extractor(options.statistics_protocol)
    if stated and options.extractor not in (None, stated):
        raise PipelineError(f"--statistics-protocol is of {stated}: give --extractor {stated}, whose numbers compare")
    name = stated or options.extractor
    if all(source is None for source in sources.values()):
        return without_network({path: dimensions_of(path) for path in sources}, name), bool(stated)
    options.extractor = name or "inception"
    return _load_extractor(options), bool(stated)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gan-metrics"


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.metrics") -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["doctor"]:
        from pipeline.evaluate.doctor import main as doctor  # here, since no other use needs to wait for it

        doctor(arguments[1:], f"{prog} doctor")
        return
    options = _parse(arguments, prog)
    with contextlib.redirect_stdout(sys.stderr):  # libraries may print; stdout is for the JSON
        result = _run(options)
    for sentence in result["warnings"]:
        warn(sentence)
    text = json.dumps(result, indent=2, allow_nan=False)
    print(text)
    if options.out:
        write_bytes(options.out, f"{text}\n".encode())
