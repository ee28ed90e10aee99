"""Grids of images that lie in result folders: same prompts, same seeds, models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from evals.collection import ResultFolder, require_one_protocol
from evals.figures import GridBlock, column_labels, grid
from evals.images import caption, failed_marker_path, read_image, sample_path
from selfe.generator import GeneratedImage

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
        )
        for i in ids
    ]
    return grid([label for label, _ in rows], columns or column_labels(steps), blocks, title)
