"""`selfe-bench export`: a run as a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import RUNS


def export(
    run: options.RunArgument,
    out: Annotated[Path, typer.Option(help="New folder for the pipeline.")],
    runs_dir: options.RunsDir = RUNS,
) -> None:
    """Write a run as a diffusers pipeline that loads without this project."""
    from selfe.run_folder.records import require_run

    folder, step = require_run(run, runs_dir)
    from selfe.export.save import export_run  # starts torch: a typing error is answered before

    written = export_run(folder, out, step=step)
    typer.echo(f"wrote {written}")
    typer.echo(
        f"load it: diffusers.DiffusionPipeline.from_pretrained({str(written)!r}, "
        "trust_remote_code=True)"
    )
