"""`selfe-bench prompts`: writes the prompts of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli.common import tell_clip_limit


def prompts(
    suite: Annotated[str, typer.Option(help="Suite, with its version.")] = "geneval@1",
    split: Annotated[str, typer.Option(help="For shapes suites: heldout or validation.")] = "",
    file: Annotated[
        Path | None, typer.Option("--prompts", help="Prompt file of geneval-long@1.")
    ] = None,
) -> None:
    """Print a suite's records as JSON lines."""
    from evals.registry import open_suite
    from evals.suites.base import records_as_jsonl

    records = open_suite(suite, split, file).records
    typer.echo(records_as_jsonl(records), nl=False)
    if file is not None:
        tell_clip_limit(records)
