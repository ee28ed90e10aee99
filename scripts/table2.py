"""The runs behind Table 2 and Fig. 5 (three methods, two ablations) and Fig. 6 (a late auxiliary
term against none, forked from one milestone), with what they cost. Started by scripts/table2.sh.

    scripts/table2.sh --gpu h200 --gpus 8 --data CACHE           # prints the commands
    scripts/table2.sh --gpu h200 --gpus 8 --data CACHE --run     # runs them in turn, and goes on
                                                                 # where it was
    scripts/table2.sh --recipe shapes --gpus 1 --run             # rehearsal in the shapes world

What is printed is a shell script. Costs are those of `selfe-bench plan --json`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfe.config.recipes import RECIPES
from selfe.config.resolve import resolve, run_name
from selfe.planning.plan import Plan, make_plan
from selfe.run_folder.checkpoint import list_checkpoints

BENCH = Path(sys.executable).with_name("selfe-bench")
STEPS = (2, 4, 8, 50)


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        shows: what of the paper it is.
        name: folder below `runs_dir`.
        settings: for --set.
        init_from: RUN@STEP of a fork.
        first_iteration: that STEP.
    """

    shows: str
    name: str
    runs_dir: Path
    method: str
    variant: str = ""
    settings: tuple[str, ...] = ()
    init_from: str = ""
    first_iteration: int = 0


def matrix(args: argparse.Namespace) -> list[Run]:
    """All runs, forks after what they fork from.

    The ablations end after a third, where the paper's Table 2 compares them with Self-E's
    milestone; the learning rate keeps falling as in the whole run.

    Raises:
        ValueError: if the recipe has no such milestone.
    """
    recipe, runs_dir = args.recipe, args.runs_dir
    whole = resolve(recipe, "selfe", assignments=args.settings)
    end, milestone = whole.train.iterations, whole.train.milestone_every
    if not milestone or end % milestone or end % 3 or end // 3 % milestone:
        raise ValueError(f"recipe {recipe!r} has no milestone after a third and at its end")
    horizon = f"optim.decay_horizon={end}"
    curves = f"Table 2 at {end:,} iterations, Fig. 5"
    runs = [
        Run(curves, run_name(resolve(recipe, method)), runs_dir, method)
        for method in ("fm", "imm", "selfe")
    ]
    for variant in ("no-target-norm", "aux"):
        name = run_name(resolve(recipe, "selfe", variant=variant))
        settings = (f"train.iterations={end // 3}", horizon)
        shows = f"Table 2 at {end // 3:,} iterations"
        runs.append(Run(shows, name, runs_dir, "selfe", variant, settings))
    source = f"{runs_dir / run_name(whole)}@{end}"
    for name, aux_from in (("late-aux", end), ("late-without", None)):
        settings = (
            f"train.iterations={end + milestone}",
            horizon,
            f"objective.aux_from={json.dumps(aux_from)}",
        )
        shows = f"Fig. 6, {'with' if aux_from else 'without'} the auxiliary term from {end:,} on"
        runs.append(Run(shows, name, args.late_dir, "selfe", "", settings, source, end))
    return runs


class Commands:
    """The command lines of runs, for a number of GPUs."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.common = list(args.settings)
        if resolve(args.recipe, "fm").data.source == "latents":
            self.common.append(f"data.path={args.data or 'CACHE'}")

    def plan(self, run: Run) -> Plan:
        settings = [*self.common, *run.settings]
        config = resolve(self.args.recipe, run.method, variant=run.variant, assignments=settings)
        return make_plan(
            config,
            gpu=self.args.gpu,
            gpus=self.args.gpus,
            mfu=self.args.mfu,
            first_iteration=run.first_iteration,
        )

    def train(self, run: Run, plan: Plan) -> str:
        words = ["train", "--method", run.method, "--recipe", self.args.recipe]
        words += ["--variant", run.variant] if run.variant else []
        words += ["--name", run.name, "--runs-dir", str(run.runs_dir)]
        words += ["--init-from", run.init_from] if run.init_from else []
        words += ["--shard", str(plan.shard)] if self.args.gpus > 1 else []
        settings = [*self.common, *run.settings]
        if plan.micro_batch_per_gpu < plan.images_per_gpu:
            settings.append(f"train.micro_batch_size={plan.micro_batch_per_gpu}")
        return self._line(words, settings)

    def score(self, run: Run, end: int) -> str:
        model = str(run.runs_dir / run.name)
        which = [f"{model}@{end}"] if run.init_from else [model, "--milestones"]
        words = ["geneval", "--model", *which, "--steps", ",".join(map(str, STEPS))]
        words += ["--suite", self.args.suite] if self.args.suite else []
        return self._line([*words, "--runs-dir", str(run.runs_dir)])

    def report(self) -> str:
        words = ["report", "--runs-dir", str(self.args.runs_dir), "--out", str(self.args.out)]
        return shlex.join([str(BENCH), *words])

    def compare(self, a: Run, b: Run, end: int, steps: int) -> str:
        """Paired over prompts; the shell completes the folders' digests."""
        folders = [
            f"{shlex.quote(str(run.runs_dir / run.name / 'results' / f'step-{end:08d}'))}"
            f"/*/steps-{steps:03d}-*"
            for run in (a, b)
        ]
        return " ".join([shlex.quote(str(BENCH)), "compare", *folders])

    def _line(self, words: Sequence[str], settings: Sequence[str] = ()) -> str:
        launcher = []
        if self.args.gpus > 1:
            launcher = ["torchrun", "--standalone", f"--nproc-per-node={self.args.gpus}"]
            launcher.append("--no-python")
        options = [word for setting in settings for word in ("--set", setting)]
        return shlex.join([*launcher, str(BENCH), *words, *options])


@dataclass(frozen=True)
class Job:
    """A heading, and command lines that belong together.

    Attributes:
        run: what the first line trains, up to iteration `end`; None where it trains nothing.
    """

    title: str
    lines: tuple[str, ...]
    run: Run | None = None
    end: int = 0


def jobs_of(args: argparse.Namespace) -> tuple[str, list[Job]]:
    """What all of it costs, and everything to do, in order."""
    commands = Commands(args)
    runs = matrix(args)
    plans = [commands.plan(run) for run in runs]
    jobs = []
    for number, (run, plan) in enumerate(zip(runs, plans, strict=True), start=1):
        title = f"{number}/{len(runs)} {run.name}: {run.shows}; {_cost(plan)}"
        lines = (commands.train(run, plan), commands.score(run, plan.iterations))
        jobs.append(Job(title, lines, run, plan.iterations))
    jobs.append(Job("Table 2 and Fig. 5", (commands.report(),)))
    with_aux, without = runs[-2:]
    end = plans[-1].iterations
    lines = tuple(commands.compare(with_aux, without, end, steps) for steps in STEPS)
    jobs.append(Job("Fig. 6: the late auxiliary term against none, paired over prompts", lines))
    whole, first = sum(plan.gpu_days for plan in plans), plans[0]
    largest_cache = max(plan.cache_bytes for plan in plans)
    summary = (
        f"{args.recipe} on {args.gpus} {args.gpu.upper()}: {len(runs)} runs, "
        f"{whole:,.1f} GPU-days ({whole / args.gpus:,.1f} days) at an MFU of {args.mfu:g}; disk: "
        f"{sum(plan.run_bytes for plan in plans) / 1e9:,.0f} GB of checkpoints, "
        f"{largest_cache / 1e9:,.0f} GB of cache for {first.cache_images:,} images. Scoring is not "
        "counted."
    )
    return summary, jobs


def _cost(plan: Plan) -> str:
    return f"{plan.gpu_days:,.2f} GPU-days, {plan.relative_to_fm:.2f} of a flow-matching step"


def as_script(summary: str, jobs: Sequence[Job]) -> str:
    lines = ["set -e", f"# {summary}"]
    for job in jobs:
        lines += ["", f"# {job.title}", *job.lines]
    return "\n".join(lines)


def run_line(line: str) -> None:
    subprocess.run(["bash", "-c", line], check=True)


def launch(jobs: Sequence[Job]) -> None:
    """Run what is left to do; a run that was begun is resumed."""
    for job in jobs:
        print(f"== {job.title}", flush=True)
        for number, line in enumerate(job.lines):
            if job.run is not None and number == 0:
                folder = job.run.runs_dir / job.run.name
                found = list_checkpoints(folder / "checkpoints")
                if found and found[-1].step >= job.end:
                    continue
                if (folder / "config.json").exists():
                    line += " --resume"
            print(line, flush=True)
            run_line(line)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/table2.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="0.5b", choices=list(RECIPES))
    parser.add_argument("--gpu", default="h200", help="kind, as in selfe-bench plan")
    parser.add_argument("--gpus", type=int, default=8, help="of one machine")
    parser.add_argument("--mfu", type=float, default=0.5, help="share of the peak that is reached")
    parser.add_argument("--data", type=Path, help="latent cache, written by selfe-bench prepare")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="for every run; repeatable",
    )
    parser.add_argument("--suite", default="", help="for geneval; the recipe's own if absent")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/table2"))
    parser.add_argument("--late-dir", type=Path, default=Path("runs/fig6"), help="of the forks")
    parser.add_argument("--out", type=Path, default=Path("reports/table2"))
    parser.add_argument("--run", action="store_true", help="run the commands instead")
    args = parser.parse_args(words)
    if args.run and not args.data and resolve(args.recipe, "fm").data.source == "latents":
        parser.error(f"--run of {args.recipe} needs --data CACHE, written by selfe-bench prepare")
    return args


def main() -> None:
    args = parse()
    try:
        summary, jobs = jobs_of(args)
        if args.run:
            print(summary)
            launch(jobs)
        else:
            print(as_script(summary, jobs))
    except ValueError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


if __name__ == "__main__":
    main()
