"""`selfe-bench sweep`: a grid of settings against a baseline, trained and scored as a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import command_line, parse_steps
from selfe.cli.study import StudySuite, carry_out, machine_of, parse_list, parse_seeds

if TYPE_CHECKING:
    from selfe.studies.study import Study

Over = Annotated[
    list[str],
    typer.Option(
        metavar="SECTION.KEY=VALUE,...", help="A setting and its values; repeat it for a grid."
    ),
]
Methods = Annotated[str, typer.Option(help="METHOD or METHOD:VARIANT, separated by commas.")]
Baseline = Annotated[
    str,
    typer.Option(
        help="Point of the grid that the others are compared with, its settings separated by "
        "spaces.",
        show_default="the recipe's own settings, trained beside the grid",
    ),
]
Name = Annotated[
    str, typer.Option(help="Name of the sweep and of its folders in runs/ and reports/local/.")
]
ChosenSplit = Annotated[
    str | None,
    typer.Option(
        help="Prompts on which settings are chosen: heldout or validation.",
        show_default="validation where there is one",
    ),
]


def sweep(
    over: Over,
    methods: Methods = "selfe",
    baseline: Baseline = "",
    seeds: options.Seeds = None,
    recipe: options.Recipe = "shapes-quick",
    name: Name = "sweep",
    settings: options.Settings = None,
    steps: options.Steps = "2,4,8",
    limit: options.Limit = 12,
    suite: StudySuite = None,
    split: ChosenSplit = None,
    runs_dir: options.StudyRunsDir = None,
    out: options.StudyOut = None,
    device: options.StudyDevice = "auto",
    cores: options.Cores = None,
    gpus: options.Gpus = None,
    per_run: options.PerRun = None,
    gpu: options.GpuKind = None,
    mfu: options.Mfu = None,
    price: options.Price = None,
    dry_run: options.DryRun = False,
    as_json: options.PlanAsJson = False,
    commands: options.AsCommands = False,
) -> None:
    """Train and score a grid of settings x methods x seeds, and compare it with a baseline.

    Plan and cost come first. Stopped or killed at any time, the same command continues.
    """
    from selfe.config.resolve import resolve
    from selfe.studies.schedule import make_schedule
    from selfe.studies.study import Entry, Scoring, Study
    from selfe.studies.sweep import grid_of, parse_baseline, sweep_study

    if name != Path(name).name or name.startswith("."):
        raise ValueError(f"--name takes the name of a folder, got {name!r}")
    counts = parse_steps(steps)
    points = grid_of(over)
    entries = [label.partition(":") for label in parse_list(methods, "--methods")]
    study = Study(
        name,
        f"sweep of {', '.join(over)}",
        recipe,
        tuple(Entry(method, variant) for method, _, variant in entries),
        (Scoring(tuple(counts)),),
        seeds=(0,) if seeds is None else parse_seeds(seeds),
        settings=tuple(settings or ()),
        limit=limit,
        suite=suite,
        runs_dir=runs_dir or Path("runs") / name,
        out=out or Path("reports") / "local" / name,
    )
    own = resolve(recipe, study.entries[0].method, assignments=study.settings).data
    shapes = own.source == "shapes" and suite is None
    study = replace(study, split=split or ("validation" if shapes else ""))
    study = sweep_study(study, points, parse_baseline(baseline, points))
    planned = dry_run or commands
    machine = machine_of(
        device, cores, gpus, per_run, gpu, mfu, price, planned=planned, study=study
    )
    carry_out(
        make_schedule(study, machine),
        dry_run=dry_run,
        as_json=as_json,
        commands=commands,
        finish=partial(_write_page, study, counts),
    )


def _write_page(study: Study, counts: Sequence[int]) -> Path:
    from selfe.studies.sweep_page import write_sweep  # pandas: a plan needs none

    return write_sweep(study, counts, command_line())
