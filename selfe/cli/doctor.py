"""`selfe-bench doctor`: checks this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import RUNS, pick_device


def doctor(
    suite: Annotated[
        str | None, typer.Option(help="Check only what this suite needs.", show_default="all")
    ] = None,
    as_json: options.AsJson = False,
    cache_dir: options.CacheDir = None,
    runs_dir: options.RunsDir = RUNS,
    device: options.Device = "auto",
) -> None:
    """Check this machine: versions, device, weights, detector, CLIP, disk, hub, folders."""
    from evals.registry import SUITES

    if suite is not None:
        SUITES.require(suite)  # a typing error is answered before torch starts
    from evals.doctor import run_checks

    # a device that is named is looked at by a check of its own, whether or not it is there
    place = pick_device(device) if device == "auto" else device
    checks = run_checks(suite, place, cache_dir, runs_dir)
    if as_json:
        typer.echo(json.dumps({"checks": [asdict(check) for check in checks]}, indent=1))
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
            if check.fix:
                typer.echo(f"      fix: {check.fix}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
