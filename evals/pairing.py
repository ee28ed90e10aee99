"""Verdicts as frames: counts by task, and differences paired over prompts."""

from __future__ import annotations

from collections.abc import Sequence

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


def overall_difference(a: pd.DataFrame, b: pd.DataFrame) -> Difference:
    """Overall score of `a` minus that of `b`.

    Args:
        a, b: verdicts as `evals.collection.read_verdicts` gives them, over the same images.

    Raises:
        ValueError: if the two do not hold the same prompts and samples.
    """
    if not a[_IMAGE].equals(b[_IMAGE]):
        raise ValueError("differences are paired over prompts: both results need the same images")
    counts_a, counts_b = counts_by_task(a), counts_by_task(b)
    return paired_difference({t: PairedCounts(counts_a[t], counts_b[t]) for t in counts_a})


def together(trainings: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Verdicts of several trainings as those of one model that drew each prompt more often."""
    numbered = [
        v.assign(sample_id=v["sample_id"] * len(trainings) + k) for k, v in enumerate(trainings)
    ]
    return pd.concat(numbered).sort_values(["prompt_id", "sample_id"], ignore_index=True)


def counts_by_task(verdicts: pd.DataFrame) -> dict[str, PromptCounts]:
    """Correct images by prompt, per task, tasks in the order of `TASKS`."""
    found = {task: verdicts[verdicts["tag"] == task] for task in TASKS}
    return {
        task: count_by_prompt(part["prompt_id"], part["correct"])
        for task, part in found.items()
        if len(part)
    }
