"""Many comparisons at once: Holm's adjustment, p-values of intervals, what exact tests can tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from evals.base import ImageVerdict, Interval
from evals.multiplicity import holm, least_p, p_of_interval, verdict
from evals.report.compare import as_markdown, compare_verdicts
from evals.stats import sign_flip_p_value


def test_holm_by_hand():
    """Sorted, p times the number of those not smaller, never falling, at most 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []
    found = holm([0.02, math.nan, 0.01])
    assert math.isnan(found[1]) and [found[0], found[2]] == pytest.approx([0.02, 0.02])


def test_holm_keeps_the_chance_of_any_wrong_verdict():
    rng = np.random.default_rng(0)
    wrong = [min(holm(list(rng.uniform(size=8)))) < 0.05 for _ in range(2000)]
    assert 0.03 < np.mean(wrong) < 0.07


def test_the_p_value_of_an_interval_is_005_where_it_ends_at_0():
    assert p_of_interval(Interval(mean=0.1, low=0.0, high=0.15)) == pytest.approx(0.05)
    assert p_of_interval(Interval(mean=-0.1, low=-0.3, high=0.0)) == pytest.approx(0.05)
    assert p_of_interval(Interval(mean=0.0, low=-0.1, high=0.1)) == pytest.approx(1.0)
    found = p_of_interval(Interval(mean=0.3, low=0.1, high=0.5))
    assert found == pytest.approx(2 * norm.sf(1.5 * 1.959964), rel=1e-4)


@pytest.mark.parametrize("prompts", range(1, 9))
def test_the_least_p_value_is_that_of_prompts_that_all_moved_one_way(prompts):
    assert least_p(prompts) == pytest.approx(sign_flip_p_value(np.full(prompts, 0.25)))


def test_few_prompts_cannot_tell_whatever_their_interval_says():
    assert verdict(True, 0.001, 5) == "cannot be told: 5 prompts differ, p cannot go below 0.0625"
    assert verdict(True, 0.001, 1) == "cannot be told: 1 prompt differs, p cannot go below 1"
    assert verdict(True, 0.04, 6) == "resolved"
    assert verdict(True, 0.06, 6) == "resolved, not after Holm"
    assert verdict(True, None, 6) == "resolved"
    assert verdict(False, 0.001, 60) == verdict(False, 0.001, 2) == "not resolved"


def test_every_row_of_a_comparison_has_a_verdict():
    def verdicts(correct):
        return [
            ImageVerdict(prompt_id=p, sample_id=i, tag=tag, correct=correct(p), reason="")
            for p, tag in enumerate(["single_object"] * 5 + ["colors"] * 30)
            for i in range(4)
        ]

    found = compare_verdicts(verdicts(lambda p: True), verdicts(lambda p: p >= 5 and p % 2 == 0))
    assert found.tasks["single_object"].resolved  # its interval by itself leaves out 0
    assert found.tasks["single_object"].verdict.startswith("cannot be told: 5 prompts differ")
    assert found.tasks["colors"].verdict == found.overall.verdict == "resolved"
    rows = [row for row in as_markdown(found).splitlines() if row.startswith("| ")][1:]
    assert len(rows) == 3 and all(row.split("|")[-2].strip() for row in rows)
