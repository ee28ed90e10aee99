"""The figures of the paper, drawn from results: curves with bands, and grids of images.

Nothing here depends on the clock, the display or the user's matplotlib settings: the same results
give the same bytes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evals.base import Interval
from evals.collection import ResultFolder
from selfe.files import write_atomically
from selfe.generator import GeneratedImage

# Okabe and Ito's palette, told apart with any colour vision; markers and dashes say it again.
STYLES: dict[tuple[str, str], tuple[str, str, str]] = {
    ("selfe", ""): ("#D55E00", "o", "-"),
    ("fm", ""): ("#0072B2", "s", "--"),
    ("imm", ""): ("#009E73", "^", "-."),
    ("selfe", "no-target-norm"): ("#CC79A7", "D", ":"),
    ("selfe", "aux"): ("#E69F00", "v", ":"),
}
_OTHER_STYLES = (
    ("#56B4E9", "P", "-"),
    ("#000000", "X", "--"),
    ("#999999", "*", "-."),
    ("#F0E442", "h", "-"),
)
_RC: Any = {
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
_FAILED = (255, 0, 255)
_POLICY_NAMES = {0.0: "s = next", 0.5: "s = midpoint", 1.0: "s = current"}


@contextmanager
def _drawing() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.svg and STEM.png without dates or versions.

    Returns:
        Both paths.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        buffer = io.BytesIO()
        with mpl.rc_context(_RC):
            figure.savefig(buffer, format=suffix, metadata=metadata)
        paths.append(stem.with_name(f"{stem.name}.{suffix}"))
        write_atomically(paths[-1], buffer.getvalue())
    return paths


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
    names = {"no-target-norm": "w/o target norm.", "aux": "w/ aux. term"}
    return names.get(model.variant, f"{model.label} {model.variant}".strip())


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


def _draw_series(axes: Axes, lines: Sequence[Series], direct: bool = True) -> None:
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
    trained = [f for f in folders if f.result.model.iterations and not f.result.model.variant]
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
    with _drawing():
        figure = _canvas(9.6, 6.4)
        grid = figure.add_gridspec(
            2, 2, left=0.075, right=0.86, top=0.88, bottom=0.09, wspace=0.5, hspace=0.42
        )
        everything = [line for lines in panels.values() for line in lines]
        for place, (n, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(grid[place // 2, place % 2])
            axes.set_title(_count(n), fontsize=10, loc="left", fontweight="bold")
            axes.set_xlabel("training iterations")
            axes.set_ylabel("overall score")
            _share_axis(axes, everything)
            _draw_series(axes, lines)
            if not lines:
                axes.text(0.5, 0.5, "not run", ha="center", transform=axes.transAxes)
        _head(figure, heading, title)
        return figure


def scores_against_steps(folders: Sequence[ResultFolder], title: str) -> Figure | None:
    """Overall score against the number of sampling steps, a line per model."""
    lines = make_series(folders, lambda f: f.result.sampling.steps)
    return over_steps(lines, "Score against sampling steps", title) if lines else None


def secondary_time_scores(folders: Sequence[ResultFolder], title: str) -> Figure | None:
    """Fig. S.3 in figures: score against steps for each policy of the secondary time s_k."""
    found = [f for f in folders if policy_of(f) is not None]
    found.sort(key=lambda f: policy_of(f) or 0.0)
    lines = make_series(found, lambda f: f.result.sampling.steps, policy_label)
    heading = "Where the step looks: policies of s (Fig. S.3)"
    return over_steps(lines, heading, title) if len(lines) > 1 else None


def over_steps(lines: Sequence[Series], heading: str, title: str) -> Figure:
    """Lines against the number of sampling steps."""
    with _drawing():
        figure = _canvas(7.6, 4.6)
        axes = figure.add_axes((0.09, 0.13, 0.69, 0.68))
        _share_axis(axes, lines)
        _steps_axis(axes, lines)
        _draw_series(axes, lines)
        _head(figure, heading, title)
        return figure


def over_steps_by_task(panels: Mapping[str, Sequence[Series]], heading: str, title: str) -> Figure:
    """Lines against the number of sampling steps, a panel per task, six at most; every panel has
    its own axis of scores."""
    with _drawing():
        figure = _canvas(9.6, 6.4)
        grid = figure.add_gridspec(
            2, 3, left=0.065, right=0.985, top=0.86, bottom=0.15, wspace=0.3, hspace=0.45
        )
        for place, (task, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(grid[place // 3, place % 3])
            axes.set_title(task, fontsize=10, loc="left", fontweight="bold")
            _share_axis(axes, lines)
            _steps_axis(axes, lines)
            axes.set_ylabel("correct images")
            _draw_series(axes, lines, direct=False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
        _head(figure, heading, title)
        return figure


def one_step_scores(folders: Sequence[ResultFolder], title: str) -> Figure | None:
    """Fig. S.4 in figures: one step without guidance, score against the place f of s in the step
    (0: next time, 1: current time)."""
    found = one_step_unguided(folders)
    lines = make_series(found, policy_of, lambda f: f.result.model.label)
    if not any(len(line.points) > 1 for line in lines):
        return None
    with _drawing():
        figure = _canvas(6.6, 4.2)
        axes = figure.add_axes((0.11, 0.14, 0.67, 0.66))
        _share_axis(axes, lines)
        axes.set_xlabel("f: place of s between the next time (0) and the current time (1)")
        axes.set_ylabel("overall score")
        _draw_series(axes, lines)
        _head(figure, "One step without guidance (Fig. S.4)", title)
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


@dataclass(frozen=True)
class GridBlock:
    """Images of one prompt: rows are models (or policies), columns numbers of steps.

    Attributes:
        prompt: its heading.
        images: images[row][column]; None for one that was not finite or is not there.
    """

    prompt: str
    images: Sequence[Sequence[GeneratedImage]]


def grid(
    rows: Sequence[str], columns: Sequence[str], blocks: Sequence[GridBlock], title: str = ""
) -> Figure:
    """Grids of drawn images (Figs 1, 3, 4, S.1, S.2): a block per prompt, two blocks a line.

    Raises:
        ValueError: if a block does not have an image for every row and column.
    """
    if not rows or not columns or not blocks:
        raise ValueError("a grid needs at least one row, one column and one prompt")
    for block in blocks:
        if len(block.images) != len(rows) or any(len(r) != len(columns) for r in block.images):
            raise ValueError(
                f"the grid of {block.prompt!r} needs {len(rows)} x {len(columns)} images"
            )
    sizes = [i.shape[:2] for b in blocks for row in b.images for i in row if i is not None]
    height, width = (max(s[0] for s in sizes), max(s[1] for s in sizes)) if sizes else (32, 32)
    across = 2 if len(blocks) > 1 and len(columns) <= 5 else 1
    down = -(-len(blocks) // across)
    cell = 0.95  # inches
    label, head, gap, top = _text_width(rows), 0.55, 0.2, 0.25 if title else 0.0
    block_w = cell * len(columns) * 1.03
    block_h = cell * height / width * len(rows) * 1.03
    total_w = label + across * block_w + across * gap
    total_h = top + down * (head + block_h + gap)
    with _drawing():
        figure = _canvas(total_w, total_h)
        for number, block in enumerate(blocks):
            line, place = divmod(number, across)
            left = label + place * (block_w + gap)
            y_top = total_h - top - line * (head + block_h + gap) - head
            box = (
                left / total_w,
                (y_top - block_h) / total_h,
                block_w / total_w,
                block_h / total_h,
            )
            axes = figure.add_axes(box)
            _draw_block(axes, rows if place == 0 else (), columns, block, (height, width))
        if title:
            figure.text(0.1 / total_w, 1 - 0.1 / total_h, title, va="top", fontsize=10)
        return figure


def _text_width(labels: Sequence[str]) -> float:
    return 0.25 + 0.075 * max(len(label) for label in labels)


def _draw_block(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    block: GridBlock,
    size: tuple[int, int],
) -> None:
    zoom = max(1, 128 // max(size))
    height, width = size[0] * zoom, size[1] * zoom
    gap = max(1, round(0.03 * width))
    counts = (len(block.images), len(columns))
    shape = (counts[0] * (height + gap) - gap, counts[1] * (width + gap) - gap, 3)
    canvas = np.full(shape, 255, np.uint8)
    for r, row in enumerate(block.images):
        for c, image in enumerate(row):
            y, x = r * (height + gap), c * (width + gap)
            if image is None:
                canvas[y : y + height, x : x + width] = _FAILED
                continue
            grown = image.repeat(zoom, 0).repeat(zoom, 1)
            dy, dx = (height - grown.shape[0]) // 2, (width - grown.shape[1]) // 2
            canvas[y + dy : y + dy + grown.shape[0], x + dx : x + dx + grown.shape[1]] = grown
    axes.imshow(canvas, interpolation="antialiased", aspect="auto")
    axes.grid(False)
    axes.set_axis_off()
    for c, name in enumerate(columns):
        axes.text(c * (width + gap) + width / 2, -0.02 * height, name, ha="center", va="bottom")
    for r, name in enumerate(rows):
        middle = r * (height + gap) + height / 2
        axes.text(-0.05 * width, middle, name, ha="right", va="center", fontweight="bold")
    axes.text(
        0,
        -0.22 * height,
        _shorten(block.prompt, max(24, int(15.5 * len(columns)))),
        ha="left",
        va="bottom",
        fontsize=8.5,
        fontstyle="italic",
    )


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


def _canvas(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _head(figure: Figure, text: str, subtitle: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(0.02, 1 - 0.08 / height, text, va="top", fontsize=11, fontweight="bold")
    # a letter of this size is about 0.062 inches wide
    lines = textwrap.fill(subtitle, int(0.96 * width / 0.062))
    figure.text(0.02, 1 - 0.30 / height, lines, va="top", fontsize=7.5, color="#444444")


def _count(steps: int) -> str:
    return f"{steps} step" + ("" if steps == 1 else "s")


def _steps_axis(axes: Axes, lines: Sequence[Series]) -> None:
    ticks = sorted({point[0] for line in lines for point in line.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("sampling steps")
    axes.set_ylabel("overall score")


def row_labels(labels: Sequence[str], names: Sequence[str]) -> list[str]:
    """Labels of a grid's rows; the names of those that would be labelled alike."""
    return [
        name if labels.count(label) > 1 else label
        for label, name in zip(labels, names, strict=True)
    ]


def column_labels(steps: Iterable[int]) -> list[str]:
    return [_count(n) for n in steps]
