"""How many training seeds and prompts resolve a difference: from results of several seeds.

    python -m scripts.studies.power reports/studies/quickstart/results.tar.xz \
        reports/studies/shapes-8e-3/results.tar.xz --out reports/studies/headroom/power.md

For Self-E less Flow Matching at every number of steps, the variance of the mean difference over n
seeds and P prompts is s/n + p/P + r/(nP): s of trainings, p of prompts (over and above chance), r
of a prompt in a training with its four images. The three are estimated by analysis of variance from
the verdicts. A difference d is resolved with 80% chance if d is at least (t(0.975) + t(0.8))
standard errors, t with n - 1 degrees of freedom.
"""

from __future__ import annotations

import argparse
import math
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from evals.report.markup import to_markdown
from evals.report.result_folders import ResultFolder, collect
from evals.report.training_seeds import repeated, usual
from evals.verdicts import Counts
from scripts import command_line
from selfe.files import write_atomically

SEEDS = (2, 3, 4, 5, 8, 12)
MOST_SEEDS = 200
EXPLAINED = """\
How many trainings and prompts does it take to resolve Self-E's lead over Flow Matching? The error
of a mean difference has three parts: s of trainings, p of prompts, r of a prompt in one training.
Over n trainings and P prompts its variance is s / n + p / P + r / (nP). More trainings do not make
p / P smaller, so "over 200" stands where it is too large.
"""


@dataclass(frozen=True)
class Components:
    """Variances of a difference of overall scores.

    Attributes:
        seeds, prompts: of the results they were estimated from.
        training: s.
        prompt, rest: p and r, divided by `prompts`: what they add at as many prompts.
        mean: the difference itself.
    """

    seeds: int
    prompts: int
    training: float
    prompt: float
    rest: float
    mean: float

    def error(self, seeds: int, prompts: int) -> float:
        """Standard error of the mean difference."""
        share = self.prompts / prompts
        variance = self.training / seeds + share * (self.prompt + self.rest / seeds)
        return math.sqrt(variance)

    def least(self, seeds: int, prompts: int) -> float:
        """The smallest difference that is resolved with 80% chance."""
        share = self.prompts / prompts
        over_seeds = (
            student.ppf(0.975, seeds - 1) ** 2 * (self.training + share * self.rest) / seeds
        )
        over_prompts = norm.ppf(0.975) ** 2 * share * (self.prompt + self.rest / seeds)
        half = math.sqrt(over_seeds + over_prompts)
        return half + float(norm.ppf(0.8)) * self.error(seeds, prompts)


def components(pairs: Sequence[tuple[Counts, Counts]]) -> Components:
    """From the counts of correct images of two methods, a pair for every training seed.

    Raises:
        ValueError: for fewer than two seeds.
    """
    if len(pairs) < 2:
        raise ValueError("the variance of trainings needs two training seeds or more")
    by_seed, prompt, rest, prompts = [], 0.0, 0.0, 0
    tasks = list(pairs[0][0])
    for task in tasks:
        # (training seeds, prompts): difference of the shares of correct images
        d = np.array([a[task].correct / a[task].images - b[task].correct / b[task].images
                      for a, b in pairs])  # fmt: skip
        n, count = d.shape
        prompts += count
        by_seed.append(d.mean(1))
        residual = d - d.mean(0) - d.mean(1, keepdims=True) + d.mean()
        r = (residual**2).sum() / ((n - 1) * (count - 1))
        rest += r / count / len(tasks) ** 2
        prompt += max(0.0, d.mean(0).var(ddof=1) - r / n) / count / len(tasks) ** 2
    deltas = np.mean(by_seed, axis=0)
    training = max(0.0, float(deltas.var(ddof=1)) - rest)
    return Components(len(pairs), prompts, training, prompt, rest, float(deltas.mean()))


def of_results(folders: Sequence[ResultFolder], method: str = "selfe") -> dict[int, Components]:
    """Number of steps -> the method less Flow Matching, at the last iteration that both have."""
    every = repeated(folders)
    found = [c for c in usual(every) if not c.variant]
    by_steps: dict[int, Components] = {}
    for configuration in sorted(found, key=lambda c: c.iterations):
        if configuration.method != method:
            continue
        base = [c for c in found if (c.method, c.iterations, c.steps)
                == ("fm", configuration.iterations, configuration.steps)]  # fmt: skip
        if not base:
            continue
        ours, theirs = every[configuration], every[base[0]]
        shared = sorted(ours.keys() & theirs.keys())
        if len(shared) > 1:
            pairs = [(ours[seed].counts, theirs[seed].counts) for seed in shared]
            by_steps[configuration.steps] = components(pairs)
    return by_steps


def seeds_for(found: Components, difference: float, prompts: int) -> int | None:
    """The fewest training seeds that resolve a difference; None for more than `MOST_SEEDS`."""
    return next(
        (n for n in range(2, MOST_SEEDS + 1) if found.least(n, prompts) <= difference), None
    )


def section(name: str, by_steps: Mapping[int, Components], sizes: Sequence[int]) -> list[str]:
    header = ["steps", "seeds, prompts measured", "difference", "s", "p / P", "r / P"]
    rows = [
        [str(n), f"{c.seeds}, {c.prompts}", f"{c.mean:+.3f}"]
        + [f"{math.sqrt(v):.3f}" for v in (c.training, c.prompt, c.rest)]
        for n, c in by_steps.items()
    ]
    parts = [f"## {name}\n", "s, p / P and r / P are given as standard deviations.\n"]
    parts.append(to_markdown(header, rows))
    for prompts in sizes:
        header = ["steps", *(f"{n} seeds" for n in SEEDS), "seeds for .03", "seeds for .05"]
        rows = []
        for n, c in by_steps.items():
            cells = [f"{c.least(seeds, prompts):.3f}" for seeds in SEEDS]
            wanted = [seeds_for(c, d, prompts) for d in (0.03, 0.05)]
            texts = [str(w) if w else f"over {MOST_SEEDS}" for w in wanted]
            rows.append([str(n), *cells, *texts])
        parts.append(f"Smallest difference resolved with 80% chance, {prompts} prompts:\n")
        parts.append(to_markdown(header, rows))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--prompts", type=int, nargs="+", default=[66, 232])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    parts = ["# Power: seeds and prompts that resolve a difference\n"]
    parts += [EXPLAINED, f"Made by `{command_line()}`.\n"]
    for archive in args.archives:
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            by_steps = of_results(collect([Path(folder)]))
        if not by_steps:
            raise ValueError(f"{archive} has no two training seeds of Self-E and Flow Matching")
        parts += section(archive.parent.name, dict(sorted(by_steps.items())), args.prompts)
    text = "\n".join(parts)
    if args.out:
        write_atomically(args.out, text)
    print(text)


if __name__ == "__main__":
    main()
