"""Sampling of the trainings of the study of headroom, searched on validation prompts.

    python -m scripts.studies.headroom_search --runs-dir runs/headroom b0.25-fm-seed0 b1-fm-seed0

The settings are those of reports/studies/headroom/protocol.md: the same guidance for all methods.
Writes search/RUN.json below --out, every candidate with its score, and goes on where it was.
`--s-fraction 1` searches them for steps that ask the network at s = t instead of the next time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from evals.registry import open_suite
from evals.scoring.in_memory import InMemoryScorer, mean_over_tasks
from evals.suites.limit import limited
from scripts import command_line
from selfe.config.drawing import override_sampling
from selfe.config.inference import sampling_problem
from selfe.config.schema import SamplingConfig
from selfe.config.search_space import BARE
from selfe.files import write_atomically
from selfe.generation.any_step import AnyStepGenerator
from selfe.objectives.registry import load_method
from selfe.provenance import provenance
from selfe.run_folder.model import load_run
from selfe.times import length_shift

Setting = dict[str, Any]

KINDS = ("linear", "ep-v", "ep-x0")
SCALES = (1.25, 1.5, 1.75, 2.0, 3.0, 5.0)
SHIFTS = (-0.3, -1.0)
SHIFTED = (
    ("none", 1.0),
    *(("linear", scale) for scale in (1.25, 1.5, 2.0, 3.0)),
    *(("ep-v", scale) for scale in (1.5, 2.0, 3.0)),
)
PER_TASK, IMAGES, SEED = 8, 2, 1
FIRST_PER_TASK, KEPT, KEPT_AT_50 = 4, 8, 4
SLOTS = 8
"""Images drawn at once: few, so that no batch is filled up with copies."""


def base_len_of(shift: float, tokens: int = 16) -> int:
    """The setting that gives a time grid the shift mu, to the third digit."""
    return min(range(1, 4096), key=lambda n: abs(length_shift(tokens, base_len=n) - shift))


def candidates(method: str, s_fraction: float = 0.0) -> list[Setting]:
    guidance = [("none", 1.0), *((kind, scale) for kind in KINDS for scale in SCALES)]
    if method == "imm":
        moves: list[Setting] = [{"sampler": "pushforward"}, {"sampler": "restart"}]
    else:
        moves = [{"sampler": "any-step", "eta": eta} for eta in (0.0, 1.0)]
        if s_fraction:
            moves = [{**move, "s_fraction": s_fraction} for move in moves]
    every = [{**move, "guidance": g, "guidance_scale": w} for move in moves for g, w in guidance]
    prediction = load_method(method).prediction
    # pushforward takes no guidance of an image (ep-x0): IMM has 32 of the 38
    return [s for s in every if not sampling_problem(SamplingConfig(**s), prediction)]


def best_of(scores: dict[str, float], kept: int) -> list[str]:
    """The best, in a tie the earlier."""
    return sorted(scores, key=lambda name: -scores[name])[:kept]


def tried(
    generator: AnyStepGenerator,
    settings: list[str],
    scorer: InMemoryScorer,
    steps: int,
    scores: dict[str, float],
) -> dict[str, float]:
    """`scores` with those of the settings that it lacks."""
    for key in settings:
        if key not in scores:
            generator.settings = override_sampling(
                generator.settings, {**BARE, **json.loads(key), "batch_slots": SLOTS}
            )
            scores[key] = round(mean_over_tasks(scorer(generator, steps)), 6)
    return scores


def shifted(method: str, steps: int) -> list[Setting]:
    if method == "imm" or steps >= 50:
        return []
    return [
        {
            "sampler": "any-step",
            "eta": 0.0,
            "base_len": base_len_of(shift),
            "guidance": guidance,
            "guidance_scale": scale,
        }
        for shift in SHIFTS
        for guidance, scale in SHIFTED
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/headroom"))
    parser.add_argument("--steps", default="2,4,8,50")
    parser.add_argument("--suite", default="shapes@1", help="whose validation prompts are drawn")
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="prompts of every task")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--shifted", action="store_true", help="shifted time grids instead")
    group.add_argument(
        "--s-fraction", type=float, default=0.0, help="second time: 0 the next time, 1 s = t"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/studies/headroom"))
    args = parser.parse_args()
    suite = limited(open_suite(args.suite, "validation"), args.per_task)
    small = InMemoryScorer(
        dataclasses.replace(limited(suite, FIRST_PER_TASK), images_per_prompt=1), SEED
    )
    whole = InMemoryScorer(dataclasses.replace(suite, images_per_prompt=IMAGES), SEED)
    part = "shifted" if args.shifted else "usual"
    first_part = "first stage"
    if args.s_fraction:
        part = f"s_fraction {args.s_fraction:g}"
        first_part = f"first stage, {part}"
    for name in args.runs:
        path = args.out / "search" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        found = json.loads(path.read_text()) if path.exists() else {}
        generator = load_run(args.runs_dir / name)
        known = provenance()
        facts = {
            "suite": args.suite,
            "prompts": len(suite.records),
            "weights": generator.facts.digest,
        }
        before = found.get("made", {}).get(part, {})
        for key, value in facts.items():  # earlier versions did not say which weights
            if before.get(key, value) != value:
                raise SystemExit(f"{path} is a search with other {key}: choose another --out")
        found.setdefault("made", {})[part] = {
            **facts,
            "command": command_line(),
            "commit": known["commit"],
            "machine": known["machine"],
            "torch": known["versions"].get("torch"),
            "trained_in": generator.facts.training["precision"],
            "images_per_prompt": IMAGES,
            "image_seed": SEED,
        }
        method = generator.facts.method

        results = found.setdefault(part, {})
        for steps in sorted(int(text) for text in args.steps.split(",")):
            scores = results.setdefault(str(steps), {})
            if args.shifted:
                settings = [json.dumps(setting) for setting in shifted(method, steps)]
            elif steps >= 50:
                settings = best_of(results["8"], KEPT_AT_50)
            else:
                every = [json.dumps(s) for s in candidates(method, args.s_fraction)]
                first = found.setdefault(first_part, {}).setdefault(str(steps), {})
                settings = best_of(tried(generator, every, small, steps, first), KEPT)
            tried(generator, settings, whole, steps, scores)
            write_atomically(path, json.dumps(found, indent=0))
            best = max(scores, key=scores.get, default="")
            print(f"{name} {steps} steps: {scores.get(best, 0):.3f} {best}", flush=True)


if __name__ == "__main__":
    main()
