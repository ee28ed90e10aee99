"""Seen against unseen, and diversity, laid out for readers: the frames of `evals.cuts`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from evals.base import TASKS
from evals.layout import TASK_NAMES
from evals.markup import is_missing, number, plain, to_markdown, with_interval

_FIXED = {
    "method": "Method",
    "variant": "Variant",
    "iterations": "Iterations",
    "training_seed": "Training seed",
    "steps": "Steps",
    "nfe": "NFE",
    "guidance": "Guidance",
    "eta": "eta",
    "sampler": "Sampler",
}
FIXED_HEADER = list(_FIXED.values())

SEEN_UNSEEN = (
    "Share of correct images [95% interval] of the prompts with two coloured objects (attribute "
    "binding), where the combination of shapes and colours was seen in training, and where it was "
    "held out."
)
DIVERSITY = (
    "Total variation between the factors that captions leave open in generated images and in data, "
    "from 0 (same distribution) to 1; lower is more diverse. In brackets what equally many images "
    "of the data reach, the least that can be expected. A high score with a total variation far "
    "above that is bought with collapse. Every task and factor by itself stands in the CSV file."
)


def seen_unseen_markdown(frame: pd.DataFrame) -> str:
    """A row per result, a column per group of prompts."""
    groups = [n.removesuffix("_low") for n in frame.columns if n.endswith("_low")]
    rows = [
        [
            *fixed_cells(row),
            *[with_interval(row[g], row[f"{g}_low"], row[f"{g}_high"]) for g in groups],
        ]
        for _, row in frame.iterrows()
    ]
    return to_markdown([*FIXED_HEADER, *groups], rows)


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


def fixed_cells(row: pd.Series) -> list[str]:
    """The cells under `FIXED_HEADER`, of a row made by `evals.cuts.row_of`."""
    return [plain(row[name]) for name in _FIXED]


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
