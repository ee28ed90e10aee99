"""`selfe-bench pack`: results beside their report, without images and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    runs_dir: Annotated[Path, typer.Argument(help="Folder of runs, as `report` was given it.")],
    report: Annotated[Path, typer.Argument(help="Folder of the report.")],
) -> None:
    """Keep a report's results and training histories beside it, as REPORT/results.tar.xz.

    Unpacked anywhere, `report --runs-dir RUNS_DIR` makes the same tables from it.
    """
    from selfe.studies.pack import pack_results

    path, results = pack_results(runs_dir, report)
    typer.echo(f"wrote {path}: {results} results, {path.stat().st_size / 1e6:,.1f} MB")
