"""Intervals and paired tests for shares of correct images, clustered by prompt.

The images of one prompt are not independent. For a task, the variance of the share of correct
images is taken between prompts; its ratio to that of independent images (the design effect, Kish
1965) turns the number of images into an effective one, on which Wilson's score interval (1927) is
built, as Dean and Pagano (2015) recommend for clustered shares. Near 0 and 1 little can be seen of
the design effect, and the images of a prompt are counted more and more as one. The overall score
gets the stratified form of that interval (Yan and Su 2010). No interval has zero width.

`scripts/checks/intervals.py` simulates the coverage; it found reports/checks/intervals.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from evals.base import Interval

CONFIDENCE = 0.95
POWER = 0.8
_NORMAL = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
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

    @cached_property
    def total(self) -> int:
        """Images of all prompts."""
        return int(self.images.sum())

    @cached_property
    def share(self) -> float:
        return float(self.correct.sum() / self.total)

    @cached_property
    def residuals(self) -> np.ndarray:
        """(n,) what each prompt adds to the error of the share; they sum to 0."""
        return (self.correct - self.share * self.images) / self.total

    @cached_property
    def variance(self) -> float:
        """Of the share, estimated between prompts; of one prompt nothing is seen: 0."""
        prompts = len(self.images)
        return float(np.square(self.residuals).sum()) * prompts / max(1, prompts - 1)

    @cached_property
    def exceptions(self) -> int:
        """Prompts unlike the rest: with any image right where most are wrong, or the reverse."""
        return int(min((self.correct > 0).sum(), (self.correct < self.images).sum()))


def count_by_prompt(prompt_ids: Iterable[int], correct: Iterable[bool]) -> PromptCounts:
    """Counts of one task from its images, prompts in rising order."""
    counts: dict[int, list[int]] = {}
    for prompt, right in zip(prompt_ids, correct, strict=True):
        of_prompt = counts.setdefault(prompt, [0, 0])
        of_prompt[0] += bool(right)
        of_prompt[1] += 1
    table = np.array([counts[prompt] for prompt in sorted(counts)], dtype=np.int64).reshape(-1, 2)
    return PromptCounts(table[:, 0], table[:, 1])


def effective_images(counts: PromptCounts, others: Sequence[PromptCounts] = ()) -> float:
    """How many independent images say as much: between the number of prompts and of images.

    Args:
        others: further tasks of the same model. Where the task says little of its own design
            effect, the images of a prompt count as one; midway between that and the design effect
            of the others, if there are any: tasks resemble each other, but need not.
    """
    images, most = counts.total, counts.total / len(counts.images)
    stand_in = (most + design_effect(others)) / 2 if others else most
    return float(images / design_effect([counts], stand_in))


def design_effect(tasks: Sequence[PromptCounts], stand_in: float | None = None) -> float:
    """Variance of the tasks' shares between prompts over that of independent images.

    Args:
        stand_in: of which value it is taken to be as far as the tasks do not show it; None for
            the number of images per prompt, the largest possible.
    """
    images = sum(c.total for c in tasks)
    prompts = sum(len(c.images) for c in tasks)
    most = images / prompts
    stand_in = most if stand_in is None else stand_in
    if prompts == images:
        return 1.0
    independent = sum(c.share * (1 - c.share) / c.total for c in tasks)
    if independent == 0 or prompts == 1:
        return stand_in
    between = sum(c.variance for c in tasks)
    # Of independent images the estimate is 1 give or take about sqrt(2 / (prompts - 1)): cut off at
    # 1 it would be too large on average.
    least = 1 / (1 + math.sqrt(2 / (prompts - 1)))
    # Where few prompts differ from the rest, the estimate is too often too small.
    doubt = _doubt(sum(c.exceptions for c in tasks))
    return float(np.clip(between / independent, least, most) * (1 - doubt) + stand_in * doubt)


def _doubt(prompts: int) -> float:
    """How little so many informative prompts say of a variance: 1 of none, 0.1 of 5, 0 of many.

    Chosen by simulation: without it the coverage at a share of 0.02 and correlation 0.5 is 0.90.
    """
    return math.exp(-prompts / 2)


def score_interval(share: float, effective: float, quantile: float = _NORMAL) -> Interval:
    """Wilson's interval for a share seen on `effective` images.

    The quantile is the normal one: the design effect is bounded on both sides, and with Student's
    the simulated coverage is too large, by most where there are few prompts.
    """
    square = quantile**2
    centre = (share + square / (2 * effective)) / (1 + square / effective)
    half = (quantile / (1 + square / effective)) * math.sqrt(
        share * (1 - share) / effective + square / (4 * effective**2)
    )
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # Rounding must not push an end past the estimate.
    return Interval(mean=share, low=min(low, share), high=max(high, share))


def normal_quantile() -> float:
    """Of Gauss's distribution, for two-sided intervals of `CONFIDENCE`."""
    return _NORMAL


def power_quantile() -> float:
    """Of Gauss's distribution, one-sided: what a true difference must lie beyond the end of its
    interval to be resolved with `POWER`."""
    return NormalDist().inv_cdf(POWER)


def student_quantile(degrees: int) -> float:
    """Two-sided 95% quantile; of one cluster nothing can be estimated, and 1 degree is taken."""
    from scipy.special import stdtrit  # here, for scores of one model start without scipy

    return float(stdtrit(max(1, degrees), 0.5 + CONFIDENCE / 2))


def task_interval(counts: PromptCounts) -> Interval:
    """Share of correct images of a task with its 95% interval."""
    return score_interval(counts.share, effective_images(counts))


def overall_interval(tasks: Mapping[str, PromptCounts]) -> Interval:
    """Mean of the task means, with the stratified Wilson interval of Yan and Su (2010).

    Its ends are the means of the tasks' own ends, taken at one smaller quantile: the errors of
    independent tasks partly cancel, and what is left of their skewness shrinks with them. A task
    that says little of its design effect is helped by the others.
    """
    every = list(tasks.values())
    parts = [
        (c.share, effective_images(c, [*every[:i], *every[i + 1 :]])) for i, c in enumerate(every)
    ]
    widths = [_width(score_interval(*part)) for part in parts]
    smaller = _NORMAL * math.sqrt(sum(w * w for w in widths)) / sum(widths)
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
        return (self.a.correct - self.b.correct) / self.a.total

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
        differing: prompts that A and B drew differently; None where scores are no counts.
    """

    interval: Interval
    p_value: float
    detectable: float
    differing: int | None = None

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
    differing = sum(int((pair.contributions != 0).sum()) for pair in tasks.values())
    return Difference(interval, p_value, _detectable(below + above, quantile), differing)


def _difference_interval(pair: PairedCounts, quantile: float) -> Interval:
    """Paired interval of one task's difference.

    Where many prompts moved, the one of the paired t-test, clustered by prompt; where few did,
    their variance says little, and Newcombe's square-and-add interval of two dependent shares
    (1998) takes over.

    Args:
        quantile: Student's, of the paired t-test.
    """
    a, b = task_interval(pair.a), task_interval(pair.b)
    r = pair.correlation
    mean = a.mean - b.mean
    prompts = len(pair.a.images)
    # Room for two more changes like the largest seen, one each way; where there is none, for two of
    # whole prompts: about 3 / prompts.
    largest = float((np.abs(pair.a.correct - pair.b.correct) / pair.a.images).max()) or 1.0
    least = _NORMAL * math.sqrt(2) * largest / prompts
    below = max(least, _dependent_sum(a.mean - a.low, b.high - b.mean, r))
    above = max(least, _dependent_sum(a.high - a.mean, b.mean - b.low, r))
    errors = pair.a.residuals - pair.b.residuals
    scale = prompts / (prompts - 1) if prompts > 1 else 1.0
    half = quantile * math.sqrt(scale * float(np.square(errors).sum()))
    doubt = _doubt(int((pair.contributions != 0).sum()))
    below = math.sqrt(doubt * below**2 + (1 - doubt) * half**2)
    above = math.sqrt(doubt * above**2 + (1 - doubt) * half**2)
    return Interval(mean=mean, low=max(-1.0, mean - below), high=min(1.0, mean + above))


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
    # the sum over +1 and -1 is that of all, less twice that of those turned around
    as_extreme = np.abs(moved.sum() - 2 * (signs.astype(np.float64) @ moved)) >= observed
    return float((1 + as_extreme.sum()) / (1 + _FLIPS))


def _detectable(width: float, quantile: float) -> float:
    standard_error = width / (2 * quantile)
    # of few prompts Student's quantile is large: nothing within the interval itself is resolved
    return max(width / 2, (_NORMAL + power_quantile()) * standard_error)
