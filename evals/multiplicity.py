"""Many comparisons at once: what is still resolved when a table's differences are told together.

Of a hundred differences that are none, some five leave out 0 in their own 95% intervals. Holm's
step-down adjustment (1979) bounds the chance that any of a table's verdicts is wrong by 5%,
whatever their dependence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import ndtr

from evals.base import Interval
from evals.stats import CONFIDENCE, normal_quantile

LEVEL = 1 - CONFIDENCE
RESOLVED, NOT_RESOLVED = "resolved", "not resolved"
NOT_AFTER_HOLM = f"{RESOLVED}, not after Holm"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: below 0.05 is resolved among all of them.

    Values that are not finite stay as they are and count for nothing.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if math.isfinite(p))
    adjusted = list(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted


def p_of_interval(interval: Interval) -> float:
    """Two-sided p-value of a difference of 0 that a 95% interval over prompts implies; over
    trainings see `evals.over_trainings.p_over_trainings`."""
    mean = interval.mean
    toward_zero = mean - interval.low if mean > 0 else interval.high - mean
    if toward_zero <= 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * ndtr(-abs(mean) / toward_zero * normal_quantile()))


def least_p(prompts: int) -> float:
    """The smallest two-sided p-value of an exact sign-flip test in which `prompts` differ."""
    return min(1.0, 2.0 ** (1 - prompts))


def verdict(resolved: bool, adjusted: float | None, differing: int | None = None) -> str:
    """What one row of a table of differences says.

    Args:
        resolved: whether the row's own interval leaves out 0.
        adjusted: p-value after `holm`; None where the row is a question of its own.
        differing: prompts that A and B drew differently; None where there is no exact test.
    """
    if not resolved:
        return NOT_RESOLVED
    if differing is not None and least_p(differing) > LEVEL:
        prompts = "1 prompt differs" if differing == 1 else f"{differing} prompts differ"
        return f"cannot be told: {prompts}, p cannot go below {least_p(differing):.3g}"
    if adjusted is not None and adjusted >= LEVEL:
        return NOT_AFTER_HOLM
    return RESOLVED
