"""The figures of the paper, drawn from results: curves with bands, and grids of images.

Nothing here depends on the clock, the display or the user's matplotlib settings: the same results
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evals.base import Interval
from evals.report.canvas import add_heading, drawing, new_figure, steps_label
from evals.report.exact_model import NAME, exact_scores
from evals.report.groups import PAPER_VARIANTS
from evals.report.result_folders import ResultFolder

# Okabe and Ito's palette, told apart with any colour vision; markers and dashes say it again.
STYLES: dict[tuple[str, str], tuple[str, str, str]] = {
    ("selfe", ""): ("#D55E00", "o", "-"),
    ("fm", ""): ("#0072B2", "s", "--"),
    ("imm", ""): ("#009E73", "^", "-."),
    ("selfe", "no-target-norm"): ("#CC79A7", "D", ":"),
    ("selfe", "aux"): ("#E69F00", "v", ":"),
    ("fm-exact", ""): ("#666666", "", ":"),
}
_OTHER_STYLES = (
    ("#56B4E9", "P", "-"),
    ("#000000", "X", "--"),
    ("#999999", "*", "-."),
    ("#F0E442", "h", "-"),
)


_POLICY_NAMES = {0.0: "s = next", 0.5: "s = midpoint", 1.0: "s = current"}


@dataclass(frozen=True)
class Series:
    """A line: label, style key, and (x, mean, low, high) sorted by x."""

    label: str
    style: tuple[str, str]
    points: tuple[tuple[float, float, float, float], ...]


LineKey = tuple[str, tuple[str, str]]
"""Label and style key of a line."""


def series_label(folder: ResultFolder) -> str:
    model = folder.result.model
    if folder.own_name:
        return f"{model.label} ({model.variant})"
    return PAPER_VARIANTS.get(model.variant, f"{model.label} {model.variant}".strip())


def make_series(
    folders: Iterable[ResultFolder], x_of: Any, label_of: Any = series_label
) -> list[Series]:
    """Lines through overall scores; results without one (incomplete sets) are left out."""
    lines: dict[LineKey, dict[float, Interval]] = {}
    for folder in folders:
        overall = folder.result.scores.overall
        if overall is None or folder.result.scores.partial:
            continue
        model = folder.result.model
        key = (label_of(folder), (model.method, model.variant))
        x = float(x_of(folder))
        lines.setdefault(key, {})[x] = overall
    return in_order(lines)


def in_order(lines: Mapping[LineKey, Mapping[float, Interval]]) -> list[Series]:
    """Lines of score by x as they are drawn: known styles first, one model's as they came."""
    order = list(STYLES)
    ranked = sorted(lines, key=lambda k: order.index(k[1]) if k[1] in order else len(order))
    return [
        Series(*key, tuple((x, i.mean, i.low, i.high) for x, i in sorted(lines[key].items())))
        for key in ranked
    ]


def _styles(lines: Sequence[Series]) -> list[tuple[str, str, str]]:
    """A style per line; several lines of one method take the further colours."""
    used: set[tuple[str, str]] = set()
    spare = 0
    styles = []
    for line in lines:
        if line.style in STYLES and line.style not in used:
            styles.append(STYLES[line.style])
            used.add(line.style)
        else:
            styles.append(_OTHER_STYLES[spare % len(_OTHER_STYLES)])
            spare += 1
    return styles


def draw_series(axes: Axes, lines: Sequence[Series], direct: bool = True) -> None:
    """Lines with markers and bands; `direct` writes their names beside their ends."""
    ends = []
    for line, (color, marker, dash) in zip(lines, _styles(lines), strict=True):
        x, mean, low, high = np.array(line.points).T
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        if len(x) == 1:
            axes.errorbar(x, mean, [mean - low, high - mean], color=color, capsize=2, linewidth=1)
        style: Any = {"color": color, "marker": marker, "linestyle": dash}
        # unclipped, so that the marker of a score of 0 is seen whole
        axes.plot(x, mean, label=line.label, clip_on=False, **style)
        ends.append((float(mean[-1]), float(x[-1]), line.label, color))
    if direct:
        _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside the last points, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    ordered = sorted(ends)
    heights = [end[0] for end in ordered]
    for _ in range(50):
        for i in range(len(heights) - 1):
            overlap = gap - (heights[i + 1] - heights[i])
            if overlap > 1e-9:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
    for height, (y, x, label, color) in zip(heights, ordered, strict=True):
        axes.annotate(
            label,
            (x, y),
            (1.02, height),
            textcoords=("axes fraction", "data"),
            color=color,
            va="center",
            fontsize=8,
            annotation_clip=False,
        )


def _share_axis(axes: Axes, lines: Sequence[Series]) -> None:
    tops = [point[3] for line in lines for point in line.points]
    axes.set_ylim(0, min(1.02, max([0.1, *tops]) * 1.08))


def training_progress(
    folders: Sequence[ResultFolder], title: str, steps: Sequence[int] = (2, 4, 8, 50)
) -> Figure | None:
    """Fig. 5: overall score against training iterations, a panel per number of steps, 95% bands.

    Returns:
        None where no model was scored at two iterations or more.
    """
    trained = [
        f
        for f in folders
        if f.result.model.iterations and (f.own_name or not f.result.model.variant)
    ]
    panels = {
        n: make_series(
            [f for f in trained if f.result.sampling.steps == n],
            lambda f: f.result.model.iterations,
        )
        for n in steps
    }
    return over_iterations(panels, "Training progress", title)


def over_iterations(
    panels: Mapping[int, Sequence[Series]], heading: str, title: str
) -> Figure | None:
    """Lines against training iterations, a panel per number of steps, four at most.

    Returns:
        None where no line has two points or more.
    """
    if not any(len(line.points) > 1 for lines in panels.values() for line in lines):
        return None
    with drawing():
        figure = new_figure(9.6, 6.4)
        grid = figure.add_gridspec(
            2, 2, left=0.075, right=0.86, top=0.88, bottom=0.09, wspace=0.5, hspace=0.42
        )
        everything = [line for lines in panels.values() for line in lines]
        for place, (n, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(grid[place // 2, place % 2])
            axes.set_title(steps_label(n), fontsize=10, loc="left", fontweight="bold")
            axes.set_xlabel("training iterations")
            axes.set_ylabel("overall score")
            _share_axis(axes, everything)
            draw_series(axes, lines)
            if not lines:
                axes.text(0.5, 0.5, "not run", ha="center", transform=axes.transAxes)
        add_heading(figure, heading, title)
        return figure


def scores_against_steps(folders: Sequence[ResultFolder], title: str) -> Figure | None:
    """Overall score against the number of sampling steps, a line per model."""
    lines = make_series(folders, lambda f: f.result.sampling.steps)
    if not lines:
        return None
    return over_steps([*lines, *exact_series(folders)], "Score against sampling steps", title)


def exact_series(folders: Sequence[ResultFolder]) -> list[Series]:
    """The exact Flow Matching model at the numbers of steps that were measured, if it is known."""
    steps = {folder.result.sampling.steps for folder in folders}
    found: dict[float, Interval] = {
        n: of.overall for n, of in exact_scores(folders).items() if n in steps and of.overall
    }
    return in_order({(NAME, ("fm-exact", "")): found}) if found else []


def secondary_time_scores(folders: Sequence[ResultFolder], title: str) -> Figure | None:
    """Fig. S.3 in figures: score against steps for each policy of the secondary time s_k."""
    found = [f for f in folders if policy_of(f) is not None]
    found.sort(key=lambda f: policy_of(f) or 0.0)
    lines = make_series(found, lambda f: f.result.sampling.steps, policy_label)
    heading = "Where the step looks: policies of s (Fig. S.3)"
    return over_steps(lines, heading, title) if len(lines) > 1 else None


def over_steps(lines: Sequence[Series], heading: str, title: str) -> Figure:
    """Lines against the number of sampling steps."""
    with drawing():
        figure = new_figure(7.6, 4.6)
        axes = figure.add_axes((0.09, 0.13, 0.69, 0.68))
        _share_axis(axes, lines)
        _steps_axis(axes, lines)
        draw_series(axes, lines)
        add_heading(figure, heading, title)
        return figure


def over_steps_by_task(panels: Mapping[str, Sequence[Series]], heading: str, title: str) -> Figure:
    """Lines against the number of sampling steps, a panel per task, six at most; every panel has
    its own axis of scores."""
    with drawing():
        figure = new_figure(9.6, 6.4)
        grid = figure.add_gridspec(
            2, 3, left=0.065, right=0.985, top=0.86, bottom=0.15, wspace=0.3, hspace=0.45
        )
        for place, (task, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(grid[place // 3, place % 3])
            axes.set_title(task, fontsize=10, loc="left", fontweight="bold")
            _share_axis(axes, lines)
            _steps_axis(axes, lines)
            axes.set_ylabel("correct images")
            draw_series(axes, lines, direct=False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
        add_heading(figure, heading, title)
        return figure


def one_step_scores(folders: Sequence[ResultFolder], title: str) -> Figure | None:
    """Fig. S.4 in figures: one step without guidance, score against the place f of s in the step
    (0: next time, 1: current time)."""
    found = one_step_unguided(folders)
    lines = make_series(found, policy_of, lambda f: f.result.model.label)
    if not any(len(line.points) > 1 for line in lines):
        return None
    with drawing():
        figure = new_figure(6.6, 4.2)
        axes = figure.add_axes((0.11, 0.14, 0.67, 0.66))
        _share_axis(axes, lines)
        axes.set_xlabel("f: place of s between the next time (0) and the current time (1)")
        axes.set_ylabel("overall score")
        draw_series(axes, lines)
        add_heading(figure, "One step without guidance (Fig. S.4)", title)
        return figure


def policy_of(folder: ResultFolder) -> float | None:
    """Place of s in a sampling step, 0 (next time) to 1 (current time); None for other samplers."""
    value = folder.result.sampling.settings.get("s_fraction")
    return None if value is None else float(value)


def policy_label(folder: ResultFolder) -> str:
    fraction = policy_of(folder)
    assert fraction is not None
    return _POLICY_NAMES.get(fraction, f"s at {fraction:g}")


def one_step_unguided(folders: Iterable[ResultFolder]) -> list[ResultFolder]:
    return [
        f
        for f in folders
        if f.result.sampling.steps == 1
        and f.result.sampling.settings.get("guidance") == "none"
        and policy_of(f) is not None
    ]


def _steps_axis(axes: Axes, lines: Sequence[Series]) -> None:
    ticks = sorted({point[0] for line in lines for point in line.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("sampling steps")
    axes.set_ylabel("overall score")
