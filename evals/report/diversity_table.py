"""Diversity beside accuracy: the table, its frame and its Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from evals.base import TASKS
from evals.report.groups import require_one_protocol
from evals.report.markup import is_missing, number, to_markdown, with_interval
from evals.report.model_columns import FIXED_HEADER, fixed_cells, row_frame, row_of
from evals.report.page import TASK_NAMES
from evals.report.result_folders import ResultFolder

DIVERSITY = (
    "Total variation between the factors that captions leave open in generated images and in data, "
    "from 0 (same distribution) to 1; lower is more diverse. In brackets what equally many images "
    "of the data reach, the least that can be expected. A high score with a total variation far "
    "above that is bought with collapse. Every task and factor by itself stands in the CSV file."
)


def diversity_markdown(frame: pd.DataFrame) -> str:
    """Two tables, a row per result: by factor with the score beside, and by caption type."""
    columns = [n for n in frame.columns if n.startswith("tasks.") and n.endswith(".tv")]
    leaves = [(task, kind) for _, task, kind, _ in (name.split(".") for name in columns)]
    kinds = sorted({kind for _, kind in leaves})
    tasks = [task for task in TASKS if task in {task for task, _ in leaves}]
    by_kind, by_task = [], []
    for _, row in frame.iterrows():
        score = with_interval(row["overall"], row["overall_low"], row["overall_high"])
        everything = _against_data(row, ["tv"])
        found = [_against_data(row, _names(leaves, kind=kind)) for kind in kinds]
        by_kind.append([*fixed_cells(row), score, everything, *found])
        found = [_against_data(row, _names(leaves, task=task)) for task in tasks]
        by_task.append([*fixed_cells(row), *found])
    words = [kind.capitalize() for kind in kinds]
    first = to_markdown([*FIXED_HEADER, "Score", "All factors", *words], by_kind)
    second = to_markdown([*FIXED_HEADER, *[TASK_NAMES[task] for task in tasks]], by_task)
    return f"{first}\nBy caption type, all factors that it leaves open:\n\n{second}"


def _names(leaves: Iterable[tuple[str, str]], task: str = "", kind: str = "") -> list[str]:
    """Columns of the total variations of one task or of one kind of factor."""
    return [f"tasks.{t}.{k}.tv" for t, k in leaves if t == task or k == kind]


def _against_data(row: pd.Series, names: Sequence[str]) -> str:
    """Mean of the total variations there are, and in brackets that of the data."""
    there = [name for name in names if not is_missing(row[name])]
    if not there:
        return ""
    means = [sum(row[n + end] for n in there) / len(there) for end in ("", "_data")]
    return f"{number(means[0])} ({number(means[1])})"


def diversity_frame(folders: Sequence[ResultFolder]) -> pd.DataFrame:
    """A row per result with its overall score and diversity figures; nested figures become
    "tasks.caption type.factor.figure".

    Raises:
        ValueError: if the results were not measured under one protocol.
    """
    require_one_protocol(folders)
    rows = []
    for folder in folders:
        figures = dict(_flatten(folder.result.diversity))
        if figures:
            rows.append(row_of(folder) | _overall(folder) | figures)
    return row_frame(rows)


def _overall(folder: ResultFolder) -> dict[str, Any]:
    """The accuracy that diversity stands beside; empty where an incomplete set has none."""
    overall = folder.result.scores.overall
    values = (overall.mean, overall.low, overall.high) if overall else (None, None, None)
    return dict(zip(("overall", "overall_low", "overall_high"), values, strict=True))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for name in sorted(values):
        value = values[name]
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
