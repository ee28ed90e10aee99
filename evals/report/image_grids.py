"""Grids of images that lie in result folders: same prompts, same seeds, models side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from evals.images import caption, failed_marker_path, read_image, sample_path
from evals.report.canvas import FAILED_COLOR, drawing, new_figure, steps_label
from evals.report.groups import require_one_protocol
from evals.report.result_folders import ResultFolder
from selfe.generator import GeneratedImage

MOST_ROWS = 12
_RIGHT, _WRONG = (17, 115, 75), (179, 55, 43)
_TASKS_SHOWN = ("color_attr", "position", "counting", "two_object")
GridRows = Sequence[tuple[str, Mapping[int, ResultFolder]]]
"""(label, number of steps -> result) per row."""


def has_image(folder: ResultFolder, prompt_id: int, sample_id: int) -> bool:
    """Whether an image, or the marker of a failed one, lies in the folder."""
    return (
        sample_path(folder.path, prompt_id, sample_id).is_file()
        or failed_marker_path(folder.path, prompt_id, sample_id).is_file()
    )


def _image(folder: ResultFolder, prompt_id: int, sample_id: int) -> GeneratedImage:
    path = sample_path(folder.path, prompt_id, sample_id)
    return read_image(path) if path.is_file() else None


def _verdict(folder: ResultFolder, prompt_id: int, sample_id: int) -> bool | None:
    frame = folder.verdicts
    found = frame.loc[
        (frame["prompt_id"] == prompt_id) & (frame["sample_id"] == sample_id), "correct"
    ]
    return bool(found.iloc[0]) if len(found) else None


def prompts_shown(folder: ResultFolder, per_task: int = 1) -> list[int]:
    """The first prompts of four tasks: a choice that no score takes part in."""
    chosen = []
    for task in _TASKS_SHOWN:
        ids = folder.verdicts.loc[folder.verdicts["tag"] == task, "prompt_id"].unique()
        chosen += [int(i) for i in ids[:per_task]]
    return chosen


def result_grid(
    rows: GridRows,
    steps: Sequence[int],
    title: str,
    prompt_ids: Sequence[int] | None = None,
    sample_id: int = 0,
    columns: Sequence[str] | None = None,
) -> Figure | None:
    """Fig. 4: rows methods, columns steps, a block per prompt.

    Returns:
        None where the images of a row and column are not there.

    Raises:
        ValueError: if the results were not measured under one protocol.
    """
    if not rows or any(n not in results for _, results in rows for n in steps):
        return None
    folders = [results[n] for _, results in rows for n in steps]
    require_one_protocol(folders)
    ids = list(prompt_ids) if prompt_ids is not None else prompts_shown(folders[0])
    if not ids or not all(has_image(f, i, sample_id) for f in folders for i in ids):
        return None
    blocks = [
        GridBlock(
            caption(folders[0].path, i),
            [[_image(results[n], i, sample_id) for n in steps] for _, results in rows],
            [[_verdict(results[n], i, sample_id) for n in steps] for _, results in rows],
        )
        for i in ids
    ]
    return grid([label for label, _ in rows], columns or column_labels(steps), blocks, title)


@dataclass(frozen=True)
class GridBlock:
    """Images of one prompt: rows are models (or policies), columns numbers of steps.

    Attributes:
        prompt: its heading.
        images: images[row][column]; None for one that was not finite or is not there.
        verdicts: whether each was judged right, in the same order; empty where none was judged.
    """

    prompt: str
    images: Sequence[Sequence[GeneratedImage]]
    verdicts: Sequence[Sequence[bool | None]] = ()


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
    with drawing():
        figure = new_figure(total_w, total_h)
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
                canvas[y : y + height, x : x + width] = FAILED_COLOR
                continue
            grown = image.repeat(zoom, 0).repeat(zoom, 1)
            dy, dx = (height - grown.shape[0]) // 2, (width - grown.shape[1]) // 2
            canvas[y + dy : y + dy + grown.shape[0], x + dx : x + dx + grown.shape[1]] = grown
    axes.imshow(canvas, interpolation="antialiased", aspect="auto")
    for r, verdicts in enumerate(block.verdicts):
        for c, right in enumerate(verdicts):
            if right is not None:
                _mark(axes, (c * (width + gap), r * (height + gap)), (width, height), right)
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


def _mark(axes: Axes, corner: tuple[int, int], size: tuple[int, int], right: bool) -> None:
    """A tick or a cross in the lower right corner of an image: shape and colour say the same."""
    color = tuple(v / 255 for v in (_RIGHT if right else _WRONG))
    radius = 0.085 * min(size)
    x, y = corner[0] + size[0] - 1.25 * radius, corner[1] + size[1] - 1.25 * radius
    axes.add_patch(Circle((x, y), radius, facecolor=color, edgecolor="white", linewidth=0.6))
    if right:
        lines = [([-0.5, -0.1, 0.5], [0.05, 0.45, -0.4])]
    else:
        lines = [([-0.4, 0.4], [-0.4, 0.4]), ([-0.4, 0.4], [0.4, -0.4])]
    for xs, ys in lines:
        places = [x + radius * v for v in xs], [y + radius * v for v in ys]
        axes.plot(*places, color="white", linewidth=1.0, solid_capstyle="round")


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


def row_labels(labels: Sequence[str], names: Sequence[str]) -> list[str]:
    """Labels of a grid's rows; the names of those that would be labelled alike."""
    return [
        name if labels.count(label) > 1 else label
        for label, name in zip(labels, names, strict=True)
    ]


def column_labels(steps: Iterable[int]) -> list[str]:
    return [steps_label(n) for n in steps]
