"""Tables of the settings that were tried for each method in the calibrated world.

    python -m scripts.studies.tuning_table [--folder reports/studies/tuning] [--beside FOLDER]

Reads search/RUN.json (`headroom_search`) and verdicts_all/METHOD-NAME-seedN.json (`headroom_score`)
below the folder and writes tables.md there. `--beside` is another study, whose searches stand in
the first table, too: the trainings that the tried ones are compared with.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from evals.report.markup import to_markdown
from scripts.studies.headroom_table import counts_of, difference_over, interval_of
from selfe.files import write_atomically

STEPS = (2, 4, 8)


def searched(folder: Path) -> list[list[str]]:
    """A row for every training and kind of time grid: its best score in each number of steps."""
    rows = []
    for path in sorted((folder / "search").glob("*.json")):
        found: dict[str, Any] = json.loads(path.read_text())
        for part in ("usual", "shifted"):
            cells = [max(found.get(part, {}).get(str(n), {}).values(), default=None) for n in STEPS]
            if None not in cells:
                values = [float(cell) for cell in cells if cell is not None]
                mean = f"{sum(values) / len(values):.3f}"
                rows.append([path.stem, part, *(f"{value:.3f}" for value in values), mean])
    return rows


def leads(folder: Path) -> list[list[str]]:
    """Self-E less Flow Matching over the training seeds of every setting both were trained with."""
    runs: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted((folder / "verdicts_all").glob("*.json")):
        method, _, rest = path.stem.partition("-")
        setting, _, seed = rest.rpartition("-seed")
        runs[setting][method][seed] = json.loads(path.read_text())
    rows = []
    for setting, methods in sorted(runs.items()):
        seeds = sorted(methods["selfe"].keys() & methods["fm"].keys())
        for steps in STEPS:
            counts = {
                name: [counts_of(methods[name][seed], "usual", steps) for seed in seeds]
                for name in ("selfe", "fm")
            }
            ours, base = ([c for c in counts[name] if c is not None] for name in ("selfe", "fm"))
            if not seeds or len(ours) != len(seeds) or len(base) != len(seeds):
                continue
            lead = difference_over(list(zip(ours, base, strict=True)))
            means = [interval_of(each)[0] for each in (base, ours)]
            resolved = "" if lead.low > 0 or lead.high < 0 else " not resolved"
            rows.append(
                [
                    setting,
                    ", ".join(seeds),
                    str(steps),
                    *(f"{mean:.3f}" for mean in means),
                    f"{means[1] - means[0]:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]{resolved}",
                ]
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("reports/studies/tuning"))
    parser.add_argument("--beside", type=Path)
    args = parser.parse_args()
    folder: Path = args.folder
    tried = [*searched(folder), *(searched(args.beside) if args.beside else [])]
    parts = [
        "# What was tried\n",
        "Best of the sampling settings tried, on validation prompts (44 x 2 images), one training "
        "each. In `shifted` the time grid is shifted in sampling.\n",
        to_markdown(["run", "grid", *(f"{n} steps" for n in STEPS), "mean"], tried),
    ]
    if again := leads(folder):
        header = ["setting", "seeds", "steps", "Flow Matching", "Self-E", "lead of Self-E"]
        parts += [
            "\n# Trained again over seeds\n",
            "All 232 held-out prompts x 4 images. The intervals hold for other trainings and other "
            "prompts alike.\n",
            to_markdown(header, again),
        ]
    write_atomically(folder / "tables.md", "\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
