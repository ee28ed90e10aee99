"""Coverage of the 95% intervals, by simulation; writes reports/bench/intervals.json.

Images of a prompt are drawn with a given correlation: independent at 0, equal at 1, in between
either from a beta-binomial ("beta") or by copying the prompt's common draw ("copy").

    python scripts/check_intervals.py [--repeats 4000]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from evals.base import Interval
from evals.files import write_atomically
from evals.stats import (
    PairedCounts,
    PromptCounts,
    overall_interval,
    paired_difference,
    task_interval,
)

IMAGES = 4
RATES = (0.02, 0.1, 0.5, 0.9, 0.98)
MIXED_RATES = (0.98, 0.6, 0.5, 0.8, 0.1, 0.3)
CORRELATIONS = ((0.0, "beta"), (0.5, "beta"), (0.5, "copy"), (1.0, "beta"))
TASK_PROMPTS = (100, 80, 6)


def correct_images(
    prompts: int, rate: float, correlation: float, kind: str, rng: np.random.Generator
) -> np.ndarray:
    """(prompts,) correct images of IMAGES each."""
    if correlation == 0:
        return rng.binomial(IMAGES, rate, size=prompts)
    if correlation == 1:
        return IMAGES * rng.binomial(1, rate, size=prompts)
    if kind == "beta":
        spread = 1 / correlation - 1
        return rng.binomial(IMAGES, rng.beta(rate * spread, (1 - rate) * spread, size=prompts))
    common = rng.random((prompts, 1)) < rate
    copied = rng.random((prompts, IMAGES)) < math.sqrt(correlation)
    return np.where(copied, common, rng.random((prompts, IMAGES)) < rate).sum(axis=1)


def _counts(correct: np.ndarray) -> PromptCounts:
    return PromptCounts(correct, np.full(len(correct), IMAGES))


def draw_task(
    prompts: int, rate: float, correlation: float, kind: str, rng: np.random.Generator
) -> tuple[Interval, float]:
    """One simulated interval of a task, and the truth."""
    return task_interval(_counts(correct_images(prompts, rate, correlation, kind, rng))), rate


def draw_overall(
    prompts: int, rate: float | None, correlation: float, kind: str, rng: np.random.Generator
) -> tuple[Interval, float]:
    """The same for the mean of six tasks; without a rate, tasks of very different ones."""
    rates = MIXED_RATES if rate is None else (rate,) * 6
    tasks = {
        str(i): _counts(correct_images(prompts, r, correlation, kind, rng))
        for i, r in enumerate(rates)
    }
    return overall_interval(tasks), float(np.mean(rates))


def draw_difference(
    prompts: int, rate: float, correlation: float, kind: str, rng: np.random.Generator
) -> tuple[Interval, float]:
    """The same for a paired difference: half of the prompts of B repeat A's outcome."""
    a = correct_images(prompts, rate, correlation, kind, rng)
    b = correct_images(prompts, rate, correlation, kind, rng)
    b = np.where(rng.random(prompts) < 0.5, a, b)
    return paired_difference({"x": PairedCounts(_counts(a), _counts(b))}, test=False).interval, 0.0


DRAWS = {"task": draw_task, "overall": draw_overall, "difference": draw_difference}


def coverage(
    what: str,
    prompts: int,
    rate: float | None,
    correlation: float,
    kind: str,
    repeats: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Share of simulated intervals that hold the truth, and their mean width."""
    rng = np.random.default_rng([seed, prompts, int(1000 * (rate or 0)), int(10 * correlation)])
    hits, width = 0, 0.0
    for _ in range(repeats):
        interval, truth = DRAWS[what](prompts, rate, correlation, kind, rng)
        hits += interval.low <= truth <= interval.high
        width += interval.high - interval.low
    return {
        "what": what,
        "prompts": prompts,
        "images_per_prompt": IMAGES,
        "rate": rate if rate is not None else "mixed",
        "correlation": correlation,
        "kind": kind,
        "coverage": hits / repeats,
        "mean_width": width / repeats,
    }


def settings() -> Iterator[tuple[str, int, float | None, float, str]]:
    """Every simulated situation."""
    for correlation, kind in CORRELATIONS:
        for prompts in TASK_PROMPTS:
            for rate in RATES:
                yield "task", prompts, rate, correlation, kind
        for rate in (None, 0.02, 0.98):
            yield "overall", 92, rate, correlation, kind
        for rate in RATES:
            yield "difference", 100, rate, correlation, kind
            yield "difference", 6, rate, correlation, kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("reports/bench/intervals.json"))
    args = parser.parse_args()
    rows = []
    print("| what | prompts | rate | correlation | coverage | mean width |")
    print("|---|---|---|---|---|---|")
    for setting in settings():
        row = coverage(*setting, args.repeats)
        rows.append(row)
        print(
            f"| {row['what']} | {row['prompts']} | {row['rate']} | {row['correlation']} "
            f"({row['kind']}) | {row['coverage']:.3f} | {row['mean_width']:.3f} |",
            flush=True,
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found = {"repeats": args.repeats, "command": "python scripts/check_intervals.py", "rows": rows}
    write_atomically(args.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
