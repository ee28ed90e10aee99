"""`selfe-bench compare`: two results, paired by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[Path, typer.Argument(help="Result folder, or a measurement measures/NAME.json.")],
    b: Annotated[Path, typer.Argument(help="The same of another model, under the same protocol.")],
    over: Annotated[
        Path | None,
        typer.Option(
            help="Folder with results of other training seeds: compare the two configurations over "
            "the seeds that both have there.",
            file_okay=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Paired comparison over prompts: differences, intervals, prompts that flipped."""
    from evals.measurements import MEASURES
    from evals.report import compare, compare_seeds
    from evals.report.compare_measurements import compare_measurements
    from evals.report.result_folders import collect

    if a.is_file() and b.is_file() and a.parent.name == b.parent.name == MEASURES:
        measured = compare_measurements(a, b)
        typer.echo(measured.model_dump_json(indent=1) if as_json else measured.text)
        return
    if over is not None:
        over_seeds = compare_seeds.compare_trainings(a, b, collect([over]))
        as_text = compare_seeds.as_markdown(over_seeds)
        typer.echo(over_seeds.model_dump_json(indent=1) if as_json else as_text)
        return
    paired = compare.compare(a, b)
    typer.echo(paired.model_dump_json(indent=1) if as_json else compare.as_markdown(paired))
