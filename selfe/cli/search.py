"""`selfe-bench search sampling` and `search rate`: settings chosen on validation prompts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import RUNS, command_line, parse_steps, pick_device
from selfe.cli.study import carry_out, machine_of, parse_list, parse_seeds

PerTask = Annotated[int, typer.Option(min=1, help="Validation prompts per task.")]
Samples = Annotated[int, typer.Option(min=1, help="Images per prompt.")]
Runs = Annotated[list[str], typer.Option(help="RUN or RUN@STEP; repeatable.")]
SamplingOut = Annotated[Path, typer.Option(help="Folder of search.json and search.md.")]
ShapesRecipe = Annotated[str, typer.Option(help="A recipe of the shapes world.")]
Methods = Annotated[str, typer.Option(help="Methods, separated by commas.")]
Rates = Annotated[str, typer.Option(help="Learning rates, separated by commas.")]
Iterations = Annotated[int, typer.Option(min=1, help="Iterations of every training.")]
RateOut = Annotated[Path, typer.Option(help="Folder of learning_rate.json and learning_rate.md.")]

search = typer.Typer(
    no_args_is_help=True,
    help="Search settings on validation prompts of the shapes world, alike for every method.",
)


@search.command()
def sampling(
    model: Runs,
    steps: options.Steps = "2,4,8,50",
    per_task: PerTask = 10,
    samples: Samples = 2,
    out: SamplingOut = Path("reports/local/search"),
    runs_dir: options.RunsDir = RUNS,
    device: options.Device = "auto",
) -> None:
    """Search guidance, noise and time grid of finished runs for each number of steps.

    Scores that exist already are not computed again.
    """
    from selfe.run_folder.records import require_run

    found = [require_run(text, runs_dir) for text in model]
    counts = parse_steps(steps)  # a typing error is answered before torch starts
    from selfe.studies.search_sampling import SearchedRun, search_sampling

    runs = []
    for folder, step in found:
        name = folder.name if step is None else f"{folder.name}@{step}"
        runs.append(SearchedRun(name, folder, step))
    best = search_sampling(
        runs,
        counts,
        per_task=per_task,
        samples=samples,
        out=out,
        command=command_line(),
        device=pick_device(device),
        say=typer.echo,
    )
    for run, by_steps in best.items():
        for title, setting in by_steps.items():
            typer.echo(f"best of {run}, {title}: {setting}")
    typer.echo(f"look at {out / 'search.md'}")


@search.command()
def rate(
    recipe: ShapesRecipe = "shapes-quick",
    methods: Methods = "selfe,fm,imm",
    rates: Rates = "2e-3,4e-3,8e-3",
    seeds: options.Seeds = None,
    iterations: Iterations = 400,
    settings: options.Settings = None,
    per_task: PerTask = 8,
    samples: Samples = 2,
    out: RateOut = Path("reports/local/learning-rate"),
    runs_dir: options.RunsDir = Path("runs/learning-rate"),
    device: options.StudyDevice = "auto",
    cores: options.Cores = None,
    gpus: options.Gpus = None,
    per_run: options.PerRun = None,
    dry_run: options.DryRun = False,
    as_json: options.PlanAsJson = False,
    commands: options.AsCommands = False,
) -> None:
    """Search the learning rate of methods with short trainings side by side.

    Prints plan and cost first. Stopped or killed at any time, the same command continues.
    """
    from selfe.config.resolve import resolve

    names = parse_list(methods, "--methods")
    for name in names:  # a typing error is answered before torch starts
        resolve(recipe, name, assignments=settings or ())
    from selfe.studies.schedule import make_schedule
    from selfe.studies.search_rate import only_new, rate_study, score_rates

    study = rate_study(
        recipe,
        names,
        parse_rates(rates),
        (0,) if seeds is None else parse_seeds(seeds),
        iterations,
        settings or (),
    )
    study = replace(study, runs_dir=runs_dir, out=out)
    left = only_new(study, out)
    if not left.entries:
        typer.echo(f"everything is scored already; see {out / 'learning_rate.md'}")
        return
    planned = dry_run or commands
    machine = machine_of(
        device, cores, gpus, per_run, None, None, None, planned=planned, study=study
    )
    finish = partial(
        score_rates, left, per_task=per_task, samples=samples, out=out, command=command_line(),
        say=partial(typer.echo, err=as_json),
    )  # fmt: skip
    carry_out(
        make_schedule(left, machine),
        dry_run=dry_run,
        as_json=as_json,
        commands=commands,
        finish=finish,
    )


def parse_rates(text: str) -> list[float]:
    """ "2e-3,4e-3" -> [0.002, 0.004].

    Raises:
        ValueError: unless every part is a number above 0.
    """
    rates = []
    for word in parse_list(text, "--rates"):
        try:
            value = float(word)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ValueError(
                f"--rates takes numbers above 0 separated by commas (2e-3,4e-3), got {word!r}"
            )
        rates.append(value)
    return rates
