"""What holds over training seeds, in sentences and as Markdown."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pandas as pd

from evals.multiplicity import LEVEL, holm
from evals.report.markup import is_missing, number, plain, signed, to_markdown, with_interval
from evals.report.model_columns import FIXED_HEADER, fixed_cells
from evals.report.page import TASK_NAMES
from evals.report.table2 import REFERENCE
from evals.report.training_seeds import _DELTA_ENDS, DELTA_P, leaves_out_0

WORDS = (
    "Overall score of one configuration trained with several seeds, its mean [95% interval] and "
    "the standard deviation between trainings, and the difference to Self-E, paired over prompts "
    "and over training seeds: to the Self-E of the same variant where there is one, which is "
    "marked, else to the recipe's. The intervals hold for other training seeds and other prompts "
    "alike: Student's interval over trainings and the one over prompts, added in quadrature. A "
    'difference is resolved where its interval leaves out 0; "not after Holm" stands beside one '
    "that is not when all differences of this table are told together (Holm's adjustment). The "
    "last column counts the seeds at which the difference is resolved over prompts alone, as "
    "Table 2 has it for one training."
)


TASK_WORDS = (
    "By task: the mean, and the difference to Self-E [95% interval], bold where it is resolved. "
    "Each interval is made as above and by itself: of a hundred tasks without a difference some "
    "five would be resolved. Those marked * are resolved when all differences of this table are "
    "told together as well (Holm's adjustment)."
)


def trainings_statements(frame: pd.DataFrame) -> list[str]:
    """The methods at every number of steps in words: Self-E, then the others, best first, with
    their difference to it or to the Self-E of their variant."""
    texts = []
    for (recipe, iterations, steps), rows in frame.groupby(["recipe", "iterations", "steps"]):
        reference = rows[rows["resolved"] == REFERENCE]
        others = rows[rows["delta_selfe"].notna()].sort_values("overall", ascending=False)
        if reference.empty or others.empty:
            continue
        first = reference.iloc[0]
        words = []
        for _, row in others.iterrows():
            seeds = ""
            if row["training_seed"] != first["training_seed"]:
                seeds = f", mean of seeds {row['training_seed']}"
                if row["delta_seeds"] != row["training_seed"]:
                    seeds += f", difference of {row['delta_seeds']}"
            difference = f"{_difference(row)}, {row['resolved']}{seeds}"
            words.append(f"{_name(row)} {number(row['overall'])} ({difference})")
        texts.append(
            f"At {steps} step{'s' * (steps != 1)}, mean over training seeds "
            f"{first['training_seed']} ({recipe}, {iterations} iterations): {_name(first)} "
            f"{number(first['overall'])}, {', '.join(words)}."
        )
    return texts


def _name(row: pd.Series) -> str:
    name = " ".join(filter(None, (row["method"], row["variant"])))
    return f"{name}, settings changed," if row["changed"] else name


def _difference(row: pd.Series) -> str:
    if is_missing(row["delta_selfe"]):
        return ""
    ends = f"[{signed(row['delta_low'])}, {signed(row['delta_high'])}]"
    same = row["delta_same_variant"] and " same variant"
    return f"{signed(row['delta_selfe'])} {ends}{same or ''}"


def _fewer_seeds(row: pd.Series) -> str:
    """Seeds of a difference, where Self-E does not have all of the row's."""
    if is_missing(row["delta_seeds"]) or row["delta_seeds"] == row["training_seed"]:
        return ""
    return f" (seeds {row['delta_seeds']})"


def trainings_markdown(frame: pd.DataFrame) -> str:
    """Two tables, a row per configuration and number of steps: overall, and by task."""
    overall, by_task = [], []
    tasks = [task for task in TASK_NAMES if frame[task].notna().any()]
    together = _told_together(frame, tasks)
    for place, row in frame.iterrows():
        recipe = f"{row['recipe']}, changed" if row["changed"] else row["recipe"]
        overall.append(
            [
                recipe,
                *fixed_cells(row),
                with_interval(row["overall"], row["overall_low"], row["overall_high"]),
                number(row["sd"]),
                _difference(row) + _fewer_seeds(row),
                *[plain(row[name]) for name in ("resolved", "resolved_over_prompts")],
            ]
        )
        cells = [_task_cell(row, task) + "*" * ((place, task) in together) for task in tasks]
        by_task.append([recipe, *fixed_cells(row), *cells])
    fixed = ["Recipe", *FIXED_HEADER]
    first = to_markdown(
        [*fixed, "Mean", "SD", "Minus Self-E", "", "Seeds that resolve it"], overall
    )
    second = to_markdown([*fixed, *[TASK_NAMES[task] for task in tasks]], by_task)
    return f"{first}\n{TASK_WORDS}\n\n{second}"


def _told_together(frame: pd.DataFrame, tasks: Sequence[str]) -> set[tuple[Hashable, str]]:
    """Row and task of the differences that are resolved among all of a table's."""
    cells: list[tuple[Hashable, str]] = []
    p_values = []
    for place, row in frame.iterrows():
        for task in tasks:
            if not is_missing(row[task + DELTA_P]):
                cells.append((place, task))
                p_values.append(row[task + DELTA_P])
    pairs = zip(cells, holm(p_values), strict=True)
    return {cell for cell, p in pairs if p < LEVEL}


def _task_cell(row: pd.Series, task: str) -> str:
    mean = number(row[task])
    delta, low, high = (row[task + end] for end in _DELTA_ENDS)
    if is_missing(delta):
        return mean
    difference = f"**{signed(delta)}**" if leaves_out_0(low, high) else signed(delta)
    return f"{mean}; {difference} [{signed(low)}, {signed(high)}]"
