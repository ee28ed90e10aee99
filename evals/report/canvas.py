"""What every figure shares: style, fonts, saving, and a head with its title."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from selfe.files import write_atomically
from selfe.foreign_text import PLOT_SETTINGS

_RC: Any = {
    **PLOT_SETTINGS,
    "svg.hashsalt": "selfe-bench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "figure.dpi": 100.0,
    "savefig.dpi": 150.0,
}


FAILED_COLOR = (255, 0, 255)


@contextmanager
def drawing() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


_METADATA = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
"""Neither dates nor versions, so that the same figure gives the same bytes."""


def save(figure: Figure, stem: Path) -> Path:
    """Write STEM.png of a figure that shows images, STEM.svg of one that shows lines.

    Returns:
        The file.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    suffix = "png" if any(axes.images for axes in figure.axes) else "svg"
    buffer = io.BytesIO()
    with mpl.rc_context(_RC):
        figure.savefig(buffer, format=suffix, metadata=_METADATA[suffix])
    path = stem.with_name(f"{stem.name}.{suffix}")
    write_atomically(path, buffer.getvalue())
    return path


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_heading(figure: Figure, text: str, subtitle: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(0.02, 1 - 0.08 / height, text, va="top", fontsize=11, fontweight="bold")
    # a letter of this size is about 0.062 inches wide
    lines = textwrap.fill(subtitle, int(0.96 * width / 0.062))
    figure.text(0.02, 1 - 0.30 / height, lines, va="top", fontsize=7.5, color="#444444")


def steps_label(steps: int) -> str:
    return f"{steps} step" + ("" if steps == 1 else "s")
