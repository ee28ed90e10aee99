"""Intervals and paired tests for means of graded scores, clustered by prompt.

A judge's probability, a preference score or a distance is a number per image, not right or wrong,
so Wilson's interval does not apply. The images of one prompt are not independent: a mean over
images is a ratio of two sums over prompts, and its variance is taken between prompts (Cochran 1977,
6.5; the estimator is the one of `evals.stats.PromptCounts`). Statistics that are no means (CMMD,
FID) get their intervals by drawing prompts again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evals.base import Interval
from evals.stats import (
    CONFIDENCE,
    Difference,
    normal_quantile,
    power_quantile,
    sign_flip_p_value,
    student_quantile,
)

RESAMPLES = 200
Bounds = tuple[float, float]
"""Least and largest value that a score can have."""
Numbers = Sequence[float] | np.ndarray


def _sums(values: np.ndarray, prompt_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of values by prompt, prompts in rising order."""
    ids, place = np.unique(prompt_ids, return_inverse=True)
    sums = np.bincount(place, weights=values, minlength=len(ids))
    return sums, np.bincount(place, minlength=len(ids)).astype(float)


def _checked(values: Numbers, prompt_ids: Numbers) -> tuple[np.ndarray, np.ndarray]:
    numbers, ids = np.asarray(values, dtype=float), np.asarray(prompt_ids)
    if len(numbers) == 0 or len(numbers) != len(ids):
        raise ValueError("a mean needs at least one value, and as many prompt numbers as values")
    if not np.isfinite(numbers).all():
        raise ValueError("a score is not finite: look for the image that it belongs to")
    return numbers, ids


def clustered_mean(values: Numbers, prompt_ids: Numbers, bounds: Bounds | None = None) -> Interval:
    """Mean of the values with its 95% interval for other prompts of the same kind.

    Student's interval, degrees of freedom from the number of prompts. A bounded score gets an
    interval inside its bounds; it reaches at least as far as one further prompt at either bound
    could move the mean, so that equal values never give an interval of no width.

    Args:
        values: one per image, or several per image (one per question).
        prompt_ids: the prompt of each value.
        bounds: of the score; None where it has none.

    Raises:
        ValueError: without values, for one that is not finite, or for a single prompt where the
            score has no bounds: nothing is known then.
    """
    numbers, ids = _checked(values, prompt_ids)
    sums, sizes = _sums(numbers, ids)
    mean, prompts = float(sums.sum() / sizes.sum()), len(sums)
    if bounds is None and prompts < 2:
        raise ValueError("an interval clustered by prompt needs images of two prompts or more")
    residuals = (sums - mean * sizes) / sizes.sum()
    variance = float(np.square(residuals).sum()) * prompts / max(1, prompts - 1)
    half = student_quantile(prompts - 1) * math.sqrt(variance)
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = _within(low, high, mean, prompts, bounds)
    # rounding must not push an end past the estimate
    return Interval(mean=mean, low=min(low, mean), high=max(high, mean))


def _within(
    low: float, high: float, value: float, prompts: int, bounds: Bounds
) -> tuple[float, float]:
    """Ends inside the bounds, no nearer to the value than one further prompt could move it."""
    least, most = bounds
    low = max(least, min(low, (prompts * value + least) / (prompts + 1)))
    return low, min(most, max(high, (prompts * value + most) / (prompts + 1)))


def clustered_difference(a: Numbers, b: Numbers, prompt_ids: Numbers, seed: int = 0) -> Difference:
    """Mean of `a` minus mean of `b` over the same images, paired and clustered by prompt.

    Args:
        a, b: scores of the same images in the same order.
        prompt_ids: the prompt of each image.
        seed: of the sign flips, where they are too many to try all.

    Raises:
        ValueError: if the two have not the same length, or images of fewer than two prompts.
    """
    if len(a) != len(b):
        raise ValueError(f"paired scores need the same images, got {len(a)} and {len(b)}")
    numbers, ids = _checked(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), prompt_ids)
    interval = clustered_mean(numbers, ids)
    sums, sizes = _sums(numbers, ids)
    p_value = sign_flip_p_value(sums / sizes.sum(), seed)
    quantile = student_quantile(len(sums) - 1)
    error = (interval.high - interval.low) / (2 * quantile)
    normal = normal_quantile() + power_quantile()
    return Difference(interval, p_value, max(error * quantile, error * normal))


def resampled_intervals(
    statistic: Callable[[np.ndarray], Mapping[str, float]],
    num_prompts: int,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    bounds: Mapping[str, Bounds] | None = None,
) -> dict[str, Interval]:
    """95% intervals of statistics that are no means, by drawing prompts again.

    Drawn with replacement, a prompt's images would occur twice: that shifts kernel distances and
    ruins nearest neighbours. Half the prompts are drawn without replacement instead; their
    statistic spreads around that of all prompts as this does around the truth (half-samples,
    Efron 1982, 8.2; for k of n prompts scaled by sqrt(k / (n - k))). A half-sample's own bias is
    taken out by laying the spread around the estimate.

    Args:
        statistic: of a (num_prompts,) array of bool, which prompts count.
        num_prompts: at least four.
        seed: of the drawing.
        resamples: how many half-samples.
        bounds: of the statistics that have any.

    Returns:
        For each statistic its value on all prompts with the interval.

    Raises:
        ValueError: for fewer than four prompts or fewer than 20 resamples.
    """
    if num_prompts < 4:
        raise ValueError("an interval by resampling needs images of four prompts or more")
    if resamples < 20:
        raise ValueError(f"an interval needs at least 20 resamples, got {resamples}")
    estimate = dict(statistic(np.ones(num_prompts, dtype=bool)))
    rng = np.random.default_rng(seed)
    size = num_prompts // 2
    drawn: dict[str, list[float]] = {name: [] for name in estimate}
    for _ in range(resamples):
        chosen = np.zeros(num_prompts, dtype=bool)
        chosen[rng.permutation(num_prompts)[:size]] = True
        for name, value in statistic(chosen).items():
            drawn[name].append(value)
    scale, tail = math.sqrt(size / (num_prompts - size)), (1 - CONFIDENCE) / 2
    found = {}
    for name, value in estimate.items():
        values = np.array(drawn[name])
        below, above = scale * np.quantile(values - values.mean(), [tail, 1 - tail])
        low, high = value + float(below), value + float(above)
        if bounds and name in bounds:
            low, high = _within(low, high, value, num_prompts, bounds[name])
        found[name] = Interval(mean=value, low=min(low, value), high=max(high, value))
    return found
