"""The same configuration trained with several seeds: does a difference hold for another one?

An interval over prompts says what other prompts would have given the same weights. Another training
seed gives other weights; how far they differ shows only where a configuration was trained more than
once (`train --seed 1`, or seeds given to scripts/quickstart.sh).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from evals.base import TASKS, Interval
from evals.multiplicity import holm, verdict
from evals.over_trainings import over_trainings, p_over_trainings
from evals.report.groups import require_one_protocol
from evals.report.model_columns import row_of
from evals.report.reference import REFERENCE_METHOD
from evals.report.result_folders import ResultFolder
from evals.report.rows import choose, configuration_of, training_of
from evals.report.table2 import REFERENCE
from evals.stats import overall_interval
from evals.verdicts import Counts, difference_of_counts, together

BySeed = Mapping[int, ResultFolder]
"""Training seed -> result, of one configuration at one number of steps."""


class Configuration(NamedTuple):
    """What trainings share whose mean may be taken.

    Attributes:
        recipe, method, variant, iterations, steps: what a row is of.
        changed: whether the settings are not the recipe's, and the variant does not name them.
        settings: of `evals.report.rows.configuration_of`.
        sampling: how images were drawn, as text.
    """

    recipe: str
    method: str
    variant: str
    iterations: int
    steps: int
    changed: bool
    settings: tuple[str, str, str]
    sampling: str


_ENDS = ("", "_low", "_high")
_DELTA_ENDS = ("_delta", "_delta_low", "_delta_high")
DELTA_P = "_delta_p"
_COLUMNS = (
    "recipe", "changed", "settings", "method", "variant", "iterations", "training_seed", "steps",
    "nfe", "guidance", "eta", "sampler", "overall", "overall_low", "overall_high", "sd",
    "delta_selfe", "delta_low", "delta_high", "delta_seeds", "delta_same_variant", "p_value",
    "p_holm", "resolved", "resolved_over_prompts",
    *(task + part for task in TASKS for part in (*_ENDS, *_DELTA_ENDS, DELTA_P)),
)  # fmt: skip


def trainings_frame(folders: Sequence[ResultFolder]) -> pd.DataFrame:
    """A row per configuration and number of steps with two training seeds or more.

    Forks, incomplete results and results that do not state their configuration are left out; one
    result stands for every training, chosen as in Table 2.

    Raises:
        ValueError: if the results were not measured under one protocol.
    """
    require_one_protocol(folders)
    found = repeated(folders)
    counts = {configuration: _counts(by_seed) for configuration, by_seed in found.items()}
    rows = []
    for configuration in sorted(found):
        by_seed, reference = found[configuration], self_e_for(configuration, found)
        ours = counts[configuration]
        rows.append(
            row_of(by_seed[min(by_seed)])
            | {"recipe": configuration.recipe, "changed": configuration.changed}
            | {"settings": configuration.settings[0][:8]}
            | {"training_seed": _words(by_seed)}
            | _mean(ours)
            | _task_columns(ours)
            | (
                {"resolved": reference}
                if isinstance(reference, str)
                else _against(ours, counts[reference])
                | {"delta_same_variant": reference.variant != ""}
            )
        )
    frame = pd.DataFrame(_told_together(rows), columns=list(_COLUMNS))
    return frame.astype({name: "Int64" for name in ("iterations", "steps", "nfe")})


def _told_together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the verdicts of their overall differences, adjusted for the number of them."""
    told = [row for row in rows if "p_value" in row]
    for row, adjusted in zip(told, holm([row["p_value"] for row in told]), strict=True):
        row["p_holm"] = adjusted
        row["resolved"] = verdict(leaves_out_0(row["delta_low"], row["delta_high"]), adjusted)
    return rows


def _words(seeds: Iterable[int]) -> str:
    return " ".join(map(str, sorted(seeds)))


def repeated(folders: Iterable[ResultFolder]) -> dict[Configuration, BySeed]:
    """Configurations with two training seeds or more, as `trainings_frame` has them."""
    trainings: dict[tuple[Any, ...], list[ResultFolder]] = {}
    for folder in folders:
        scores = folder.result.scores
        if configuration_of(folder) and scores.overall is not None and not scores.partial:
            key = (training_of(folder), folder.result.model.iterations)
            trainings.setdefault(key, []).append(folder)
    rows: dict[Configuration, dict[int, ResultFolder]] = {}
    for members in trainings.values():
        for (method, variant, iterations, steps), folder in choose(members, []).items():
            facts, settings = folder.result.model.training, configuration_of(folder)
            assert settings is not None
            assert iterations is not None
            configuration = Configuration(
                folder.recipe,
                method,
                variant,
                iterations,
                steps,
                folder.changed != () and not folder.told_apart,
                settings,
                json.dumps(folder.result.sampling.settings, sort_keys=True),
            )
            rows.setdefault(configuration, {})[facts.get("seed", 0)] = folder
    return {row: by_seed for row, by_seed in rows.items() if len(by_seed) > 1}


def usual(found: Iterable[Configuration]) -> list[Configuration]:
    """One configuration for each recipe, method, variant, iterations and steps: the one with the
    recipe's own settings, else the only one there is. Figures draw these."""
    places: dict[tuple[Any, ...], list[Configuration]] = {}
    for configuration in found:
        places.setdefault(configuration[:5], []).append(configuration)
    candidates = ([c for c in every if not c.changed] or every for every in places.values())
    return [first for first, *more in candidates if not more]


def mean_interval(by_seed: BySeed) -> Interval:
    """Mean of the overall scores, for other training seeds and other prompts."""
    return mean_over(list(_counts(by_seed).values()))


def task_intervals(by_seed: BySeed) -> dict[str, Interval]:
    """The same of every task by itself."""
    return _task_means(list(_counts(by_seed).values()))


def _task_means(trainings: Sequence[Counts]) -> dict[str, Interval]:
    return {t: mean_over([only_task(t, counts) for counts in trainings]) for t in trainings[0]}


def _counts(by_seed: BySeed) -> dict[int, Counts]:
    return {seed: folder.counts for seed, folder in by_seed.items()}


def _scores(trainings: Iterable[Counts]) -> list[float]:
    """Mean of the task means, of every training."""
    return [float(np.mean([task.share for task in tasks.values()])) for tasks in trainings]


def mean_over(trainings: Sequence[Counts]) -> Interval:
    """Mean of the overall scores, for other training seeds and other prompts."""
    interval = over_trainings(_scores(trainings), overall_interval(together(trainings)))
    return Interval(mean=interval.mean, low=max(0.0, interval.low), high=min(1.0, interval.high))


def _mean(by_seed: Mapping[int, Counts]) -> dict[str, Any]:
    trainings = list(by_seed.values())
    interval = mean_over(trainings)
    return {
        "overall": interval.mean,
        "overall_low": interval.low,
        "overall_high": interval.high,
        "sd": float(np.std(_scores(trainings), ddof=1)),
    }


def self_e_for(
    configuration: Configuration, found: Mapping[Configuration, BySeed]
) -> Configuration | str:
    """What a configuration is compared with, or why there is nothing to compare.

    Another method with a variant, which changed settings are as well, is compared with the Self-E
    of that variant where there is one. All others are with the recipe's own Self-E where there is
    one, else the only one.
    """
    recipe, method, variant, iterations, steps = configuration[:5]
    for its_variant in dict.fromkeys([variant, ""]):
        place = (recipe, REFERENCE_METHOD, its_variant, iterations, steps)
        if its_variant and place == configuration[:5]:
            continue  # a variant of Self-E is compared with Self-E
        every = [c for c in found if c[:5] == place]
        reference = usual(every)
        if every and not reference:
            return "several Self-E"
        if configuration in reference:
            return REFERENCE
        if reference and len(found[configuration].keys() & found[reference[0]].keys()) > 1:
            return reference[0]
    return "no Self-E of two of these seeds"


def _against(by_seed: Mapping[int, Counts], self_e: Mapping[int, Counts]) -> dict[str, Any]:
    """Differences to Self-E, of the overall scores and of every task by itself."""
    seeds = sorted(by_seed.keys() & self_e.keys())
    pairs = [(by_seed[seed], self_e[seed]) for seed in seeds]
    whole, p_value = tested_over(pairs)
    alone = [difference_of_counts(*pair, test=False) for pair in pairs]
    columns = {
        "delta_selfe": whole.mean,
        "delta_low": whole.low,
        "delta_high": whole.high,
        "delta_seeds": _words(seeds),
        "p_value": p_value,
        "resolved_over_prompts": f"{sum(delta.resolved for delta in alone)} of {len(seeds)}",
    }
    for task in by_seed[seeds[0]]:
        delta, p_value = tested_over(
            [(only_task(task, ours), only_task(task, its)) for ours, its in pairs]
        )
        columns |= _named(task, _DELTA_ENDS, delta) | {task + DELTA_P: p_value}
    return columns


def _task_columns(by_seed: Mapping[int, Counts]) -> dict[str, float]:
    columns: dict[str, float] = {}
    for task, mean in _task_means(list(by_seed.values())).items():
        columns |= _named(task, _ENDS, mean)
    return columns


def _named(task: str, ends: Sequence[str], interval: Interval) -> dict[str, float]:
    values = (interval.mean, interval.low, interval.high)
    return {task + end: value for end, value in zip(ends, values, strict=True)}


def only_task(task: str, counts: Counts) -> Counts:
    return {task: counts[task]}


class OverSeeds(NamedTuple):
    """A mean difference over training seeds: its 95% interval, and the p-value of 0."""

    interval: Interval
    p_value: float

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out 0."""
        return leaves_out_0(self.interval.low, self.interval.high)


def tested_over(pairs: Sequence[tuple[Counts, Counts]]) -> OverSeeds:
    """Mean difference for other training seeds and other prompts, tested against 0."""
    ours, its = ([pair[side] for pair in pairs] for side in (0, 1))
    deltas = [a - b for a, b in zip(_scores(ours), _scores(its), strict=True)]
    merged = difference_of_counts(together(ours), together(its), test=False)
    whole = over_trainings(deltas, merged.interval)
    interval = Interval(mean=whole.mean, low=max(-1.0, whole.low), high=min(1.0, whole.high))
    return OverSeeds(interval, p_over_trainings(deltas, merged.interval))


def difference_over(pairs: Sequence[tuple[Counts, Counts]]) -> Interval:
    """Mean difference for other training seeds and other prompts."""
    return tested_over(pairs).interval


def leaves_out_0(low: float, high: float) -> bool:
    return low > 0 or high < 0
