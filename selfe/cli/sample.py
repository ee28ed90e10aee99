"""`selfe-bench sample`: draws a few images of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import (
    RUNS,
    Ticker,
    parse_steps,
    progress_bar,
    warn,
)
from selfe.cli.completion import complete_models
from selfe.temporaries import remove_leftovers


def sample(
    model: Annotated[
        str,
        typer.Option(
            help="Run (RUN or RUN@STEP), model name or diffusers:ID.",
            autocompletion=complete_models,
        ),
    ],
    prompt: Annotated[list[str], typer.Option(help="What to draw; repeatable.")],
    steps: options.Steps = "2,4,8,50",
    out: Annotated[Path, typer.Option(help="Folder for the images and grid.png.")] = Path(
        "samples"
    ),
    seed: options.ImageSeed = 0,
    settings: options.Settings = None,
    model_arg: options.ModelArgs = None,
    runs_dir: options.RunsDir = RUNS,
    device: options.Device = "auto",
) -> None:
    """Draw prompts at several numbers of steps, and a grid whose rows are step counts."""
    from selfe.cli import suspicions
    from selfe.cli.targets import find_targets
    from selfe.generator import image_seed
    from selfe.text import printable, require_storable

    counts = parse_steps(steps)
    for text in prompt:
        require_storable(text, f"--prompt {printable(text)}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out takes a folder, and {out} is a file")
    (target,) = find_targets(
        [model],
        runs_dir=runs_dir,
        milestones=False,
        device=device,
        assignments=settings or [],
        model_args=model_arg or [],
    )
    if target.preset:
        warn(suspicions.of_prompts(prompt, target.preset))
    generator = target.load()
    from selfe.generation.contact_sheet import write_sheet  # torch is there by now

    seeds = [image_seed(seed, text, 0) for text in prompt]
    rows = []
    with progress_bar() as bar:
        tick = Ticker(bar)
        for done, count in enumerate(counts, start=1):
            rows.append(generator.generate(prompt, count, seeds))
            tick("drawing", done, len(counts))
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    for count, row in zip(counts, rows, strict=True):
        for number, image in enumerate(row):
            write_sheet(out / f"{number:03d}-steps-{count:03d}.png", [[image]])
    write_sheet(out / "grid.png", rows)
    typer.echo(f"wrote {out / 'grid.png'}")
