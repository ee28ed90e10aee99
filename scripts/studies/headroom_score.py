"""Held-out scores of the trainings of the study of headroom, with the settings its search found.

    python -m scripts.studies.headroom_score --runs-dir runs/headroom b0.25-fm-seed0 b0.25-fm-seed1

For every number of steps a run is drawn as was best for its method and b on validation prompts, by
search/bB-METHOD-seed0.json below --out, whatever its own training seed. Writes verdicts/RUN.json:
for every prompt which images are correct, so that every interval can be computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from evals.base import ImageVerdict
from evals.registry import open_suite
from evals.results import read_result
from evals.scoring.in_memory import InMemoryScorer, mean_over_tasks
from evals.suites.limit import limited
from evals.verdicts import read_verdicts
from scripts import command_line
from selfe.config.drawing import override_sampling
from selfe.files import write_atomically
from selfe.provenance import provenance
from selfe.run_folder.model import load_run

PER_TASK, IMAGES, SEED = 12, 4, 0


def best_settings(out: Path, run: str, parts: list[str]) -> dict[str, dict[str, Any]]:
    """Number of steps -> the best setting of the search; the first in the list in a tie."""
    name = run.rpartition("-seed")[0] + "-seed0"
    found = json.loads((out / "search" / f"{name}.json").read_text())
    scores: dict[str, dict[str, float]] = {}
    for part in parts:
        for steps, values in found.get(part, {}).items():
            scores.setdefault(steps, {}).update(values)
    return {steps: json.loads(max(values, key=values.get)) for steps, values in scores.items()}


def stored_verdicts(
    run: Path, digest: str, prompts_sha256: str, setting: dict[str, Any], steps: int
) -> list[ImageVerdict] | None:
    """Verdicts that `geneval` left in a run: of these weights and prompts, drawn so; None where it
    did not."""
    for path in sorted(run.rglob("result.json")):
        result = read_result(path.parent)
        drawn = {**result.sampling.settings, "guidance_scale": result.sampling.settings.get(
            "guidance_scale", 1.0)}  # fmt: skip
        if (
            result.model.digest == digest
            and result.protocol.prompts_sha256 == prompts_sha256
            and result.protocol.images_per_prompt == IMAGES
            and (result.sampling.steps, result.sampling.seed) == (steps, SEED)
            and not result.scores.partial
            and all(drawn.get(key) == value for key, value in setting.items())
        ):
            return read_verdicts(path.parent)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/headroom"))
    parser.add_argument("--steps", default="2,4,8,50")
    parser.add_argument(
        "--shifted", action="store_true", help="best of the usual and the shifted time grids"
    )
    parser.add_argument(
        "--all-prompts", action="store_true", help="the whole suite, into verdicts_all/"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/studies/headroom"))
    args = parser.parse_args()
    few = None if args.all_prompts else PER_TASK
    suite = dataclasses.replace(limited(open_suite("shapes@1"), few), images_per_prompt=IMAGES)
    scorer = InMemoryScorer(suite, SEED)
    part = "shifted" if args.shifted else "usual"
    for name in args.runs:
        folder = "verdicts_all" if args.all_prompts else "verdicts"
        path = args.out / folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        found = json.loads(path.read_text()) if path.exists() else {}
        generator = load_run(args.runs_dir / name)
        own = generator.settings
        known = provenance()
        facts = {"prompts_sha256": suite.prompts_sha256, "digest": generator.facts.digest}
        for key, value in facts.items():
            if found.get(key, value) != value:
                raise SystemExit(f"{path} has scores of another {key}: choose another --out")
        found["tasks"] = [record["tag"] for record in suite.records]
        found |= facts
        found.setdefault("made", {})[part] = {
            "command": command_line(),
            "commit": known["commit"],
            "machine": known["machine"],
            "trained_in": generator.facts.training["precision"],
            "image_seed": SEED,
        }
        wanted = best_settings(args.out, name, ["usual", "shifted"] if args.shifted else ["usual"])
        for steps in args.steps.split(","):
            done = found.setdefault(part, {}).get(steps, {})
            if steps not in wanted or done.get("setting") == wanted[steps]:
                continue
            verdicts = stored_verdicts(
                args.runs_dir / name,
                generator.facts.digest,
                suite.prompts_sha256,
                wanted[steps],
                int(steps),
            )
            if verdicts is None:
                generator.settings = override_sampling(own, {**wanted[steps], "batch_slots": 8})
                verdicts = scorer(generator, int(steps))
            rows = ["" for _ in suite.records]
            for verdict in verdicts:
                rows[verdict.prompt_id] += "1" if verdict.correct else "0"
            score = mean_over_tasks(verdicts)
            found[part][steps] = {"setting": wanted[steps], "score": score, "correct": rows}
            write_atomically(path, json.dumps(found, indent=0))
            print(f"{name} {steps} steps: {score:.3f} {wanted[steps]}", flush=True)


if __name__ == "__main__":
    main()
