"""The page: Results -> HTML. Its content is chosen here; its look is in pipeline/report/templates."""

import base64
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.provenance import provenance
from pipeline.report.charts import Chart, Line, Point, line_chart, thin
from pipeline.report.conclusions import cautions, conclusions
from pipeline.report.formatting import TIMES, decimals, mean_and_std, number
from pipeline.report.metrics_table import class_table, explained, metrics_table, nearest
from pipeline.report.ranking import ranking_table
from pipeline.report.results import PENALTY, Results, RunResult, differing
from pipeline.sampling.pictures import grid, picture

TEMPLATES = Path(__file__).resolve().parent / "templates"
HUES = 8  # colours in templates/style.css; with more models they repeat, dashed
REAL_IMAGES = 100  # as many as in every model's grid
SINGLES = 10
MEDIA = {".png": "image/png", ".gif": "image/gif"}


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
    templates.filters |= {"breakable": breakable, "plain": plain, "data_uri": data_uri}
    templates.globals |= {"css": css, "keys": keys, "nearest": nearest, "mean_and_std": mean_and_std}
    return templates


def render(results: Results) -> str:
    """The page.

    Raises:
        PipelineError: the prepared training images or a model's picture cannot be read.
    """
    dataset = results.dataset
    groups = results.groups
    models = results.models
    channels, height, width = dataset["image_shape"]
    first = [runs[0] for runs in models.values()]
    protocols = [group.protocol for group in groups]
    recipes = [run.info["recipe"] for run in first]
    real_grid, real_singles = real_images(paths.PREPARED / "train.npy")
    context = {
        "results": results,
        "title": f"{dataset['name']}, {width} {TIMES} {height}, {'grey' if channels == 1 else 'RGB'}",
        "conclusions": conclusions(results),
        "cautions": cautions(results),
        "groups": groups,
        "tables": [ranking_table(results, group) for group in groups],
        "metrics": [metrics_table(results, group) for group in groups],
        "metric_info": explained(results),
        "classes": [class_table(results, group) for group in groups],
        "places": places(results),
        "first": first,
        "several": len(results.runs) > len(first),
        "budgets": {run.info["images_seen"] for run in first},
        "distances": [distance_chart(results, axis) for axis in ("images", "seconds")],
        "losses": [loss_chart(runs) for runs in models.values()],
        "real_grid": real_grid,
        "real_singles": real_singles,
        "grid_width": min(max(_width(run.samples / "grid.png") for run in first), 522),
        "single_width": width * max(1, 64 // width),
        "protocols": protocols,
        "protocol_differs": differing(protocols),
        "recipes": recipes,
        "recipe_differs": differing(recipes),
        "few": rank_deficient(results),
        "provenance": provenance(),
    }
    return template_environment().get_template("report.html").render(context)


def places(results: Results) -> int:
    """The number of decimals of every distance."""
    return decimals(run.value for run in results.runs)


def rank_deficient(results: Results) -> bool:
    """Whether a covariance was estimated from at most as many images as the features have dimensions."""
    counts = [results.floor["train_images"], results.floor["test_images"]]
    counts += [run.protocol.get(key) for run in results.runs for key in ("real_images", "generated_images")]
    return results.features is not None and any(n is not None and n <= results.features for n in counts)


def distance_chart(results: Results, axis: str) -> Chart:
    """The small-sample distance against images or seconds; with several seeds, thin lines around their mean."""
    name = {"images": "images seen", "seconds": "training seconds"}[axis]
    seeds, means = [], []
    for model, runs in results.models.items():
        curves = [run.curve.dropna(subset=["distance", axis]) for run in runs]
        if len(runs) > 1:
            style = f"{css(runs[0].index)} seed"
            seeds += [Line(_points(c, axis), style, run.name) for c, run in zip(curves, runs, strict=True)]
        # Only steps that all seeds have: a mean over fewer seeds would jump.
        steps = pd.concat(curves).groupby("step")[[axis, "distance"]].agg(["mean", "size"])
        mean = steps[steps[(axis, "size")] == len(runs)].xs("mean", axis=1, level=1)
        means.append(Line(_points(pd.DataFrame(mean), axis), css(runs[0].index), model, model))
    value = results.floor["value"]
    zero = any(group.floor is None for group in results.groups)
    rule = None if zero else (value, f"floor {number(value, places(results))}")
    description = f"Logarithmic; one line for each model: {', '.join(results.models)}. The floor is dashed."
    title = f"Small-sample {results.metric} against {name}"
    return line_chart(title, description, seeds + means, name, f"small-sample {results.metric}", log=True, rule=rule)


def loss_chart(runs: Sequence[RunResult]) -> Chart:
    """The losses of G (grey) and D (the model's colour) and D's or G's penalties (dotted), one line for each seed."""
    colour = css(runs[0].index)
    curves = {"loss/g": ("neutral", "G"), "loss/d": (colour, "D")}
    penalties = [name for name in runs[0].curve.columns if name.startswith(PENALTY)]
    curves |= {name: (f"{colour} penalty", name.removeprefix(PENALTY)) for name in penalties}
    lines = []
    for key, (style, label) in curves.items():
        for position, run in enumerate(run for run in runs if key in run.curve):
            points = thin(_points(run.curve.dropna(subset=[key]), "images", key))
            style_of_run = f"{style} several" if len(runs) > 1 else style
            lines.append(Line(points, style_of_run, f"{run.name}, {label}", label if position == 0 else ""))
    description = "Losses of the discriminator (D) and the generator (G) and their penalties against images seen"
    return line_chart(runs[0].model, description, lines, "images seen", "loss", size=(350, 230))


def _points(curve: pd.DataFrame, x: str, y: str = "distance") -> list[Point]:
    return [(float(a), float(b)) for a, b in zip(curve[x], curve[y], strict=True)]


def real_images(path: Path) -> tuple[str, list[str]]:
    """A grid of training images taken at equal intervals from the split, and ten single ones, as data URIs."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        return _png(grid(_evenly(images, REAL_IMAGES), 10)), [_png(picture(i)) for i in _evenly(images, SINGLES)]
    except (OSError, ValueError, IndexError):
        raise PipelineError(f"{path} is missing or damaged: run `dvc repro`, which makes it") from None


def _evenly(images: np.ndarray, count: int) -> np.ndarray:
    rows = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return np.array(images[rows])


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return _uri(buffer.getvalue(), MEDIA[".png"])


def _width(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return image.width
    except OSError:
        raise PipelineError(f"{path} is not a picture: delete it and run `dvc repro` again") from None


def data_uri(path: Path) -> str:
    """A picture file as a data URI."""
    return _uri(path.read_bytes(), MEDIA[path.suffix])


def _uri(content: bytes, media: str) -> str:
    return f"data:{media};base64,{base64.b64encode(content).decode()}"


def css(index: int) -> str:
    """The CSS classes of a model's colour."""
    return f"m{index % HUES}" + (" again" if index >= HUES else "")


def keys(mappings: Sequence[dict[str, Any]]) -> list[str]:
    """The keys of all mappings, in their order of appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def plain(value: Any) -> str:
    """A value as in params.yaml: null, true, 0.0002, a bare word."""
    return value if isinstance(value, str) else json.dumps(value)


def breakable(text: Any) -> Markup:
    """Escaped text that may break after an underscore: fd_efficientnet_lite0 is long for a column."""
    return Markup(escape(text).replace("_", Markup("_<wbr>")))
