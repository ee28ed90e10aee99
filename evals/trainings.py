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

from evals.base import Interval
from evals.collection import ResultFolder, require_one_protocol
from evals.cut_pages import FIXED_HEADER, fixed_cells
from evals.cuts import row_of
from evals.markup import is_missing, number, signed, to_markdown, with_interval
from evals.pairing import counts_by_task, overall_difference, together
from evals.stats import over_trainings, overall_interval
from evals.table_rows import choose, configuration_of, training_of
from evals.tables import NOT_RESOLVED, REFERENCE, RESOLVED

WORDS = (
    "Overall score of one configuration trained with several seeds, its mean [95% interval] and "
    "the standard deviation between trainings, and the difference to Self-E, paired over prompts "
    "and over training seeds. The intervals hold for other training seeds and other prompts alike: "
    "Student's interval over trainings and the one over prompts, added in quadrature. The last "
    "column counts the seeds at which the difference is resolved over prompts alone, as Table 2 "
    "has it for one training."
)

BySeed = Mapping[int, ResultFolder]
"""Training seed -> result, of one configuration at one number of steps."""


class Configuration(NamedTuple):
    """What trainings share whose mean may be taken.

    Attributes:
        recipe, method, variant, iterations, steps: what a row is of.
        changed: whether the settings are not the recipe's, and the variant does not name them.
        settings: of `evals.table_rows.configuration_of`.
        sampling: how images were drawn, as text.
    """

    recipe: str
    method: str
    variant: str
    iterations: int
    steps: int
    changed: bool
    settings: tuple[str, str]
    sampling: str


_COLUMNS = (
    "recipe", "changed", "settings", "method", "variant", "iterations", "training_seed", "steps",
    "nfe", "guidance", "eta", "sampler", "overall", "overall_low", "overall_high", "sd",
    "delta_selfe", "delta_low", "delta_high", "delta_seeds", "resolved", "resolved_over_prompts",
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
    rows = []
    for configuration in sorted(found):
        by_seed = found[configuration]
        rows.append(
            row_of(by_seed[min(by_seed)])
            | {"recipe": configuration.recipe, "changed": configuration.changed}
            | {"settings": configuration.settings[0][:8]}
            | {"training_seed": _words(by_seed)}
            | _mean(by_seed)
            | _against(configuration, found)
        )
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.astype({name: "Int64" for name in ("iterations", "steps", "nfe")})


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
    """Of those with equal recipe, method, variant, iterations and steps the recipe's own, where
    there is none the only one: what others are compared with, and figures draw."""
    places: dict[tuple[Any, ...], list[Configuration]] = {}
    for configuration in found:
        places.setdefault(configuration[:5], []).append(configuration)
    candidates = ([c for c in every if not c.changed] or every for every in places.values())
    return [first for first, *more in candidates if not more]


def mean_interval(by_seed: BySeed) -> Interval:
    """Mean of the overall scores, for other training seeds and other prompts."""
    every = together([folder.verdicts for folder in by_seed.values()])
    interval = over_trainings(_scores(by_seed), overall_interval(counts_by_task(every)))
    return Interval(mean=interval.mean, low=max(0.0, interval.low), high=min(1.0, interval.high))


def _scores(by_seed: BySeed) -> list[float]:
    scores = [folder.result.scores.overall for folder in by_seed.values()]
    return [score.mean for score in scores if score is not None]


def _mean(by_seed: BySeed) -> dict[str, Any]:
    interval = mean_interval(by_seed)
    return {
        "overall": interval.mean,
        "overall_low": interval.low,
        "overall_high": interval.high,
        "sd": float(np.std(_scores(by_seed), ddof=1)),
    }


def _against(configuration: Configuration, found: Mapping[Configuration, BySeed]) -> dict[str, Any]:
    """The difference to Self-E: to the recipe's own where there is one, else to the only one."""
    place = (configuration.recipe, "selfe", "", configuration.iterations, configuration.steps)
    every = [c for c in found if c[:5] == place]
    reference = usual(every)
    if every and not reference:
        return {"resolved": "several Self-E"}
    if configuration in reference:
        return {"resolved": REFERENCE}
    by_seed, self_e = found[configuration], found[reference[0]] if reference else {}
    seeds = sorted(by_seed.keys() & self_e.keys())
    if len(seeds) < 2:
        return {"resolved": "no Self-E of two of these seeds"}
    pairs = [(by_seed[seed].verdicts, self_e[seed].verdicts) for seed in seeds]
    deltas = [overall_difference(*pair) for pair in pairs]
    merged = overall_difference(*(together(side) for side in zip(*pairs, strict=True)))
    whole = over_trainings([delta.interval.mean for delta in deltas], merged.interval)
    return {
        "delta_selfe": whole.mean,
        "delta_low": max(-1.0, whole.low),
        "delta_high": min(1.0, whole.high),
        "delta_seeds": _words(seeds),
        "resolved": RESOLVED if whole.low > 0 or whole.high < 0 else NOT_RESOLVED,
        "resolved_over_prompts": f"{sum(delta.resolved for delta in deltas)} of {len(seeds)}",
    }


def trainings_statements(frame: pd.DataFrame) -> list[str]:
    """The methods at every number of steps in words: Self-E, then the others with their difference
    to it, best first."""
    texts = []
    for (recipe, iterations, steps), rows in frame.groupby(["recipe", "iterations", "steps"]):
        reference = rows[rows["resolved"] == REFERENCE]
        others = rows[rows["delta_selfe"].notna()].sort_values("delta_selfe", ascending=False)
        if reference.empty or others.empty:
            continue
        first = reference.iloc[0]
        words = []
        for _, row in others.iterrows():
            name = " ".join(filter(None, (row["method"], row["variant"])))
            name += ", settings changed," * row["changed"]
            seeds = ""
            if row["training_seed"] != first["training_seed"]:
                seeds = (
                    f", mean of seeds {row['training_seed']}, difference of {row['delta_seeds']}"
                )
            words.append(
                f"{name} {number(row['overall'])} ({_difference(row)}, {row['resolved']}{seeds})"
            )
        texts.append(
            f"At {steps} step{'s' * (steps != 1)}, mean over training seeds "
            f"{first['training_seed']} ({recipe}, {iterations} iterations): {first['method']} "
            f"{number(first['overall'])}, {', '.join(words)}."
        )
    return texts


def _difference(row: pd.Series) -> str:
    if is_missing(row["delta_selfe"]):
        return ""
    ends = f"[{signed(row['delta_low'])}, {signed(row['delta_high'])}]"
    return f"{signed(row['delta_selfe'])} {ends}"


def _fewer_seeds(row: pd.Series) -> str:
    """Seeds of a difference, where Self-E does not have all of the row's."""
    if is_missing(row["delta_seeds"]) or row["delta_seeds"] == row["training_seed"]:
        return ""
    return f" (seeds {row['delta_seeds']})"


def trainings_markdown(frame: pd.DataFrame) -> str:
    """A row per configuration and number of steps."""
    rows = []
    for _, row in frame.iterrows():
        rows.append(
            [
                f"{row['recipe']}, changed" if row["changed"] else row["recipe"],
                *fixed_cells(row),
                with_interval(row["overall"], row["overall_low"], row["overall_high"]),
                number(row["sd"]),
                _difference(row) + _fewer_seeds(row),
                *["" if is_missing(row[n]) else row[n] for n in _COLUMNS[-2:]],
            ]
        )
    header = ["Mean", "SD", "Minus Self-E", "", "Seeds that resolve it"]
    return to_markdown(["Recipe", *FIXED_HEADER, *header], rows)
