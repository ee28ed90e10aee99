"""Search the learning rate of every method on the validation prompts of the shapes world.

    python scripts/search_learning_rate.py --runs-dir runs/search --out reports/shapes

Each method is trained at each rate for the same short run (the final rate is a tenth, as in the
recipe) and scored at 2, 4 and 8 steps with its recipe's sampling settings; the mean of the three
decides. learning_rate.json holds every figure, learning_rate.md the table with command, commit and
machine. Goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from search_sampling import overall_score, validation_prompts

from selfe.checkpoint import write_atomically
from selfe.methods import OBJECTIVES
from selfe.provenance import provenance
from selfe.recipes import resolve
from selfe.runs import load_run
from selfe.session import train_run

RATES = (5e-4, 1e-3, 2e-3)
STEPS = (2, 4, 8)


def train_at(method: str, rate: float, iterations: int, runs_dir: Path) -> Path:
    """The finished run of one method at one rate; an interrupted one is continued."""
    run_dir = runs_dir / f"shapes-{method}-lr{rate:g}"
    config = resolve(
        "shapes",
        method,
        assignments=[
            f"optim.lr={rate}",
            f"optim.final_lr={rate / 10}",
            f"train.iterations={iterations}",
            # the share of the run over which the recipe anneals tau
            f"times.tau_horizon={round(0.6 * iterations)}",
            "train.milestone_every=null",
            "train.sample_every=null",
        ],
    )
    train_run(
        config,
        run_dir,
        runs_dir=runs_dir,
        device="cpu",
        resume=(run_dir / "config.json").exists(),
        command=shlex.join(["python", *sys.argv]),
    )
    return run_dir


def render(results: dict[str, Any], command: str) -> str:
    facts = results["provenance"]
    lines = [
        "# Search of the learning rate on validation prompts",
        "",
        f"`{command}`, commit {facts['commit']}, {facts['machine']}; {results['iterations']} "
        f"iterations, training seed 0, {results['prompts']} prompts x {results['samples']} images, "
        "benchmark seed 1. Bold: the highest mean of a method.",
        "",
        "| method | rate | " + " | ".join(f"{n} steps" for n in STEPS) + " | mean |",
        "|---" * (3 + len(STEPS)) + "|",
    ]
    for method, rates in results["methods"].items():
        best = max(rates, key=lambda rate: rates[rate]["mean"])
        for rate, scores in rates.items():
            mean = f"{scores['mean']:.3f}"
            cells = [f"{scores[str(n)]:.3f}" for n in STEPS]
            cells.append(f"**{mean}**" if rate == best else mean)
            lines.append(f"| {method} | {rate} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/search"))
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--samples", type=int, default=2, help="images per prompt")
    parser.add_argument("--per-task", type=int, default=8, help="prompts per task")
    parser.add_argument("--out", type=Path, default=Path("reports/shapes"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "learning_rate.json"
    results = json.loads(path.read_text()) if path.exists() else {"methods": {}}
    prompts = validation_prompts("grid", args.per_task)
    results |= {
        "provenance": provenance(),
        "prompts": len(prompts),
        "samples": args.samples,
        "iterations": args.iterations,
    }
    for method in OBJECTIVES.names():
        for rate in RATES:
            scores = results["methods"].setdefault(method, {})
            if f"{rate:g}" in scores:
                continue
            model = load_run(train_at(method, rate, args.iterations, args.runs_dir))
            found = {str(n): overall_score(model, prompts, n, args.samples, "grid") for n in STEPS}
            scores[f"{rate:g}"] = {**found, "mean": statistics.mean(found.values())}
            print(f"{method} at {rate:g}: {scores[f'{rate:g}']}", flush=True)
            write_atomically(path, json.dumps(results, indent=1).encode())
    command = shlex.join(["python", *sys.argv])
    write_atomically(args.out / "learning_rate.md", render(results, command).encode())


if __name__ == "__main__":
    main()
