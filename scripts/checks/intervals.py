"""Coverage of the 95% intervals, by simulation; writes reports/checks/intervals.json.

Images of a prompt are drawn with a given correlation: independent at 0, equal at 1, in between
either from a beta-binomial ("beta") or by copying the prompt's common draw ("copy"). The number of
prompts is that of tasks of geneval@1 (80, 100) and of the shapes suite (6 to 106).

A cell is "inside" where the coverage is between 93% and 97%, "forced" where counts are so few that
no rule could be, else "outside". Forced are

- a share, where no range of the number of correct images has a probability between 93% and 97%
  (enumerated exactly: an interval that does not shrink as the number grows covers such a range);
- an equality of two models, where at most 4 prompts differ in more than 4/7 of the samples: of k
  differing prompts all favour the same model with probability 2 / 2^k under equality, which is
  12.5% at 4, so that an interval with an error of at most 7% whatever k may not leave out 0 below
  5, and covers 0 with a probability of at least 4/7 + 3/7 x 0.93 = 97%.

    python -m scripts.checks.intervals [--repeats 4000]
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as distributions

from evals.base import Interval
from evals.stats import (
    PairedCounts,
    PromptCounts,
    overall_interval,
    paired_difference,
    score_interval,
    task_interval,
)
from selfe.files import write_atomically
from selfe.provenance import provenance

IMAGES = 4
BAND = (0.93, 0.97)
RATES = (0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99)
PAIRS = tuple((r, r) for r in RATES) + ((0.05, 0.02), (0.1, 0.05), (0.5, 0.3), (0.98, 0.9))
CORRELATIONS = ((0.0, "beta"), (0.5, "beta"), (0.5, "copy"), (1.0, "beta"))
TASK_PROMPTS = (100, 80, 33, 12, 6)
PAIR_PROMPTS = (100, 80, 33)
SUITES: Mapping[str, tuple[int, ...]] = {
    "geneval@1": (80, 99, 80, 94, 100, 100),
    "shapes@1": (6, 19, 12, 33, 56, 106),
}
MIXED_RATES = (0.98, 0.6, 0.5, 0.8, 0.1, 0.3)
HELD_AT_MOST = 4
"""Differing prompts up to which 0 may not be left out."""


@dataclass(frozen=True)
class Images:
    """How the images of a prompt hang together."""

    correlation: float
    kind: str

    def draw(self, rate: float, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Correct images of IMAGES for each of `size` prompts."""
        if self.correlation == 0:
            return rng.binomial(IMAGES, rate, size=size)
        if self.correlation == 1:
            return IMAGES * rng.binomial(1, rate, size=size)
        if self.kind == "beta":
            spread = 1 / self.correlation - 1
            shares = rng.beta(rate * spread, (1 - rate) * spread, size=size)
            return rng.binomial(IMAGES, shares)
        common = rng.random((*size, 1)) < rate
        copied = rng.random((*size, IMAGES)) < math.sqrt(self.correlation)
        return np.where(copied, common, rng.random((*size, IMAGES)) < rate).sum(axis=-1)

    def probabilities(self, rate: float) -> np.ndarray:
        """(IMAGES + 1,) exact distribution of the correct images of one prompt."""
        k = np.arange(IMAGES + 1)
        if self.correlation == 0:
            return np.asarray(distributions.binom.pmf(k, IMAGES, rate))
        if self.correlation == 1:
            return np.where(k == 0, 1 - rate, np.where(k == IMAGES, rate, 0.0))
        if self.kind == "beta":
            spread = 1 / self.correlation - 1
            law = distributions.betabinom(IMAGES, rate * spread, (1 - rate) * spread)
            return np.asarray(law.pmf(k))
        copy = math.sqrt(self.correlation)
        chances = ((1 - rate, (1 - copy) * rate), (rate, copy + (1 - copy) * rate))
        return np.asarray(sum(w * distributions.binom.pmf(k, IMAGES, p) for w, p in chances))


def _counts(correct: np.ndarray) -> PromptCounts:
    return PromptCounts(correct, np.full(len(correct), IMAGES))


def _summary(intervals: list[Interval], truth: float) -> dict[str, float]:
    hits = [i.low <= truth + 1e-12 and truth - 1e-12 <= i.high for i in intervals]
    return {
        "coverage": float(np.mean(hits)),
        "mean_width": float(np.mean([i.high - i.low for i in intervals])),
    }


def attainable(total: np.ndarray, target: float = 0.95) -> float:
    """Probability nearest to `target` of a range of outcomes that holds the likeliest one.

    Args:
        total: (n,) probabilities of the outcomes in order.
    """
    cumulative = np.concatenate([[0.0], np.cumsum(total)])
    mode = int(total.argmax())
    ranges = cumulative[None, mode + 1 :] - cumulative[: mode + 1, None]
    return float(ranges.flat[np.abs(ranges - target).argmin()])


def task_cell(
    prompts: int, rate: float, images: Images, repeats: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Coverage of a task's interval; what a rule could attain; what knowing the correlation would
    give."""
    samples = images.draw(rate, (repeats, prompts), rng)
    found = _summary([task_interval(_counts(row)) for row in samples], rate)
    total = np.ones(1)
    for _ in range(prompts):
        total = np.convolve(total, images.probabilities(rate))
    effect = 1 + (IMAGES - 1) * images.correlation
    known = [
        score_interval(hits / (prompts * IMAGES), prompts * IMAGES / effect)
        for hits in range(len(total))
    ]
    covered = np.array([i.low <= rate <= i.high for i in known])
    best = attainable(total)
    return {
        **found,
        "coverage_attainable": best,
        "coverage_at_known_correlation": float(total @ covered),
        "forced": not BAND[0] <= best <= BAND[1],
    }


def overall_cell(
    suite: str, rate: float | None, images: Images, repeats: int, rng: np.random.Generator
) -> dict[str, Any]:
    """The same for the mean of a suite's tasks; without a rate, tasks of very different ones."""
    sizes = SUITES[suite]
    rates = MIXED_RATES if rate is None else (rate,) * len(sizes)
    samples = [images.draw(r, (repeats, n), rng) for n, r in zip(sizes, rates, strict=True)]
    intervals = [
        overall_interval({str(task): _counts(row) for task, row in enumerate(rows)})
        for rows in zip(*samples, strict=True)
    ]
    return {**_summary(intervals, float(np.mean(rates))), "forced": False}


def difference_cell(
    prompts: int,
    rates: tuple[float, float],
    images: Images,
    repeats: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The same for a paired difference; of equal rates, half of the prompts of B repeat A's."""
    a, b = (images.draw(rate, (repeats, prompts), rng) for rate in rates)
    equal = rates[0] == rates[1]
    if equal:
        b = np.where(rng.random(b.shape) < 0.5, a, b)
    intervals = [
        paired_difference({"x": PairedCounts(_counts(x), _counts(y))}, test=False).interval
        for x, y in zip(a, b, strict=True)
    ]
    same = float(images.probabilities(rates[0]) @ images.probabilities(rates[1]))
    differ = (1 - same) * (0.5 if equal else 1.0)
    few = float(distributions.binom.cdf(HELD_AT_MOST, prompts, differ))
    return {
        **_summary(intervals, rates[0] - rates[1]),
        "mean_prompts_differing": differ * prompts,
        "forced": equal and few + (1 - few) * BAND[0] > BAND[1],
    }


def verdict(row: Mapping[str, Any]) -> str:
    if BAND[0] <= row["coverage"] <= BAND[1]:
        return "inside"
    return "forced" if row["forced"] else "outside"


def cells(repeats: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Every simulated situation."""
    for number, (correlation, kind) in enumerate(CORRELATIONS):
        images = Images(correlation, kind)
        facts: dict[str, Any] = {"correlation": correlation, "kind": kind}
        for prompts in TASK_PROMPTS:
            for rate in RATES:
                rng = np.random.default_rng([seed, number, prompts, round(1000 * rate)])
                row = task_cell(prompts, rate, images, repeats, rng)
                yield {"what": "task", "prompts": prompts, "rate": rate, **facts, **row}
        for suite in SUITES:
            for rate in (None, *RATES):
                rng = np.random.default_rng([seed, number, len(suite), round(1000 * (rate or 0))])
                row = overall_cell(suite, rate, images, repeats, rng)
                yield {"what": "overall", "prompts": suite, "rate": rate or "mixed", **facts, **row}
        for prompts in PAIR_PROMPTS:
            for pair in PAIRS:
                rng = np.random.default_rng(
                    [seed, number, prompts, *(round(1000 * r) for r in pair)]
                )
                row = difference_cell(prompts, pair, images, repeats, rng)
                yield {"what": "difference", "prompts": prompts, "rate": list(pair), **facts, **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("reports/checks/intervals.json"))
    args = parser.parse_args()
    stamp = provenance()  # of the code that runs, whatever is edited meanwhile
    rows = []
    print("| what | prompts | rate | correlation | coverage | mean width | |")
    print("|---|---|---|---|---|---|---|")
    for row in cells(args.repeats):
        row["verdict"] = verdict(row)
        rows.append({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
        print(
            f"| {row['what']} | {row['prompts']} | {row['rate']} | {row['correlation']} "
            f"({row['kind']}) | {row['coverage']:.3f} | {row['mean_width']:.3f} "
            f"| {row['verdict']} |",
            flush=True,
        )
    counted = Counter((row["what"], row["verdict"]) for row in rows)
    summary = {f"{what}, {name}": number for (what, name), number in sorted(counted.items())}
    print("\n" + "\n".join(f"{name}: {number}" for name, number in summary.items()))
    found = {
        "command": f"python -m scripts.checks.intervals --repeats {args.repeats}",
        "seed": 0,
        **stamp,
        "repeats": args.repeats,
        "images_per_prompt": IMAGES,
        "band": BAND,
        "reading": (__doc__ or "").split("\n\n")[2:4],
        "summary": summary,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
