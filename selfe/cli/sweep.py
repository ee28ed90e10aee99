"""`selfe-bench sweep`: a grid of settings against a baseline, trained and scored as a study."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from selfe.cli.common import Settings, command_line, parse_steps
from selfe.cli.study import (
    AsCommands,
    AsJson,
    Cores,
    DryRun,
    GpuKind,
    Gpus,
    Limit,
    Mfu,
    PerRun,
    Seeds,
    StudyDevice,
    SuiteName,
    carry_out,
    machine_of,
    parse_list,
    parse_seeds,
)


def sweep(
    over: Annotated[
        list[str],
        typer.Option(
            metavar="SECTION.KEY=VALUE,...",
            help="A setting and its values; repeat it for a grid.",
        ),
    ],
    methods: Annotated[
        str, typer.Option(help="METHOD or METHOD:VARIANT, separated by commas.")
    ] = "selfe",
    baseline: Annotated[
        str,
        typer.Option(
            help="Point of the grid that the others are compared with, its settings separated by "
            "spaces.",
            show_default="the recipe's own settings, trained beside the grid",
        ),
    ] = "",
    seeds: Seeds = None,
    recipe: Annotated[str, typer.Option(help="What to train.")] = "shapes-quick",
    name: Annotated[
        str, typer.Option(help="Of the sweep: its folders in runs/ and reports/local/.")
    ] = "sweep",
    settings: Settings = None,
    steps: Annotated[str, typer.Option(help="Sampler steps, separated by commas.")] = "2,4,8",
    limit: Limit = 12,
    suite: SuiteName = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="heldout or validation, on which settings are chosen.",
            show_default="validation where there is one",
        ),
    ] = None,
    runs_dir: Annotated[
        Path | None, typer.Option(help="Folder of the trainings.", show_default="runs/NAME")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report.", show_default="reports/local/NAME")
    ] = None,
    device: StudyDevice = "auto",
    cores: Cores = None,
    gpus: Gpus = None,
    per_run: PerRun = None,
    gpu: GpuKind = None,
    mfu: Mfu = 0.5,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    commands: AsCommands = False,
) -> None:
    """Train and score a grid of settings x methods x seeds, and compare it with a baseline.

    Plan and cost come first. Stopped or killed at any time, the same command continues.
    """
    from selfe.config.resolve import resolve
    from selfe.studies.schedule import make_schedule
    from selfe.studies.study import Entry, Scoring, Study
    from selfe.studies.sweep import grid_of, parse_baseline, sweep_study
    from selfe.studies.sweep_page import write_sweep

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
    machine = machine_of(
        device, cores, gpus, per_run, gpu, mfu, planned=dry_run or commands, study=study
    )
    carry_out(
        make_schedule(study, machine),
        dry_run=dry_run,
        as_json=as_json,
        commands=commands,
        finish=partial(write_sweep, study, counts, command_line()),
    )
