"""Charts by plotly: one theme for all, their data inline in the page, and foreign text as text.

A chart's colours are those of `LIGHT`. templates/page.js draws it, and in dark mode replaces each by its namesake in
`DARK`; templates/style.css takes the page's own colours from here too.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    import plotly.graph_objects as go  # at run time where a page is made: other commands import this package too

TEMPLATES = Path(__file__).resolve().parent / "templates"
MOST_POINTS = 400  # of a line; more are averaged in bins
# Okabe and Ito's palette, told apart by the colour-blind; the light ones are darkened to 3:1 on white.
LIGHT = {
    "paper": "#ffffff", "raised": "#f6f7f8", "ink": "#16191d", "soft": "#565d66", "line": "#dfe3e7", "mark": "#fdf3d8",
    "note": "#965900", "hue0": "#0072b2", "hue1": "#d55e00", "hue2": "#009e73", "hue3": "#c1689a", "hue4": "#b98300",
    "hue5": "#3a9ad0", "hue6": "#5f4b8b", "hue7": "#8a4b2d",
}  # fmt: skip
DARK = {
    "paper": "#14171a", "raised": "#1d2125", "ink": "#e9ebed", "soft": "#a0a8b0", "line": "#31373d", "mark": "#3a3217",
    "note": "#e9a94b", "hue0": "#4aa8e0", "hue1": "#f08040", "hue2": "#2fc39a", "hue3": "#e08fba", "hue4": "#e6a92e",
    "hue5": "#8fd0f5", "hue6": "#a994dd", "hue7": "#cf9a7c",
}  # fmt: skip
HUES = [name for name in LIGHT if name.startswith("hue")]  # with more models they repeat, dashed
MARKS = ("<br>", "<b>", "</b>", "<extra></extra>", "&nbsp;")  # of plotly's own, which foreign text may as well hold

Point = tuple[float, float]


def hue(index: int) -> str:
    """The colour of the model, or kind of trial, of this index."""
    return LIGHT[f"hue{index % len(HUES)}"]


def css(index: int) -> str:
    """The CSS classes of a model's colour."""
    return f"m{index % len(HUES)}" + (" again" if index >= len(HUES) else "")


def figure(data: Sequence[Mapping[str, Any]], x: str, y: str, log: bool = False, **layout: Any) -> "go.Figure":
    """A chart of plotly's traces `data` with the names of its axes; `log`: the y axis is logarithmic."""
    import plotly.graph_objects as go

    made = go.Figure(list(data), layout)
    made.update_xaxes(title_text=x)
    made.update_yaxes(title_text=y, **({"type": "log", "dtick": "D2", "tickformat": ",~g"} if log else {}))
    return made


def line(points: Sequence[Point], name: str, colour: str, **more: Any) -> dict[str, Any]:
    """A trace through points; those that are not finite are left out, and too many are thinned."""
    kept = thin([(x, y) for x, y in points if math.isfinite(x + y)])
    x, y = ([point[axis] for point in kept] for axis in (0, 1))
    style = {"color": colour, "width": 2, **more.pop("line", {})}
    made = {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": style}
    return made | {"hovertemplate": "%{y:.4~g} at %{x:.4~s}"} | more


def wrapped(name: str, width: int = 24) -> str:
    """A name in lines of at most so many letters, where it has underscores: charts cut long ones off.

    >>> wrapped("wgan_gp_resnet", width=8)
    'wgan_gp_<br>resnet'
    """
    lines = [""]
    for part in re.findall("[^_]*_*", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "<br>".join(lines)


def thin(points: Sequence[Point]) -> list[Point]:
    """The points; if there are too many to see, the means of bins of neighbours."""
    if len(points) <= MOST_POINTS:
        return list(points)
    return [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in np.array_split(points, MOST_POINTS))]


def chart(made: "go.Figure", title: str, height: int = 340, file: str = "") -> Markup:
    """A chart's place in the page with its data; `title` is read aloud, `file` names what is downloaded."""
    made.update_layout(template=_theme(), height=None, width=None, title=None)
    content = embedded(_as_text(json.loads(made.to_json())))
    name = escape(file or title)
    return Markup(
        f'<div class="plot" role="group" aria-label="{escape(title)}" data-file="{name}" style="height:{height}px">'
        f'<script type="application/json">{content}</script></div>'
    )


def _as_text(value: Any) -> Any:
    """All strings so that plotly shows them letter by letter: in labels it makes links of <a href=..>."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if not isinstance(value, str):
        return value
    text = html.escape(value, quote=False)
    for mark in MARKS:
        text = text.replace(html.escape(mark, quote=False), mark)
    return text


@cache
def _theme() -> "go.layout.Template":
    import plotly.graph_objects as go

    axis = {"gridcolor": LIGHT["line"], "linecolor": LIGHT["line"], "zeroline": False, "automargin": True,
            "title": {"standoff": 8}, "exponentformat": "SI"}  # fmt: skip
    none = "rgba(0,0,0,0)"
    return go.layout.Template(
        layout={
            "paper_bgcolor": LIGHT["paper"], "plot_bgcolor": none, "colorway": [LIGHT[name] for name in HUES],
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": LIGHT["soft"]},
            "margin": {"l": 48, "r": 36, "t": 56, "b": 40}, "xaxis": axis, "yaxis": axis,
            "colorscale": {"sequential": "Viridis"},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "hoverlabel": {"bgcolor": LIGHT["raised"], "bordercolor": LIGHT["line"], "font": {"color": LIGHT["ink"]}},
            "modebar": {"bgcolor": none, "color": LIGHT["soft"], "activecolor": LIGHT["ink"]},
        }
    )  # fmt: skip


@cache
def scripts() -> list[Markup]:
    """The scripts of a page: plotly, and what answers to the reader."""
    from plotly.offline import get_plotlyjs

    return [Markup(get_plotlyjs()), Markup((TEMPLATES / "page.js").read_text(encoding="utf-8"))]


@cache
def script_sources() -> Markup:
    """The policy that lets a page run these scripts and no others: their hashes."""
    digests = [hashlib.sha256(text.encode()).digest() for text in scripts()]
    return Markup(" ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests))


def embedded(value: Any) -> Markup:
    """A value as JSON for an inline script of data."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))
