"""Charts as SVG that is part of a page: drawn by matplotlib, coloured by the page's CSS variables.

The same data gives the same text: ids are salted with the chart's name, and nothing tells the time.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
BLUE, GREEN, ORANGE, VIOLET = "#050505", "#060606", "#070707", "#080808"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    BLUE: "--blue",
    GREEN: "--green",
    ORANGE: "--orange",
    VIOLET: "--violet",
}
"""Colours that stand for CSS variables, so that one drawing serves light, dark and print."""

_SETTINGS: Mapping[RcKeyType, object] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "patch.linewidth": 0.0,
}
_DPI = 72.0
_FONT = re.compile(r"font-family: [^;\"]*")
_COLOUR = re.compile(f": ({'|'.join(_VARIABLES)})")
_OWN_STYLE = re.compile(r"<style.*?</style>|<metadata>.*?</metadata>", re.DOTALL)


@dataclass
class Drawing:
    """A chart that is being drawn.

    Attributes:
        svg: What it became; empty until it is done.
    """

    figure: Figure
    axes: Axes
    svg: str = field(default="", init=False)


@contextmanager
def drawing(name: str, label: str, *, width: float = 10.0, height: float = 4.4) -> Iterator[Drawing]:
    """A chart to draw on; its `svg` is there afterwards.

    Args:
        name: Unique in the page: prefix of all ids.
        label: What it shows, for who cannot see it.
        width: In inches of 72 CSS pixels, before the page scales it.
        height: Likewise.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # what a user's own matplotlibrc says is not for reports
        matplotlib.rcParams.update(_SETTINGS)
        matplotlib.rcParams["svg.hashsalt"] = name
        figure = Figure(figsize=(width, height), dpi=_DPI)
        FigureCanvasSVG(figure)
        drawn = Drawing(figure, figure.add_subplot())
        yield drawn
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
        drawn.svg = _inlined(text.getvalue(), name, label)


def _inlined(document: str, name: str, label: str) -> str:
    """The svg element of a document, as a part of a page: named, themed, with ids of its own."""
    svg = document[document.index("<svg") :].strip()
    opening, rest = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', opening)
    rest = _OWN_STYLE.sub("", rest)  # in a page it would be everybody's
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = rest.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    rest = _FONT.sub("font-family: system-ui, sans-serif", rest)
    rest = _COLOUR.sub(lambda found: f": var({_VARIABLES[found[1]]})", rest)
    view = box.group(1) if box else "0 0 720 320"
    return f'<svg id="{name}" class="chart" role="img" aria-label="{escape(label)}" viewBox="{view}">{rest}'
