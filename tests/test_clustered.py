"""Intervals of graded means, clustered by prompt, and of statistics that are no means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evals.clustered import clustered_difference, clustered_mean, resampled_intervals
from evals.stats import student_quantile


def test_equals_the_t_interval_of_prompt_means_for_equal_numbers_of_images() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 4))
    found = clustered_mean(values.ravel(), np.repeat(np.arange(20), 4))
    means = values.mean(axis=1)
    half = student_quantile(19) * means.std(ddof=1) / math.sqrt(20)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((means.mean() - half, means.mean() + half))


def test_images_of_a_prompt_do_not_count_as_independent() -> None:
    values = np.random.default_rng(1).normal(size=30)
    once = clustered_mean(values, np.arange(30))
    repeated = clustered_mean(np.repeat(values, 4), np.repeat(np.arange(30), 4))
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low)


def test_equal_bounded_values_have_an_interval_with_width_inside_the_bounds() -> None:
    for value in (0.0, 0.3, 1.0):
        found = clustered_mean([value] * 9, range(9), (0.0, 1.0))
        assert found.low == pytest.approx(0.9 * value)
        assert found.high == pytest.approx(0.9 * value + 0.1)


def test_coverage_of_skewed_bounded_scores() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        prompts = rng.beta(0.5, 2.0, size=60)  # mean 0.2
        images = np.clip(prompts[:, None] + 0.1 * rng.normal(size=(60, 4)), 0, 1)
        found = clustered_mean(images.ravel(), np.repeat(np.arange(60), 4), (0, 1))
        # the mean of clipped images, by a large sample of the same kind
        hits += found.low <= 0.2191 <= found.high
    assert hits / 300 > 0.9


@pytest.mark.parametrize(
    ("values", "prompts", "words"),
    [
        ([], [], "at least one"),
        ([1.0], [0, 1], "as many"),
        ([1.0, math.nan], [0, 1], "not finite"),
        ([1.0, 2.0], [0, 0], "two prompts"),
    ],
)
def test_refuses(values: list[float], prompts: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        clustered_mean(values, prompts)


def test_difference_is_paired_and_says_what_it_can_resolve() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=40) * 10
    prompts = np.repeat(np.arange(20), 2)
    found = clustered_difference(base + 0.5 + 0.1 * rng.normal(size=40), base, prompts)
    assert found.resolved and found.p_value < 0.001 and 0.4 < found.interval.mean < 0.6
    same = clustered_difference(base, base, prompts)
    assert same.interval.mean == 0 and same.p_value == 1
    with pytest.raises(ValueError, match="same images"):
        clustered_difference(base, base[:-1], prompts)


@pytest.mark.parametrize("prompts", [40, 41])
def test_resampling_a_mean_gives_about_its_known_interval(prompts: int) -> None:
    values = np.random.default_rng(4).normal(size=prompts)
    (found,) = resampled_intervals(
        lambda chosen: {"mean": values[chosen].mean()}, prompts, resamples=2000
    ).values()
    error = values.std(ddof=1) / math.sqrt(prompts)
    assert found.mean == values.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_resampling_takes_the_bias_of_small_samples_out_and_keeps_bounds() -> None:
    values = np.random.default_rng(5).normal(size=50)

    def statistic(chosen: np.ndarray) -> dict[str, float]:
        return {"biased": values[chosen].mean() + 30 / chosen.sum(), "share": 0.999}

    found = resampled_intervals(statistic, 50, bounds={"share": (0, 1)})
    assert found["biased"].low < found["biased"].mean < found["biased"].high
    assert found["share"].low == pytest.approx(0.999 * 50 / 51)
    assert 0.999 < found["share"].high <= 1
    with pytest.raises(ValueError, match="four prompts"):
        resampled_intervals(statistic, 3)
    with pytest.raises(ValueError, match="20 resamples"):
        resampled_intervals(statistic, 50, resamples=3)
