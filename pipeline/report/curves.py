"""The report's charts: learning curves and losses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.report.figures import HUES, LIGHT, Point, figure, hue, line, wrapped
from pipeline.report.formatting import number
from pipeline.report.results import PENALTY, Results, RunResult

if TYPE_CHECKING:
    import plotly.graph_objects as go


def distance_figure(results: Results, axis: str) -> "go.Figure":
    """The small-sample distance against "images" or "seconds"; with several seeds, thin lines around their mean."""
    seeds, means = [], []
    for model, runs in results.models.items():
        index = runs[0].index
        curves = [run.curve.dropna(subset=["distance", axis]) for run in runs]
        shared = {"meta": index, "legendgroup": model}
        if len(runs) > 1:
            for curve, run in zip(curves, runs, strict=True):
                style: dict[str, Any] = {"line": {"width": 1}, "opacity": 0.4, "showlegend": False}
                seeds.append(line(_points(curve, axis), run.name, hue(index), **style, **shared))
        # Only steps that all seeds have: a mean over fewer seeds would jump.
        steps = pd.concat(curves).groupby("step")[[axis, "distance"]].agg(["mean", "size"])
        mean = pd.DataFrame(steps[steps[(axis, "size")] == len(runs)].xs("mean", axis=1, level=1))
        dash = {"dash": "dash" if index >= len(HUES) else "solid"}
        means.append(line(_points(mean, axis), wrapped(model), hue(index), line=dash, mode="lines+markers", **shared))
    name = {"images": "images seen", "seconds": "training seconds"}[axis]
    if all(group.floor is not None for group in results.groups):
        value, reached = results.floor["value"], [x for each in means for x in each["x"]] or [0.0]
        shown = f"floor {number(value, results.places)}"
        means.append(line([(0.0, value), (max(reached), value)], shown, LIGHT["soft"], line={"dash": "dot"}))
    return figure(seeds + means, name, f"small-sample {results.metric}", log=True, showlegend=True)


def loss_figure(runs: Sequence[RunResult]) -> "go.Figure":
    """The losses of G (grey) and D (the model's colour) and D's or G's penalties (dotted), one line for each seed."""
    colour = hue(runs[0].index)
    curves = {"loss/g": (LIGHT["soft"], "solid", "G"), "loss/d": (colour, "solid", "D")}
    penalties = [name for name in runs[0].curve.columns if name.startswith(PENALTY)]
    curves |= {name: (colour, "dot", name.removeprefix(PENALTY)) for name in penalties}
    lines = []
    for key, (shade, dash, label) in curves.items():
        if len(runs) > 1:  # its entry in the legend, for all seeds
            lines.append(line([], label, shade, line={"dash": dash}, legendgroup=label, x=[None], y=[None]))
        for run in (run for run in runs if key in run.curve):
            points = _points(run.curve.dropna(subset=[key]), "images", key)
            name = label if len(runs) == 1 else f"{label}, seed {run.seed}"
            style = {"dash": dash, "width": 1.5 if len(runs) == 1 else 1}
            lines.append(line(points, name, shade, line=style, legendgroup=label, showlegend=len(runs) == 1))
    return figure(lines, "images seen", "loss", showlegend=True)


def _points(curve: pd.DataFrame, x: str, y: str = "distance") -> list[Point]:
    return [(float(a), float(b)) for a, b in zip(curve[x], curve[y], strict=True)]
