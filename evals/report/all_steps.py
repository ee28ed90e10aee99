"""One question per configuration: is it ahead of Self-E, all numbers of steps taken together?

A table of methods by steps asks as many questions as it has cells, and few trainings answer none of
them after the adjustment for their number. The mean over the steps asks one, with less noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evals.multiplicity import holm, verdict
from evals.report.groups import require_one_protocol
from evals.report.markup import number, signed, to_markdown
from evals.report.model_columns import row_of
from evals.report.result_folders import ResultFolder
from evals.report.training_seeds import (
    BySeed,
    Configuration,
    leaves_out_0,
    mean_over,
    repeated,
    self_e_for,
    tested_over,
)
from evals.verdicts import Counts, together

WORDS = (
    "The mean over all numbers of steps that a configuration and its Self-E were both scored at, "
    "and its difference to that Self-E with a 95% interval for other training seeds and other "
    "prompts alike: a prompt's images in all these steps count as more images of that prompt. One "
    'question for every configuration; "not after Holm" stands beside a difference that is '
    "resolved by itself, but not when all of this table are told together."
)
_COLUMNS = (
    "recipe", "changed", "settings", "method", "variant", "iterations", "all_steps", "seeds",
    "mean", "self_e", "delta", "delta_low", "delta_high", "p_value", "p_holm", "resolved",
)  # fmt: skip

Pairs = Mapping[int, tuple[BySeed, BySeed]]
"""Number of steps -> results of a configuration and of its Self-E."""


def all_steps_frame(folders: Sequence[ResultFolder]) -> pd.DataFrame:
    """A row per configuration that shares two numbers of steps and two training seeds with the
    Self-E it is compared with.

    Raises:
        ValueError: if the results were not measured under one protocol.
    """
    require_one_protocol(folders)
    found = repeated(folders)
    by_training: dict[tuple[Any, ...], dict[int, tuple[BySeed, BySeed]]] = {}
    for configuration in sorted(found):
        reference = self_e_for(configuration, found)
        if isinstance(reference, Configuration):
            pairs = by_training.setdefault(_training(configuration), {})
            # drawn in several ways, the first: a table's row has one
            pairs.setdefault(configuration.steps, (found[configuration], found[reference]))
    rows = [row for pairs in by_training.values() if (row := _row(pairs))]
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        alone = leaves_out_0(row["delta_low"], row["delta_high"])
        row |= {"p_holm": adjusted, "resolved": verdict(alone, adjusted)}
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.astype({"iterations": "Int64"})


def _training(configuration: Configuration) -> tuple[Any, ...]:
    """What configurations share that differ in how they are drawn alone."""
    c = configuration
    return (c.recipe, c.method, c.variant, c.iterations, c.changed, c.settings)


def _row(pairs: Pairs) -> dict[str, Any]:
    """{} where too little is shared."""
    seeds = set.intersection(*(set(ours) & set(its) for ours, its in pairs.values()))
    if len(pairs) < 2 or len(seeds) < 2:
        return {}
    ours, its = (
        [_all_steps([pair[side][seed] for pair in pairs.values()]) for seed in sorted(seeds)]
        for side in (0, 1)
    )
    found = tested_over(list(zip(ours, its, strict=True)))
    first = next(iter(pairs.values()))[0][min(seeds)]
    facts = row_of(first)
    return {
        "recipe": first.recipe,
        "changed": first.changed != () and not first.told_apart,
        "settings": str(first.result.model.training.get("seedless_digest", ""))[:8],
        **{name: facts[name] for name in ("method", "variant", "iterations")},
        "all_steps": " ".join(map(str, sorted(pairs))),
        "seeds": " ".join(map(str, sorted(seeds))),
        "mean": mean_over(ours).mean,
        "self_e": mean_over(its).mean,
        "delta": found.interval.mean,
        "delta_low": found.interval.low,
        "delta_high": found.interval.high,
        "p_value": found.p_value,
    }


def _all_steps(folders: Sequence[ResultFolder]) -> Counts:
    return together([folder.counts for folder in folders])


def all_steps_markdown(frame: pd.DataFrame) -> str:
    header = ["Recipe", "Method", "Variant", "Iterations", "Steps", "Training seeds", "Mean",
              "Self-E", "Minus Self-E", "p", "after Holm", ""]  # fmt: skip
    rows = []
    for row in frame.to_dict("records"):
        span = f"[{signed(row['delta_low'])}, {signed(row['delta_high'])}]"
        rows.append(
            [
                f"{row['recipe']}, changed" if row["changed"] else row["recipe"],
                *(str(row[name]) for name in ("method", "variant", "iterations")),
                ", ".join(str(row["all_steps"]).split()),
                ", ".join(str(row["seeds"]).split()),
                number(row["mean"]),
                number(row["self_e"]),
                f"{signed(row['delta'])} {span}",
                number(row["p_value"], 4),
                number(row["p_holm"], 4),
                row["resolved"],
            ]
        )
    return to_markdown(header, rows)
