"""`selfe-bench prompts`: writes the prompts of a suite."""

from __future__ import annotations

from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import tell_clip_limit


def prompts(
    suite: Annotated[str, typer.Option(help="Suite, with its version.")] = "geneval@1",
    split: options.Split = "",
    prompts: options.PromptFile = None,
) -> None:
    """Print a suite's records as JSON lines."""
    from evals.registry import open_suite
    from evals.suites.base import records_as_jsonl

    records = open_suite(suite, split, prompts).records
    typer.echo(records_as_jsonl(records), nl=False)
    if prompts is not None:
        tell_clip_limit(records)
