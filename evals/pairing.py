"""Differences between two results of one protocol, paired over prompts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from evals.base import TASKS, Interval

_Z = 1.959963984540054


def resolved(difference: Interval) -> bool:
    """Whether the interval of a difference leaves out 0."""
    return difference.low > 0 or difference.high < 0


def overall_difference(a: pd.DataFrame, b: pd.DataFrame) -> Interval:
    """Overall score of `a` minus that of `b`, with its 95% interval, clustered by prompt.

    Args:
        a, b: verdicts as `evals.collection.read_verdicts` gives them, over the same images.

    Raises:
        ValueError: if the two do not hold the same prompts and samples.
    """
    keys = ["prompt_id", "sample_id", "tag"]
    if not a[keys].equals(b[keys]):
        raise ValueError("differences are paired over prompts: both results need the same images")
    change = a["correct"].astype(float) - b["correct"].astype(float)
    frame = a[["prompt_id", "tag"]].assign(change=change)
    means, variances = [], []
    for task in TASKS:
        images = frame[frame["tag"] == task]
        if images.empty:
            continue
        mean = images["change"].mean()
        totals = (images["change"] - mean).groupby(images["prompt_id"]).sum().to_numpy()
        count = len(totals)
        scale = count / (count - 1) if count > 1 else 1.0
        means.append(mean)
        variances.append(scale * float(np.square(totals).sum()) / len(images) ** 2)
    mean = float(np.mean(means))
    half = _Z * math.sqrt(sum(variances)) / len(means)
    return Interval(mean=mean, low=mean - half, high=mean + half)
