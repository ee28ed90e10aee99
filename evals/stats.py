"""Intervals and paired tests for shares of correct images, clustered by prompt.

The images of one prompt are not independent. For a task, the variance of the share of correct
images is taken between prompts; its ratio to that of independent images (the design effect) turns
the number of images into an effective one, on which Wilson's score interval is built, with
Student's quantile in place of the normal one. Near 0 and 1 little can be seen of the design
effect, and the images of a prompt are counted more and more as one. The overall score
gets the stratified form of that interval. No interval of a share has zero width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from evals.base import Interval

CONFIDENCE = 0.95
POWER = 0.8
_FLIPS = 9_999
_EXACT_PROMPTS = 13
"""Up to so many differing prompts all sign patterns are tried (2 to this power)."""


@dataclass(frozen=True)
class PromptCounts:
    """Images of one task, by prompt: how many are correct, out of how many.

    Attributes:
        correct, images: (n,) whole numbers; correct <= images, images >= 1.
    """

    correct: np.ndarray
    images: np.ndarray

    def __post_init__(self) -> None:
        if len(self.correct) == 0 or len(self.correct) != len(self.images):
            raise ValueError("counts need at least one prompt, and as many totals as hits")

    @property
    def share(self) -> float:
        return float(self.correct.sum() / self.images.sum())

    @property
    def residuals(self) -> np.ndarray:
        """(n,) what each prompt adds to the error of the share; they sum to 0."""
        return (self.correct - self.share * self.images) / self.images.sum()


def count_by_prompt(prompt_ids: Sequence[int], correct: Sequence[bool]) -> PromptCounts:
    """Counts of one task from its images, prompts in rising order."""
    ids, place = np.unique(np.asarray(prompt_ids), return_inverse=True)
    hits = np.bincount(place, weights=np.asarray(correct, dtype=float), minlength=len(ids))
    return PromptCounts(hits.round().astype(int), np.bincount(place, minlength=len(ids)))


def effective_images(counts: PromptCounts) -> float:
    """How many independent images say as much: between the number of prompts and of images."""
    images, prompts, share = counts.images.sum(), len(counts.images), counts.share
    if prompts == images:
        return float(images)
    if share in (0.0, 1.0) or prompts == 1:
        return float(prompts)
    variance = float(np.square(counts.residuals).sum())
    variance *= prompts / (prompts - 1)
    most = images / prompts
    design_effect = float(np.clip(variance * images / (share * (1 - share)), 1.0, most))
    # Where few prompts differ from the rest, the estimate is too often too small: without this
    # weight the coverage at a share of 0.02 and correlation 0.5 is 0.90, with it 0.97.
    exceptions = min((counts.correct > 0).sum(), (counts.correct < counts.images).sum())
    weight = math.exp(-exceptions / 2)
    return float(images / (design_effect * (1 - weight) + most * weight))


def score_interval(share: float, effective: float, quantile: float) -> Interval:
    """Wilson's interval for a share seen on `effective` images."""
    square = quantile**2
    centre = (share + square / (2 * effective)) / (1 + square / effective)
    half = (quantile / (1 + square / effective)) * math.sqrt(
        share * (1 - share) / effective + square / (4 * effective**2)
    )
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # Rounding must not push an end past the estimate.
    return Interval(mean=share, low=min(low, share), high=max(high, share))


@functools.lru_cache
def student_quantile(degrees: int) -> float:
    """Two-sided 95% quantile; of one cluster nothing can be estimated, and 1 degree is taken."""
    return float(distributions.t.ppf(0.5 + CONFIDENCE / 2, max(1, degrees)))


def task_interval(counts: PromptCounts) -> Interval:
    """Share of correct images of a task with its 95% interval."""
    quantile = student_quantile(len(counts.images) - 1)
    return score_interval(counts.share, effective_images(counts), quantile)


def overall_interval(tasks: Mapping[str, PromptCounts]) -> Interval:
    """Mean of the task means, with the stratified Wilson interval of Yan and Su (2010).

    Its ends are the means of the tasks' own ends, taken at one smaller quantile: the errors of
    independent tasks partly cancel, and what is left of their skewness shrinks with them. Degrees
    of freedom are those of all tasks together.
    """
    quantile = student_quantile(sum(len(c.images) - 1 for c in tasks.values()))
    parts = [(c.share, effective_images(c)) for c in tasks.values()]
    widths = [_width(score_interval(*part, quantile)) for part in parts]
    smaller = quantile * math.sqrt(sum(w * w for w in widths)) / sum(widths)
    ends = [score_interval(*part, smaller) for part in parts]
    return Interval(
        mean=sum(e.mean for e in ends) / len(ends),
        low=sum(e.low for e in ends) / len(ends),
        high=sum(e.high for e in ends) / len(ends),
    )


def _width(interval: Interval) -> float:
    return interval.high - interval.low


@dataclass(frozen=True)
class PairedCounts:
    """The same prompts of one task under two models, in the same order."""

    a: PromptCounts
    b: PromptCounts

    def __post_init__(self) -> None:
        if not np.array_equal(self.a.images, self.b.images):
            raise ValueError("paired counts need the same prompts with the same number of images")

    @property
    def contributions(self) -> np.ndarray:
        """(n,) what each prompt adds to the difference of shares."""
        return (self.a.correct - self.b.correct) / self.a.images.sum()

    @property
    def correlation(self) -> float:
        """Of the two shares, over prompts; 0 where one of them does not vary."""
        residuals_a, residuals_b = self.a.residuals, self.b.residuals
        scale = math.sqrt(float(np.square(residuals_a).sum() * np.square(residuals_b).sum()))
        if scale == 0:
            return 0.0
        return float(np.clip((residuals_a * residuals_b).sum() / scale, -1.0, 1.0))


@dataclass(frozen=True)
class Difference:
    """A minus B.

    Attributes:
        interval: 95% interval of the difference.
        p_value: two-sided, of a sign-flip test over prompts.
        detectable: the smallest true difference that such a set resolves with 80% power.
    """

    interval: Interval
    p_value: float
    detectable: float

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval.low > 0 or self.interval.high < 0


def paired_difference(
    tasks: Mapping[str, PairedCounts], seed: int = 0, test: bool = True
) -> Difference:
    """Difference A - B of the mean of task means; of one task, its difference.

    Args:
        tasks: the tasks to average, none empty.
        seed: of the sign flips, where they are too many to try all.
        test: False leaves out the sign-flip test (p_value is NaN), by far the dearest part.
    """
    degrees = sum(len(pair.a.images) - 1 for pair in tasks.values())
    quantile = student_quantile(degrees)
    parts = [_difference_interval(pair, quantile) for pair in tasks.values()]
    mean = sum(p.mean for p in parts) / len(parts)
    below = math.sqrt(sum((p.mean - p.low) ** 2 for p in parts)) / len(parts)
    above = math.sqrt(sum((p.high - p.mean) ** 2 for p in parts)) / len(parts)
    interval = Interval(mean=mean, low=mean - below, high=mean + above)
    p_value = math.nan
    if test:
        contributions = np.concatenate([pair.contributions for pair in tasks.values()])
        p_value = sign_flip_p_value(contributions / len(tasks), seed)
    return Difference(interval, p_value, _detectable(below + above, quantile))


def _difference_interval(pair: PairedCounts, quantile: float) -> Interval:
    """Paired interval of one task's difference.

    Where many prompts moved, the one of the paired t-test, clustered by prompt; where few did,
    their variance says little, and the square-and-add interval of two dependent shares takes over.
    """
    a = score_interval(pair.a.share, effective_images(pair.a), quantile)
    b = score_interval(pair.b.share, effective_images(pair.b), quantile)
    r = pair.correlation
    mean = a.mean - b.mean
    below = _dependent_sum(a.mean - a.low, b.high - b.mean, r)
    above = _dependent_sum(a.high - a.mean, b.mean - b.low, r)
    prompts = len(pair.a.images)
    errors = pair.a.residuals - pair.b.residuals
    scale = prompts / (prompts - 1) if prompts > 1 else 1.0
    half = quantile * math.sqrt(scale * float(np.square(errors).sum()))
    weight = math.exp(-int((pair.contributions != 0).sum()) / 3)
    below = math.sqrt(weight * below**2 + (1 - weight) * half**2)
    above = math.sqrt(weight * above**2 + (1 - weight) * half**2)
    return Interval(mean=mean, low=mean - below, high=mean + above)


def _dependent_sum(x: float, y: float, correlation: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y))


def sign_flip_p_value(contributions: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of "A and B may be swapped within every prompt".

    Args:
        contributions: (n,) what each prompt adds to the difference.
    """
    moved = contributions[contributions != 0]
    if len(moved) == 0:
        return 1.0
    observed = abs(moved.sum()) - 1e-12
    if len(moved) <= _EXACT_PROMPTS:
        patterns = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((1 - 2 * patterns) @ moved) >= observed).mean())
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, size=(_FLIPS, len(moved)), dtype=np.int8)
    as_extreme = np.abs((1.0 - 2.0 * signs) @ moved) >= observed
    return float((1 + as_extreme.sum()) / (1 + _FLIPS))


def _detectable(width: float, quantile: float) -> float:
    standard_error = width / (2 * quantile)
    normal = distributions.norm.ppf
    return float((normal(0.5 + CONFIDENCE / 2) + normal(POWER)) * standard_error)
