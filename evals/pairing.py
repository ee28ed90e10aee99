"""Differences between two results of one protocol, paired over prompts."""

from __future__ import annotations

import pandas as pd

from evals.base import TASKS
from evals.stats import Difference, PairedCounts, count_by_prompt, paired_difference

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
    tasks = {}
    for task in TASKS:
        found = [frame[frame["tag"] == task] for frame in (a, b)]
        if len(found[0]):
            counts = [count_by_prompt(part["prompt_id"], part["correct"]) for part in found]
            tasks[task] = PairedCounts(*counts)
    return paired_difference(tasks)
