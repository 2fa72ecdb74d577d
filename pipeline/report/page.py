"""The page: Results -> HTML. Its content is chosen here; its look is in pipeline/report/templates."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.provenance import provenance
from pipeline.report.board import board
from pipeline.report.conclusions import best_run, cautions, conclusions, doubt
from pipeline.report.curves import distance_figure, loss_figure
from pipeline.report.figures import DARK, LIGHT, TEMPLATES, chart, css, embedded, script_sources, scripts, wrapped
from pipeline.report.formatting import data_title, mean_and_std
from pipeline.report.metrics_table import class_table, explained, metrics_table, missing, nearest
from pipeline.report.ranking import ranking_table
from pipeline.report.results import Results, RunResult, differing
from pipeline.sampling.pictures import grid
from pipeline.tracking.addresses import LOCAL

REAL_IMAGES = 100  # as many as in every model's grid
STRIP = 10  # images in a row of the first screen
FRAMES, FRAME_BYTES = 12, 4_000_000  # of all models' grids while training: the most steps, and the most bytes in all
ANIMATION_BYTES = 2_000_000  # of all models' GIFs, which are left out if they have more
LARGE = 500  # pixels: wider pictures are stored with small losses


@cache
def template_environment() -> jinja2.Environment:
    """The template environment: every value is escaped, and an undefined name is an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"breakable": breakable, "plain": plain, "data_uri": data_uri, "embedded": embedded}
    templates.globals |= {"css": css, "keys": keys, "nearest": nearest, "mean_and_std": mean_and_std}
    templates.globals |= {"strip": strip, "alarming": alarming, "local_mlflow": LOCAL}
    templates.globals |= {"light": LIGHT, "dark": DARK, "scripts": scripts, "script_sources": script_sources}
    templates.globals["colours"] = embedded({colour: DARK[name] for name, colour in LIGHT.items()})
    return templates


def render(results: Results, mlflow: Mapping[str, str] = {}) -> str:
    """The page.

    mlflow: the addresses of MLflow's pages that it links to, by their names.

    Raises:
        PipelineError: the prepared training images or a model's picture cannot be read.
    """
    groups = results.groups
    models = results.models
    first = [runs[0] for runs in models.values()]
    protocols = [group.protocol for group in groups]
    recipes = [run.info["recipe"] for run in first]
    real_grid, real_strip = real_images(paths.PREPARED / "train.npy")
    frames = training_frames(first)
    metrics = [(metrics_table(results, group), missing(results, group)) for group in groups]
    height = 310 + sum(10 + 22 * wrapped(model).count("<br>") for model in models)  # of a chart whose legend names all
    context = {
        "results": results,
        "title": data_title(results.dataset),
        "conclusions": conclusions(results),
        "doubt": doubt(groups[0], results.places),
        "boards": [board(results, group) for group in groups],
        "cautions": cautions(results),
        "groups": groups,
        "tables": [ranking_table(results, group) for group in groups],
        "metrics": metrics,
        "further": any(rows or reasons for rows, reasons in metrics),
        "metric_info": explained(results),
        "classes": [class_table(results, group) for group in groups],
        "places": results.places,
        "first": first,
        "several": len(results.runs) > len(first),
        "budgets": {run.info["images_seen"] for run in first},
        "distances": [
            chart(distance_figure(results, axis), f"Small-sample {results.metric} against {axis}", height)
            for axis in ("images", "seconds")
        ],
        "losses": [chart(loss_figure(runs), f"Losses of {model}", 240) for model, runs in models.items()],
        "real_grid": real_grid,
        "real_strip": real_strip,
        "frames": frames,
        "protocols": protocols,
        "protocol_differs": differing(protocols),
        "recipes": recipes,
        "recipe_differs": differing(recipes),
        "few": rank_deficient(results),
        "animations": animations(first),
        "mlflow": mlflow,
        "winner": best_run(results),
        "versions": [
            *provenance().items(),
            ("data sha256", results.dataset["sha256"]),
            *((f"fingerprint of {run.name}", run.info["fingerprint"]) for run in results.runs),
        ],
    }
    return template_environment().get_template("report.html").render(context)


def rank_deficient(results: Results) -> bool:
    """Whether a covariance was estimated from at most as many images as the features have dimensions."""
    counts = [results.floor["train_images"], results.floor["test_images"]]
    counts += [run.protocol.get(key) for run in results.runs for key in ("real_images", "generated_images")]
    return results.features is not None and any(n is not None and n <= results.features for n in counts)


def real_images(path: Path) -> tuple[str, str]:
    """A grid and a strip of training images taken at equal intervals from the split, as data URIs."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        return _uri(grid(_evenly(images, REAL_IMAGES), 10)), _uri(grid(_evenly(images, STRIP), STRIP))
    except (OSError, ValueError, IndexError):
        raise PipelineError(f"{path} is missing or damaged: run `dvc repro`, which makes it") from None


def strip(run: RunResult) -> str:
    """The first samples of a model in a row, as a data URI."""
    singles = sorted((run.samples / "final").glob("*.png"))[:STRIP]
    pictures = [np.atleast_3d(np.asarray(_opened(path))).transpose(2, 0, 1) for path in singles]
    return _uri(grid(np.stack(pictures), STRIP))  # of (H, W, C), or (H, W) if grey, each (C, H, W)


def training_frames(runs: Sequence[RunResult]) -> list[list[tuple[str, str]]]:
    """For each run its grids of the same latents while it trained, as many for each: steps and data URIs.

    They are taken at equal intervals, with the first and the last, and are fewer where they are large.
    """
    grids = [sorted((paths.RUNS / run.name / "grids").glob("*.png")) for run in runs]
    size = sum(len(_uri(_opened(own[-1]))) for own in grids)
    count = max(2, min(FRAMES, FRAME_BYTES // size, *map(len, grids)))
    chosen = [[own[i] for i in np.linspace(0, len(own) - 1, count).round().astype(int)] for own in grids]
    return [[(f"{int(path.stem):,}", _uri(_opened(path))) for path in own] for own in chosen]


def animations(runs: Sequence[RunResult]) -> list[str]:
    """The GIF of each run's training as a data URI; none if they would make the page large."""
    files = [(run.samples / "progress.gif").read_bytes() for run in runs]
    if sum(map(len, files)) > ANIMATION_BYTES:
        return []
    return [f"data:image/gif;base64,{base64.b64encode(content).decode()}" for content in files]


def _evenly(images: np.ndarray, count: int) -> np.ndarray:
    rows = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return np.array(images[rows])


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError):  # the latter for a chunk whose checksum is wrong
        raise PipelineError(f"{path} is not a picture: delete it and run `dvc repro` again") from None


def data_uri(path: Path) -> str:
    """A picture file as a data URI."""
    return _uri(_opened(path))


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WebP", lossless=image.width <= LARGE, quality=82, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def alarming(key: str, runs: Sequence[RunResult]) -> bool:
    """Whether a metric is among those by which a model is said to have collapsed."""
    return any(sign.split(" ")[0] == key for run in runs for sign in run.scores.collapsed)


def keys(mappings: Sequence[dict[str, Any]]) -> list[str]:
    """The keys of all mappings, in their order of appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def plain(value: Any) -> str:
    """A value as in params.yaml: null, true, 0.0002, a bare word."""
    return value if isinstance(value, str) else json.dumps(value)


def breakable(text: Any) -> Markup:
    """Escaped text that may break after an underscore: fd_efficientnet_lite0 is long for a column."""
    return Markup(escape(text).replace("_", Markup("_<wbr>")))
