"""Means over trainings that differ in their seed alone: intervals and p-values for other seeds.

`scripts/checks/training_intervals.py` simulates the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from evals.base import Interval
from evals.stats import normal_quantile, student_quantile


def over_trainings(values: Sequence[float], prompts: Interval) -> Interval:
    """95% interval of a mean over trainings, for other training seeds and other prompts alike.

    Student's interval over the trainings and that over the prompts are added in quadrature. What
    equal settings give differently from image to image is in both: the interval is rather too wide.

    Args:
        values: one score or difference per training, two at least.
        prompts: of all trainings' images together, clustered by prompt; its mean is that of
            `values`.

    Raises:
        ValueError: for fewer than two trainings.
    """
    mean, error = _mean_and_error(values)
    half = student_quantile(len(values) - 1) * error
    below = math.hypot(half, prompts.mean - prompts.low)
    above = math.hypot(half, prompts.high - prompts.mean)
    return Interval(mean=mean, low=mean - below, high=mean + above)


def p_over_trainings(values: Sequence[float], prompts: Interval) -> float:
    """Two-sided p-value of a mean of 0: one minus the confidence at which the interval of
    `over_trainings`, made with that confidence, ends at 0.

    Args:
        values, prompts: as there.

    Raises:
        ValueError: for fewer than two trainings.
    """
    mean, error = _mean_and_error(values)
    if mean == 0:
        return 1.0
    toward_0 = prompts.mean - prompts.low if mean > 0 else prompts.high - prompts.mean
    degrees = len(values) - 1

    def beyond_0(p: float) -> float:
        student, normal = (float(-of(p / 2)) for of in (lambda q: stdtrit(degrees, q), ndtri))
        return math.hypot(student * error, normal * toward_0 / normal_quantile()) - abs(mean)

    least = 1e-12
    return least if beyond_0(least) < 0 else float(brentq(beyond_0, least, 1.0))


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of one value per training, and its standard error."""
    if len(values) < 2:
        raise ValueError(f"a spread over trainings needs two or more, got {len(values)}")
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
