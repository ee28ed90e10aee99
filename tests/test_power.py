"""How many seeds and prompts resolve a difference, on simulated verdicts of known variances."""

from __future__ import annotations

import numpy as np
import pytest

from evals.report.training_seeds import difference_over
from evals.stats import PromptCounts
from evals.verdicts import Counts
from scripts.studies.power import Components, components, seeds_for

TASKS = ("colors", "counting")


def simulated(
    rng: np.random.Generator, seeds: int, prompts: int, lead: float, training: float, prompt: float
) -> list[tuple[Counts, Counts]]:
    """Pairs whose difference has these deviations over trainings and over prompts; 4 images."""
    by_prompt = {task: rng.normal(0, prompt, prompts) for task in TASKS}
    pairs = []
    for _ in range(seeds):
        shift = lead + rng.normal(0, training)
        ours, theirs = {}, {}
        for task in TASKS:
            chance = np.clip(0.5 + shift + by_prompt[task], 0, 1)
            images = np.full(prompts, 4)
            ours[task] = PromptCounts(rng.binomial(4, chance), images)
            theirs[task] = PromptCounts(rng.binomial(4, 0.5, prompts), images)
        pairs.append((ours, theirs))
    return pairs


def test_components_are_found_again() -> None:
    rng = np.random.default_rng(0)
    every = [components(simulated(rng, 6, 30, 0.1, 0.06, 0.15)) for _ in range(400)]
    assert np.mean([c.mean for c in every]) == pytest.approx(0.1, abs=0.015)
    assert np.mean([c.training for c in every]) == pytest.approx(0.06**2, rel=0.1)
    assert np.mean([c.prompt for c in every]) == pytest.approx(0.15**2 / 60, rel=0.1)
    # two binomials of four images each
    chance = 0.25 / 4 + (0.25 - 0.1**2 - 0.15**2 - 0.06**2) / 4
    assert np.mean([c.rest for c in every]) == pytest.approx(chance / 60, rel=0.1)


def test_a_difference_of_that_size_is_resolved_so_often() -> None:
    """By the interval that reports have."""
    rng = np.random.default_rng(1)
    truth = components(simulated(rng, 200, 400, 0.0, 0.03, 0.1))
    size = Components(4, 60, truth.training, 0.1**2 / 60, truth.rest * 800 / 60, 0.0)
    least = size.least(4, 60)
    resolved = 0
    for _ in range(200):
        interval = difference_over(simulated(rng, 4, 30, least, 0.03, 0.1))
        resolved += interval.low > 0
    assert 0.7 < resolved / 200 < 0.97


def test_more_of_either_resolves_less() -> None:
    found = Components(5, 66, 0.01**2, 0.01**2, 0.02**2, 0.0)
    assert found.least(3, 66) > found.least(5, 66) > found.least(5, 232)
    fewest = seeds_for(found, 0.05, 66)
    assert fewest is not None
    assert found.least(fewest, 66) <= 0.05 < found.least(fewest - 1, 66)
    assert seeds_for(Components(5, 66, 0.0, 0.1, 0.0, 0.0), 0.03, 66) is None


def test_one_training_has_no_spread() -> None:
    with pytest.raises(ValueError, match="two training seeds"):
        components(simulated(np.random.default_rng(0), 1, 5, 0.0, 0.0, 0.0))
