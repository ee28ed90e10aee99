"""`selfe-bench rescore`: judges stored detections again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli.geneval import PromptsOption


def rescore(
    suite: Annotated[str, typer.Option(help="Suite whose records and rules apply.")],
    detections: Annotated[Path, typer.Option(help="Stored detections, JSON lines.")],
    out: Annotated[Path, typer.Option(help="Verdicts, JSON lines.")],
    split: Annotated[str, typer.Option(help="For shapes suites: heldout or validation.")] = "",
    prompts: PromptsOption = None,
    limit: Annotated[int | None, typer.Option(help="As geneval was run with.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Detection threshold.", show_default="0.3")
    ] = None,
    counting_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="For counting.", show_default="0.9")
    ] = None,
    max_overlap: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Overlap from which boxes merge.", show_default="off"),
    ] = None,
) -> None:
    """Apply thresholds and rules again to stored detections."""
    from evals.registry import open_suite
    from evals.scoring.detections import rescore as apply_rules
    from evals.suites.limit import limited
    from evals.suites.rules import RuleSettings

    given = {
        "threshold": threshold,
        "counting_threshold": counting_threshold,
        "max_overlap": max_overlap,
    }
    rules = RuleSettings.model_validate({k: v for k, v in given.items() if v is not None})
    records = limited(open_suite(suite, split, prompts), limit).records
    verdicts = apply_rules(records, detections, out, rules)
    right = sum(verdict.correct for verdict in verdicts)
    typer.echo(f"{right} of {len(verdicts)} images correct; verdicts in {out}")
