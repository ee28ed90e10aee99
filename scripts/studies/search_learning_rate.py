"""Search the learning rate of methods on the validation prompts of the shapes world.

    python -m scripts.studies.search_learning_rate --runs-dir runs/search --out reports/shapes
    python -m scripts.studies.search_learning_rate --recipe shapes-quick --methods fm selfe imm \\
        --rates 2e-3 4e-3 --seeds 0 1 2 --runs-dir runs/search-quick --out reports/quickstart

Each method is trained at each rate for the same short run (the final rate is a tenth, as in the
recipe) and scored at 2, 4 and 8 steps with its recipe's sampling settings; the mean of the three
over the training seeds decides. learning_rate.json holds every figure, learning_rate.md the table
with command, commit and machine. Goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from scripts.studies.search_sampling import overall_score, validation_prompts
from selfe.config.resolve import resolve
from selfe.distributed.workers import open_workers
from selfe.files import write_atomically
from selfe.objectives.registry import METHODS
from selfe.provenance import provenance
from selfe.run_folder.model import load_run
from selfe.training.run import train_run
from selfe.training.worker_count import workers_for

RATES = (5e-4, 1e-3, 2e-3)
STEPS = (2, 4, 8)


def train_at(
    method: str, rate: float, seed: int, recipe: str, iterations: int, runs_dir: Path
) -> Path:
    """The finished run of one method at one rate; an interrupted one is continued."""
    run_dir = runs_dir / (f"{recipe}-{method}-lr{rate:g}" + (f"-seed{seed}" if seed else ""))
    config = resolve(
        recipe,
        method,
        seed=seed,
        assignments=[
            f"optim.lr={rate}",
            "optim.final_share=0.1",
            f"train.iterations={iterations}",
            # the share of the run over which the recipe anneals tau
            f"times.tau_horizon={round(0.6 * iterations)}",
            "train.milestone_every=null",
            "train.sample_every=null",
        ],
    )
    run = partial(
        train_run,
        config,
        run_dir,
        runs_dir=runs_dir,
        resume=None,
        command=shlex.join(["python", *sys.argv]),
    )
    workers = workers_for(config, run_dir, "cpu")
    if workers == 1:
        run(device="cpu")
    else:
        with open_workers(workers, run) as processes:
            run(processes=processes)
    return run_dir


def mean_over_seeds(seeds: dict[str, dict[str, Any]], score: str) -> float:
    return statistics.mean(scores[score] for scores in seeds.values())


def render(results: dict[str, Any]) -> str:
    made = [
        s["made"]
        for rates in results["methods"].values()
        for r in rates.values()
        for s in r.values()
    ]
    lines = [
        "# Search of the learning rate on validation prompts",
        "",
        f"{'; '.join(dict.fromkeys(made))}; recipe {results['recipe']} "
        f"with {results['iterations']} iterations, {results['prompts']} prompts x "
        f"{results['samples']} images, benchmark seed 1. Means over training seeds; in brackets "
        "those of single trainings. Bold: the highest mean of a method, and of all.",
        "",
        "| method | rate | training seeds | "
        + " | ".join(f"{n} steps" for n in STEPS)
        + " | mean |",
        "|---" * (4 + len(STEPS)) + "|",
    ]
    methods = results["methods"]
    for method, rates in methods.items():
        best = max(rates, key=lambda rate: mean_over_seeds(rates[rate], "mean"))
        for rate, seeds in rates.items():
            mean = f"{mean_over_seeds(seeds, 'mean'):.3f}"
            cells = [f"{mean_over_seeds(seeds, str(n)):.3f}" for n in STEPS]
            single = ", ".join(f"{scores['mean']:.3f}" for scores in seeds.values())
            cells.append(f"**{mean}**" if rate == best else mean)
            if len(seeds) > 1:
                cells[-1] += f" ({single})"
            lines.append(f"| {method} | {rate} | {', '.join(seeds)} | {' | '.join(cells)} |")
    shared = [r for r in next(iter(methods.values()), {}) if all(r in m for m in methods.values())]
    if len(methods) > 1 and shared:
        every = {
            r: statistics.mean(mean_over_seeds(m[r], "mean") for m in methods.values())
            for r in shared
        }
        best = max(every, key=lambda rate: every[rate])
        for rate, value in every.items():
            mean = f"**{value:.3f}**" if rate == best else f"{value:.3f}"
            lines.append(f"| all {len(methods)} | {rate} |{' |' * (1 + len(STEPS))} {mean} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--methods", nargs="+", default=list(METHODS.names()))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training")
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
        "recipe": args.recipe,
        "prompts": len(prompts),
        "samples": args.samples,
        "iterations": args.iterations,
    }
    command = shlex.join(["python", *sys.argv])
    facts = provenance()
    made = f"`{command}`, commit {facts['commit']}, {facts['machine']}"
    wanted = [(m, r, s) for m in args.methods for s in args.seeds for r in args.rates]
    for method, rate, seed in wanted:
        seeds = results["methods"].setdefault(method, {}).setdefault(f"{rate:g}", {})
        if str(seed) in seeds:
            continue
        run = train_at(method, rate, seed, args.recipe, args.iterations, args.runs_dir)
        model = load_run(run)
        found = {str(n): overall_score(model, prompts, n, args.samples, "grid") for n in STEPS}
        seeds[str(seed)] = {**found, "mean": statistics.mean(found.values()), "made": made}
        print(f"{method} at {rate:g}, seed {seed}: {seeds[str(seed)]}", flush=True)
        write_atomically(path, json.dumps(results, indent=1))
    write_atomically(args.out / "learning_rate.md", render(results))


if __name__ == "__main__":
    main()
