"""Trainings of the study of headroom (reports/studies/headroom/README.md): the quickstart's recipe
in worlds whose latents are multiplied by b, one run a core. The same command continues.

    python -m scripts.studies.headroom_train --factors 1 0.5 0.35 0.25 0.18 0.12 --methods fm
    python -m scripts.studies.headroom_train --factors 0.25 --methods fm selfe imm --seeds 0 1 2

With bf16 instructions a run of Flow Matching takes about 4 minutes on one core, of Self-E and IMM 5
to 6.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from selfe.run_folder.records import CONFIG, is_finished, read_config
from selfe.studies.launch import start_on
from selfe.studies.pool import run_jobs
from selfe.studies.schedule import BENCH, Job, Machine


def jobs_of(
    factors: Sequence[float], methods: Sequence[str], seeds: Sequence[int], runs: Path
) -> list[Job]:
    """A training on one core for every seed, method and b, in this order."""
    jobs = []
    for seed in seeds:
        for method in methods:
            for b in factors:
                name = f"b{b:g}-{method}-seed{seed}"
                run = runs / name
                words = [BENCH, "train", "--method", method, "--recipe", "shapes-quick"]
                words += ["--seed", f"{seed}", "--name", name, "--runs-dir", f"{runs}"]
                words += ["--device", "cpu", "--workers", "1", "--auto-resume"]
                words += ["--set", f"data.signal={b:g}", "--set", "train.sample_every=null"]
                done = (run / CONFIG).is_file() and is_finished(run, read_config(run))
                jobs.append(Job(name, f"train {name}", tuple(words), done=done))
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factors", type=float, nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", default=["fm", "selfe", "imm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/headroom"))
    args = parser.parse_args()
    machine = Machine("cpu", args.processes, per_run=1)
    jobs = jobs_of(args.factors, args.methods, args.seeds, args.runs_dir)
    progress = run_jobs(jobs, machine.units, partial(start_on, machine), partial(print, flush=True))
    sys.exit(1 if progress.failed else 0)


if __name__ == "__main__":
    main()
