"""`selfe-bench rescore`: judges stored detections or answers again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli import options


def rescore(
    suite: Annotated[str, typer.Option(help="Suite whose records and rules apply.")],
    out: Annotated[Path, typer.Option(help="Verdicts or scores, JSON lines.")],
    detections: Annotated[Path | None, typer.Option(help="Stored detections, JSON lines.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Stored answers of a judge, JSON lines.")
    ] = None,
    split: options.Split = "",
    prompts: options.PromptFile = None,
    limit: options.Limit = None,
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
    """Apply thresholds and rules again to stored detections, or sum up stored answers again."""
    from evals.registry import open_suite
    from evals.scoring.detections import rescore_file
    from evals.suites.limit import limited
    from evals.suites.rules import RuleSettings

    given = {
        "threshold": threshold,
        "counting_threshold": counting_threshold,
        "max_overlap": max_overlap,
    }
    thresholds = {k: v for k, v in given.items() if v is not None}
    if (detections is None) == (answers is None):
        raise ValueError("give either --detections FILE or --answers FILE")
    asked = limited(open_suite(suite, split, prompts), limit)
    if answers is not None:
        from evals.scoring.judged import rescore_answers

        if thresholds:
            raise ValueError(
                f"thresholds do not apply to --answers: leave out {', '.join(thresholds)}"
            )
        for name, value in rescore_answers(asked, answers, out).items():
            typer.echo(f"{name}: {value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]")
        typer.echo(f"scores of every image in {out}")
        return
    if asked.judge or detections is None:
        raise ValueError(f"{suite} is scored by a judge: give --answers, not --detections")
    rules = RuleSettings.model_validate(thresholds)
    right, images = rescore_file(asked.records, detections, out, rules)
    typer.echo(f"{right} of {images} images correct; verdicts in {out}")
