"""`selfe-bench study`: many trainings, scored and reported with one command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import console, parse_steps

if TYPE_CHECKING:
    from selfe.studies.schedule import Machine, Schedule
    from selfe.studies.study import Study

Methods = Annotated[
    str | None,
    typer.Option(help="METHOD or METHOD:VARIANT, separated by commas, instead of the study's own."),
]
StudySteps = Annotated[str | None, typer.Option(help="Sampler steps instead of the study's own.")]
StudySuite = Annotated[str | None, typer.Option(help="Another suite than the models' own.")]
StudySplit = Annotated[str | None, typer.Option(help="For shapes suites: heldout or validation.")]
StudyName = Annotated[str, typer.Argument(help="Which study; `ls studies` lists them.")]
StudyRecipe = Annotated[str | None, typer.Option(help="Another recipe than the study's.")]
SamplingOfRecipe = Annotated[
    bool,
    typer.Option(
        "--sampling-of-recipe",
        help="Use the recipe's present sampling settings, also for runs trained under earlier "
        "ones.",
    ),
]


def study(
    name: StudyName = "quickstart",
    methods: Methods = None,
    seeds: options.Seeds = None,
    recipe: StudyRecipe = None,
    settings: options.Settings = None,
    steps: StudySteps = None,
    limit: options.Limit = None,
    suite: StudySuite = None,
    split: StudySplit = None,
    sampling_of_recipe: SamplingOfRecipe = False,
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
    """Train, score and report methods x seeds, side by side on all cores or GPUs.

    Prints plan and cost first. Stopped or killed at any time, the same command continues.
    """
    from selfe.studies.catalog import named_study
    from selfe.studies.schedule import make_schedule
    from selfe.studies.study import rows_for, trainings_of, with_steps

    chosen = named_study(name)
    if methods is not None:
        chosen = replace(chosen, entries=rows_for(chosen, parse_list(methods, "--methods")))
    if steps is not None:
        chosen = with_steps(chosen, parse_steps(steps))
    chosen = replace(
        chosen,
        recipe=recipe or chosen.recipe,
        seeds=chosen.seeds if seeds is None else parse_seeds(seeds),
        settings=(*chosen.settings, *(settings or [])),
        limit=limit if limit is not None else chosen.limit,
        suite=suite or chosen.suite,
        split=chosen.split if split is None else split,
        runs_dir=runs_dir or chosen.runs_dir,
        out=out or chosen.out,
    )
    found = trainings_of(chosen)
    planned = dry_run or commands
    machine = machine_of(
        device, cores, gpus, per_run, gpu, mfu, price, planned=planned, study=chosen
    )
    schedule = make_schedule(chosen, machine, found=found, sampling_of_recipe=sampling_of_recipe)
    carry_out(schedule, dry_run=dry_run, as_json=as_json, commands=commands)


def parse_list(text: str, option: str) -> list[str]:
    """ "a,b c" -> ["a", "b", "c"].

    Raises:
        ValueError: if there is nothing in it.
    """
    words = text.replace(",", " ").split()
    if not words:
        raise ValueError(f"{option} takes names separated by commas, got {text!r}")
    return words


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "0,1,2" -> (0, 1, 2).

    Raises:
        ValueError: unless every part is a whole number from 0 on.
    """
    words = parse_list(text, "--seeds")
    for word in words:
        if not (word.isascii() and word.isdecimal()):
            raise ValueError(
                f"--seeds takes whole numbers from 0 on, separated by commas, got {word!r}"
            )
    return tuple(int(word) for word in words)


def machine_of(
    device: str,
    cores: int | None,
    gpus: int | None,
    per_run: int | None,
    gpu: str | None,
    mfu: float | None,
    price: float | None,
    *,
    planned: bool,
    study: Study,
) -> Machine:
    """The cores or GPUs a study uses.

    Args:
        planned: nothing is started, so that GPUs may be planned for that are not here.

    Raises:
        ValueError: for a device that is neither, more GPUs than there are, or what is said of GPUs
            where none is used.
    """
    import os

    from selfe.device import gpu_named, may_have_gpu
    from selfe.studies.schedule import Machine

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device of a study is auto, cpu or cuda, got {device!r}")
    there, here = 0, ""
    if device != "cpu" and may_have_gpu():
        import torch

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = gpu_named(torch.cuda.get_device_name(0)) or "" if there else ""
    on_gpu = device == "cuda" or bool(gpu or gpus) or (device == "auto" and there > 0)
    if device == "cpu" and (gpu or gpus):
        raise ValueError("--gpu and --gpus cannot be combined with --device cpu")
    if not on_gpu:
        if mfu is not None:
            raise ValueError("--mfu is of a GPU's peak: add --gpu KIND to plan for GPUs")
        if price is not None:
            raise ValueError("--price is that of a GPU-hour: add --gpu KIND to plan for GPUs")
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        return Machine("cpu", cores or usable or os.cpu_count() or 1, per_run)
    if cores is not None:
        raise ValueError("--cores is for --device cpu; --gpus sets the number of GPUs")
    units = gpus or there or 8
    if not planned and units > there:
        raise ValueError(
            f"{units} GPUs were asked for and this machine has {there}: add --dry-run to print "
            "the plan only"
        )
    own = Machine("gpu", units, per_run, gpu or here or "h200", price=price)
    return own if mfu is None else replace(own, mfu=mfu)


def carry_out(
    schedule: Schedule,
    *,
    dry_run: bool,
    as_json: bool,
    commands: bool,
    finish: Callable[[], Path] | None = None,
) -> None:
    """Print the plan, then run it unless it is only asked for.

    Args:
        finish: writes a page of its own after the last job, whose path is then printed.

    Raises:
        typer.Exit: with code 1 if a job failed, 128 + signal if the study was stopped.
    """
    from selfe.errors import Stopped
    from selfe.files import folder_lock
    from selfe.studies.cost import estimate
    from selfe.studies.describe import as_record, as_script, as_text
    from selfe.studies.launch import start_on, wait_until_free
    from selfe.studies.pool import run_jobs

    if not (dry_run or commands):
        _require_data(schedule)
    estimate(schedule)
    if commands:
        typer.echo("# " + as_text(schedule).replace("\n", "\n# "))
        typer.echo(as_script(schedule))
        return
    typer.echo(json.dumps(as_record(schedule), indent=1) if as_json else as_text(schedule))
    if dry_run:
        return

    def say(line: str) -> None:
        if as_json:
            console.print(line, markup=False, soft_wrap=True)
        else:
            typer.echo(line)

    study, machine = schedule.study, schedule.machine
    with folder_lock(study.runs_dir, ".study.lock"):
        wait_until_free(schedule.jobs, say)
        try:
            progress = run_jobs(schedule.jobs, machine.units, partial(start_on, machine), say)
        except Stopped as stopped:
            console.print(f"stopped by {stopped}; the same command continues")
            raise typer.Exit(128 + stopped.signal_number) from None
    if progress.failed:
        _tell_failures(progress.failed, [job.name for job in progress.skipped])
        raise typer.Exit(1)
    if finish:
        say(f"look at {finish()}")
    if study.scorings:
        say(f"open {study.out / 'index.html'} (as text: {study.out / 'README.md'})")


def _require_data(schedule: Schedule) -> None:
    for training in schedule.trainings.trainings:
        data = training.config.data
        if data.source == "latents" and not data.path:
            raise ValueError(
                f"recipe {training.config.recipe!r} reads a latent cache, written by "
                "`selfe-bench prepare`: name it with --set data.path=CACHE"
            )


def _tell_failures(failed: dict[str, int], skipped: Sequence[str]) -> None:
    names = ", ".join(f"{name} (exit code {code})" for name, code in failed.items())
    waiting = f"; skipped because of that: {', '.join(skipped)}" if skipped else ""
    console.print(
        f"error: failed: {names}{waiting}. All other jobs are done; run the same command to "
        "try again",
        markup=False,
        soft_wrap=True,
    )
