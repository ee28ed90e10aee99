"""Coverage of the interval over training seeds and prompts; reports/checks/training_intervals.json.

Two methods, equal in the long run, are trained several times each. Whether an image is correct is
drawn from a logistic model: a prompt's difficulty (standard deviation 1), how it suits a method
(0.5), and what a training seed adds to all prompts alike (`sd`). Three intervals of the difference
are asked whether they hold 0: over prompts alone, as Table 2 has it; Student's over trainings
alone, which takes the prompts as they are; and both together (`evals.over_trainings`).

    python -m scripts.checks.training_intervals [--repeats 4000]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from evals.base import Interval
from evals.over_trainings import over_trainings
from evals.stats import (
    PairedCounts,
    PromptCounts,
    paired_difference,
)
from selfe.files import write_atomically
from selfe.provenance import provenance

PROMPTS, IMAGES = 66, 4
TRAININGS = (2, 3, 5)
SPREADS = (0.0, 0.1, 0.2, 0.4)


def intervals(trainings: int, sd: float, rng: np.random.Generator) -> dict[str, Interval]:
    """One simulated comparison; the true difference is 0.

    Args:
        sd: of a training's effect, on the logit.
    """
    difficulty = rng.normal(0, 1, PROMPTS)
    correct = []
    for _ in range(2):
        suits = rng.normal(0, 0.5, PROMPTS)
        logit = difficulty + suits + rng.normal(0, sd, (trainings, 1))
        correct.append(rng.binomial(IMAGES, 1 / (1 + np.exp(-logit))))
    shares = [c.mean(axis=1) / IMAGES for c in correct]
    deltas = (shares[0] - shares[1]).tolist()
    every = np.full(PROMPTS, trainings * IMAGES)
    pair = PairedCounts(*(PromptCounts(c.sum(axis=0), every) for c in correct))
    prompts = paired_difference({"x": pair}, test=False).interval
    mean = float(np.mean(deltas))
    return {
        "prompts": prompts,
        "trainings": over_trainings(deltas, Interval(mean=mean, low=mean, high=mean)),
        "both": over_trainings(deltas, prompts),
    }


def coverage(trainings: int, sd: float, repeats: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Share of simulated comparisons whose interval holds 0, and the mean width, by interval."""
    rng = np.random.default_rng([seed, trainings, round(1000 * sd)])
    found = [intervals(trainings, sd, rng) for _ in range(repeats)]
    return {
        name: {
            "coverage": float(np.mean([f[name].low <= 0 <= f[name].high for f in found])),
            "mean_width": float(np.mean([f[name].high - f[name].low for f in found])),
        }
        for name in found[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("reports/checks/training_intervals.json"))
    args = parser.parse_args()
    stamp = provenance()  # of the code that runs, whatever is edited meanwhile
    rows = []
    print("| trainings | sd | prompts alone | trainings alone | both | width of both |")
    print("|---|---|---|---|---|---|")
    for trainings in TRAININGS:
        for sd in SPREADS:
            row = coverage(trainings, sd, args.repeats)
            rows.append({"trainings": trainings, "sd": sd, **row})
            covered = " | ".join(f"{found['coverage']:.3f}" for found in row.values())
            print(
                f"| {trainings} | {sd} | {covered} | {row['both']['mean_width']:.3f} |", flush=True
            )
    found = {
        "command": f"python -m scripts.checks.training_intervals --repeats {args.repeats}",
        "seed": 0,
        **stamp,
        "repeats": args.repeats,
        "prompts": PROMPTS,
        "images_per_prompt": IMAGES,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
