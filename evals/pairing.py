"""Verdicts as frames: counts by task, and differences paired over prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from evals.base import TASKS
from evals.stats import (
    Difference,
    PairedCounts,
    PromptCounts,
    count_by_prompt,
    paired_difference,
)

_IMAGE = ["prompt_id", "sample_id", "tag"]

Counts = Mapping[str, PromptCounts]
"""Of one result, by task."""


def overall_difference(a: pd.DataFrame, b: pd.DataFrame) -> Difference:
    """Overall score of `a` minus that of `b`.

    Args:
        a, b: verdicts as `evals.collection.read_verdicts` gives them, over the same images.

    Raises:
        ValueError: if the two do not hold the same prompts and samples.
    """
    if not a[_IMAGE].equals(b[_IMAGE]):
        raise ValueError("differences are paired over prompts: both results need the same images")
    return difference_of_counts(counts_by_task(a), counts_by_task(b))


def difference_of_counts(a: Counts, b: Counts, test: bool = True) -> Difference:
    """`a` minus `b`, over the same prompts; `test` is of `evals.stats.paired_difference`."""
    return paired_difference({task: PairedCounts(a[task], b[task]) for task in a}, test=test)


def together(trainings: Sequence[Counts]) -> Counts:
    """Several trainings as one model that drew each prompt more often."""
    return {
        task: PromptCounts(
            np.sum([counts[task].correct for counts in trainings], axis=0),
            np.sum([counts[task].images for counts in trainings], axis=0),
        )
        for task in trainings[0]
    }


def counts_by_task(verdicts: pd.DataFrame) -> dict[str, PromptCounts]:
    """Correct images by prompt, per task, tasks in the order of `TASKS`."""
    found = {task: verdicts[verdicts["tag"] == task] for task in TASKS}
    return {
        task: count_by_prompt(part["prompt_id"], part["correct"])
        for task, part in found.items()
        if len(part)
    }
