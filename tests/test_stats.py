"""Intervals and paired tests: closed forms, edges, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as distributions

from evals.stats import (
    PairedCounts,
    PromptCounts,
    count_by_prompt,
    design_effect,
    effective_images,
    overall_interval,
    paired_difference,
    score_interval,
    sign_flip_p_value,
    task_interval,
)
from scripts.checks import intervals


def _counts(correct: list[int], images: int = 4) -> PromptCounts:
    return PromptCounts(np.array(correct), np.full(len(correct), images))


def test_score_interval_solves_wilsons_equation() -> None:
    interval = score_interval(0.3, 50, 1.96)
    for end in (interval.low, interval.high):
        assert abs(0.3 - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / 50))


def test_one_image_per_prompt_is_plain_wilson() -> None:
    counts = _counts([1] * 30 + [0] * 70, images=1)
    assert effective_images(counts) == 100
    assert task_interval(counts) == score_interval(0.3, 100, float(distributions.norm.ppf(0.975)))


def test_equal_images_of_a_prompt_count_as_one() -> None:
    assert effective_images(_counts([4] * 40 + [0] * 60)) == pytest.approx(100, rel=0.02)
    # Repeating each prompt's single image four times must not make the interval narrower.
    single = task_interval(_counts([1] * 40 + [0] * 60, images=1))
    repeated = task_interval(_counts([4] * 40 + [0] * 60))
    assert repeated.low == pytest.approx(single.low, abs=1e-3)
    assert repeated.high == pytest.approx(single.high, abs=1e-3)


def test_images_more_even_than_chance_count_little_more_than_independent_ones() -> None:
    standard_error = math.sqrt(2 / 99)
    assert effective_images(_counts([2] * 100)) == pytest.approx(400 * (1 + standard_error))


def test_design_effect_is_1_of_independent_and_4_of_equal_images() -> None:
    rng = np.random.default_rng(6)
    independent = [_counts(rng.binomial(4, p, size=2000).tolist()) for p in (0.2, 0.6)]
    assert design_effect(independent) == pytest.approx(1, abs=0.08)
    equal = [_counts((4 * rng.binomial(1, p, size=2000)).tolist()) for p in (0.2, 0.6)]
    assert design_effect(equal) == pytest.approx(4, rel=1e-3)
    assert design_effect([_counts([0] * 50)]) == 4  # nothing seen: the largest possible


def test_other_tasks_help_one_that_shows_nothing() -> None:
    silent = _counts([4] * 20)
    rng = np.random.default_rng(7)
    others = [_counts(rng.binomial(4, 0.5, size=500).tolist())]
    assert effective_images(silent) == 20
    expected = 80 / ((4 + design_effect(others)) / 2)
    assert effective_images(silent, others) == pytest.approx(expected)


@pytest.mark.parametrize("hits", [0, 4])
@pytest.mark.parametrize("prompts", [1, 2, 6, 100])
def test_no_interval_of_zero_width_at_0_and_1(hits: int, prompts: int) -> None:
    counts = _counts([hits] * prompts)
    for interval in (task_interval(counts), overall_interval({"a": counts, "b": counts})):
        assert interval.mean == hits / 4
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1
        assert interval.high - interval.low > 0.01


def test_hits_and_misses_are_mirror_images() -> None:
    rng = np.random.default_rng(0)
    correct = rng.integers(0, 5, size=20).tolist()
    a, b = task_interval(_counts(correct)), task_interval(_counts([4 - k for k in correct]))
    assert (1 - a.mean, 1 - a.high, 1 - a.low) == pytest.approx((b.mean, b.low, b.high))


def test_overall_of_equal_empty_tasks_is_wilson_of_their_union() -> None:
    """With z / sqrt(6) per task the stratified form is, at 0, the interval of all prompts."""
    tasks = {str(i): _counts([0] * 50) for i in range(6)}
    assert overall_interval(tasks).high == pytest.approx(score_interval(0.0, 300).high)


def test_overall_is_the_mean_of_task_means_and_of_one_task_its_interval() -> None:
    tasks = {"a": _counts([4, 3, 4]), "b": _counts([0, 1] * 10)}
    assert overall_interval(tasks).mean == pytest.approx((11 / 12 + 1 / 8) / 2)
    alone = overall_interval({"a": tasks["a"]})
    assert (alone.low, alone.high) == pytest.approx(
        (task_interval(tasks["a"]).low, task_interval(tasks["a"]).high)
    )


def test_counting_by_prompt() -> None:
    counts = count_by_prompt([7, 3, 7, 3, 3], [True, False, False, True, True])
    assert counts.correct.tolist() == [2, 1] and counts.images.tolist() == [3, 2]
    with pytest.raises(ValueError, match="at least one prompt"):
        count_by_prompt([], [])


def _pair(a: list[int], b: list[int]) -> PairedCounts:
    return PairedCounts(_counts(a), _counts(b))


def test_difference_of_many_moved_prompts_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, size=(2, 200))
    difference = paired_difference({"x": _pair(a.tolist(), b.tolist())}, test=False)
    expected = distributions.ttest_1samp((a - b) / 4, 0).confidence_interval()
    assert difference.interval.low == pytest.approx(expected.low, rel=1e-6)
    assert difference.interval.high == pytest.approx(expected.high, rel=1e-6)


def test_correlation_is_pearsons_over_prompts() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 5, size=(2, 40))
    mixed = np.where(rng.random(40) < 0.5, a, b)
    expected = np.corrcoef(a, mixed)[0, 1]
    assert 0.2 < expected < 0.8
    pair = _pair(a.tolist(), mixed.tolist())
    assert pair.correlation == pytest.approx(expected)
    assert _pair((4 - a).tolist(), mixed.tolist()).correlation == pytest.approx(-expected)
    assert _pair([2] * 40, mixed.tolist()).correlation == 0


def test_difference_of_few_moved_prompts_is_newcombes() -> None:
    """Square-and-add of two dependent shares, mixed with the t interval by 1 - exp(-moved / 2)."""
    a, b = [0, 1, 4, 4] * 10, [0, 1, 4, 4] * 10
    b[0], b[1], b[4] = 1, 2, 1
    shares = task_interval(_counts(a)), task_interval(_counts(b))
    r = np.corrcoef(a, b)[0, 1]
    low, high = (
        math.sqrt(x * x - 2 * r * x * y + y * y)
        for x, y in (
            (shares[0].mean - shares[0].low, shares[1].high - shares[1].mean),
            (shares[0].high - shares[0].mean, shares[1].mean - shares[1].low),
        )
    )
    least = 1.959964 * math.sqrt(2) / 4 / 40  # room for two changes of an image, one each way
    errors = (np.array(a) - b) / 4
    t = distributions.t.ppf(0.975, 39) * errors.std(ddof=1) / math.sqrt(40)
    doubt = math.exp(-3 / 2)
    interval = paired_difference({"x": _pair(a, b)}, test=False).interval
    below = math.sqrt(doubt * max(low, least) ** 2 + (1 - doubt) * t**2)
    above = math.sqrt(doubt * max(high, least) ** 2 + (1 - doubt) * t**2)
    assert interval.mean - interval.low == pytest.approx(below, rel=1e-5)
    assert interval.high - interval.mean == pytest.approx(above, rel=1e-5)
    assert min(low, high) > least  # it is Newcombe's that is seen


def test_swapping_a_and_b_mirrors_the_difference() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 5, size=(2, 30)).tolist()
    ab, ba = (paired_difference({"x": _pair(*pair)}) for pair in ((a, b), (b, a)))
    assert ab.interval.mean == -ba.interval.mean and ab.p_value == pytest.approx(ba.p_value)
    assert (ab.interval.low, ab.interval.high) == pytest.approx(
        (-ba.interval.high, -ba.interval.low)
    )


def test_pairing_resolves_what_two_separate_intervals_do_not() -> None:
    hard = [0, 4] * 50
    easier = [1 if k == 0 else 4 for k in hard]
    difference = paired_difference({"x": _pair(easier, hard)})
    assert difference.resolved and difference.p_value < 1e-3
    a, b = task_interval(_counts(easier)), task_interval(_counts(hard))
    assert a.low < b.high


def test_equal_results_are_not_resolved_and_two_perfect_ones_leave_room() -> None:
    rng = np.random.default_rng(3)
    same = rng.integers(0, 5, size=50).tolist()
    difference = paired_difference({"x": _pair(same, same)})
    assert difference.interval.mean == 0 and not difference.resolved and difference.p_value == 1
    perfect = paired_difference({"x": _pair([4] * 50, [4] * 50)})
    assert perfect.interval.low < -0.02 and perfect.interval.high > 0.02


def test_sign_flip_test_is_exact_for_few_prompts() -> None:
    assert sign_flip_p_value(np.array([0.25, 0.5, 0.25, 0.0])) == 2 / 8
    assert sign_flip_p_value(np.array([0.25, -0.25])) == 1.0
    many = np.full(40, 0.25)
    assert sign_flip_p_value(many) == sign_flip_p_value(many) == 1 / 10_000


def test_sign_flip_test_agrees_with_the_t_test() -> None:
    moved = np.random.default_rng(4).normal(0.2, 1.0, size=150)
    expected = distributions.ttest_1samp(moved, 0).pvalue
    assert sign_flip_p_value(moved) == pytest.approx(expected, abs=0.01)


def test_detectable_difference_has_the_power_it_says() -> None:
    rng = np.random.default_rng(5)
    prompts, trials, found = 150, 400, 0
    base = np.clip(rng.normal(0.5, 0.2, size=prompts), 0.15, 0.85)
    promised = []
    for _ in range(trials):
        a = rng.binomial(4, base + 0.0643)
        b = rng.binomial(4, base)
        difference = paired_difference({"x": _pair(a.tolist(), b.tolist())}, test=False)
        promised.append(difference.detectable)
        found += difference.resolved and difference.interval.mean > 0
    expected = distributions.norm.cdf(2.8016 * 0.0643 / np.mean(promised) - 1.96)
    assert found / trials == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("prompts", [1, 2, 3, 40])
def test_nothing_within_the_interval_is_called_detectable(prompts: int) -> None:
    a, b = [3] * prompts, [1] + [3] * (prompts - 1)
    difference = paired_difference({"x": _pair(a, b), "y": _pair(b, a)}, test=False)
    width = difference.interval.high - difference.interval.low
    assert difference.detectable >= width / 2


def test_two_equal_results_leave_room_at_any_share() -> None:
    """About the rule of three: of n prompts none differing, 3 / n may still differ."""
    for hits in (0, 1, 2, 3, 4):
        same = [hits] * 50
        interval = paired_difference({"x": _pair(same, same)}, test=False).interval
        assert interval.low <= -2.7 / 50 and interval.high >= 2.7 / 50


def test_attainable_coverage_is_enumerated() -> None:
    """Of 80 prompts at 0.02 whose images are equal, at most 3 or at most 4 may be right."""
    images = intervals.Images(1.0, "beta")
    total = np.ones(1)
    for _ in range(80):
        total = np.convolve(total, images.probabilities(0.02))
    up_to = distributions.binom(80, 0.02).cdf
    assert up_to(3) < 0.93 and up_to(4) > 0.97
    assert intervals.attainable(total, 0.95) == pytest.approx(up_to(3), abs=1e-9)


@pytest.mark.parametrize("kind", ["beta", "copy"])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_simulated_images_have_the_distribution_they_are_enumerated_by(
    correlation: float, kind: str
) -> None:
    images = intervals.Images(correlation, kind)
    drawn = images.draw(0.3, (40_000,), np.random.default_rng(0))
    expected = images.probabilities(0.3)
    assert expected.sum() == pytest.approx(1)
    assert np.bincount(drawn, minlength=5) / 40_000 == pytest.approx(expected, abs=0.012)
    k = np.arange(5)
    mean = expected @ k
    variance = expected @ k**2 - mean**2
    assert mean == pytest.approx(1.2)
    assert variance == pytest.approx(4 * 0.3 * 0.7 * (1 + 3 * correlation))


# 0.93 to 0.97, give or take three standard errors of 400 draws.
_LEAST, _MOST = 0.93 - 0.037, 0.97 + 0.026


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.02, 0.5, 0.9])
def test_coverage_of_task_intervals(correlation: float, rate: float) -> None:
    images = intervals.Images(correlation, "beta")
    row = intervals.task_cell(100, rate, images, 400, np.random.default_rng(8))
    assert not row["forced"] and _LEAST < row["coverage"] < _MOST


@pytest.mark.parametrize("rate", [0.05, None])
@pytest.mark.parametrize("correlation", [0.0, 1.0])
def test_coverage_of_the_overall_interval(correlation: float, rate: float | None) -> None:
    images = intervals.Images(correlation, "beta")
    row = intervals.overall_cell("geneval@1", rate, images, 300, np.random.default_rng(9))
    assert _LEAST < row["coverage"] < _MOST


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.1, 0.05)])
@pytest.mark.parametrize("correlation", [0.0, 1.0])
def test_coverage_of_paired_differences(correlation: float, rates: tuple[float, float]) -> None:
    images = intervals.Images(correlation, "beta")
    row = intervals.difference_cell(80, rates, images, 400, np.random.default_rng(10))
    assert not row["forced"] and _LEAST < row["coverage"] < _MOST


def test_few_differing_prompts_force_the_interval_to_hold_0() -> None:
    images = intervals.Images(1.0, "beta")
    row = intervals.difference_cell(80, (0.02, 0.02), images, 200, np.random.default_rng(11))
    assert row["forced"] and row["coverage"] > 0.97
    assert row["mean_prompts_differing"] == pytest.approx(80 * 0.02 * 0.98)
    assert intervals.verdict(row) == "forced"
