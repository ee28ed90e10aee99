"""Accuracy, preference, diversity and distances side by side against steps or evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evals.base import Interval
from evals.report.across_suites import Column, Row, disagreeing, guidance_of, shown
from evals.report.canvas import add_heading, drawing, new_figure
from evals.report.curves import LineKey, Series, draw_series, in_order

_PER_ROW = 3
Axis = Literal["steps", "nfe"]
_AXES: dict[Axis, tuple[str, str]] = {
    "steps": ("Measures against sampling steps", "sampling steps"),
    "nfe": ("Measures against evaluations of the network", "evaluations of the network per image"),
}


def across_figures(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, Figure]:
    """Name -> figure: against steps, and against evaluations where those differ from the steps.

    None for images of unknown steps, or where no model was measured at two numbers of them.
    """
    axes: list[Axis] = ["steps"]
    if any(row.sampling.nfe != row.sampling.steps for row in rows):
        axes.append("nfe")
    drawn = {f"across_by_{axis}": _figure(rows, columns, axis) for axis in axes}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _figure(rows: Sequence[Row], columns: Sequence[Column], axis: Axis) -> Figure | None:
    known = [row for row in rows if row.sampling.steps]
    panels = {column: _lines(known, column, axis) for column in columns}
    panels = {column: lines for column, lines in panels.items() if lines}
    if not any(len(line.points) > 1 for lines in panels.values() for line in lines):
        return None
    heading, label = _AXES[axis]
    ringed = {
        (id(row), change.column)
        for a, b, changes in disagreeing(known, columns)
        for change in changes
        if change.better is not None
        for row in (a, b)
    }
    down, across = math.ceil(len(panels) / _PER_ROW), min(len(panels), _PER_ROW)
    width, height = max(6.4, 3.6 * across), 3.0 * down + 1.4
    with drawing():
        figure = new_figure(width, height)
        grid = figure.add_gridspec(
            down, across, left=0.75 / width, right=1 - 0.2 / width, top=1 - 1.0 / height,
            bottom=1.05 / height, wspace=0.32, hspace=0.55,
        )  # fmt: skip
        for place, (column, lines) in enumerate(panels.items()):
            panel = figure.add_subplot(grid[place // across, place % across])
            panel.set_title(column.heading, fontsize=9, loc="left", fontweight="bold")
            panel.set_ylabel(column.aspect)
            panel.set_xlabel(label)
            draw_series(panel, lines, direct=False)
            _ring(panel, [row for row in known if (id(row), column) in ringed], column, axis)
            _count_axis(panel, lines)
        handles: dict[str, Artist] = {}
        for panel in figure.axes:
            found, names = panel.get_legend_handles_labels()
            handles |= dict(zip(names, found, strict=True))
        figure.legend(
            list(handles.values()), list(handles), loc="lower center", ncols=3, frameon=False
        )
        add_heading(
            figure,
            heading,
            "95% intervals; arrows say which way is better. Rings: differs by more than chance "
            "from a point that another measure puts the other way; across_suites.md says which.",
        )
        return figure


def _lines(rows: Sequence[Row], column: Column, axis: Axis) -> list[Series]:
    guidances: dict[str, set[str]] = {}
    for row in rows:
        guidances.setdefault(row.name, set()).add(guidance_of(row))
    lines: dict[LineKey, dict[float, Interval]] = {}
    for row in rows:
        if column.key not in row.found:
            continue
        several = len(guidances[row.name]) > 1
        label = f"{row.name}, {guidance_of(row)}" if several else row.name
        style = (row.model.method, row.model.variant)
        lines.setdefault((label, style), {})[_x(row, axis)] = shown(row.found[column.key])
    return in_order(lines)


def _x(row: Row, axis: Axis) -> float:
    return float(row.sampling.steps if axis == "steps" else row.sampling.nfe)


def _ring(panel: Axes, rows: Sequence[Row], column: Column, axis: Axis) -> None:
    """A ring around every point of these rows."""
    points = [
        (_x(row, axis), shown(row.found[column.key]).mean)
        for row in rows
        if column.key in row.found
    ]
    if points:
        x, y = zip(*points, strict=True)
        panel.scatter(x, y, s=90, facecolors="none", edgecolors="#444444", linewidths=0.9, zorder=5)


def _count_axis(panel: Axes, lines: Sequence[Series]) -> None:
    counts = sorted({point[0] for line in lines for point in line.points})
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [f"{count:g}" for count in counts])
    panel.minorticks_off()
