"""`selfe-bench fetch`: downloads published weights and checks their hashes."""

from __future__ import annotations

from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import Ticker, console, progress_bar


def fetch(
    what: Annotated[
        str,
        typer.Argument(
            help="geneval, geneval-long (the prompts of Table 1), geneval2, preference, "
            "distribution, diversity, dreamsim, or one weight by name."
        ),
    ] = "geneval",
    cache_dir: options.CacheDir = None,
) -> None:
    """Download the weights of detectors, judges and measures, resumable and checked."""
    from evals.published import fetch as download

    with progress_bar() as bar:
        tick = Ticker(bar)
        paths = download(what, cache_dir, lambda name, done, total: tick(name, done, total or done))
    for path in paths:
        console.print(f"in place: {path}", markup=False, soft_wrap=True)
