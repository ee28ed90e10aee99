"""`selfe-bench demo`: small trained models drawn, judged and shown, nothing trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import RUNS, Ticker, parse_steps, pick_device, progress_bar
from selfe.cli.completion import complete_runs
from selfe.cli.tables import Column, as_table


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the page.", file_okay=False)] = Path(
        "reports/local/demo"
    ),
    steps: options.Steps = "2,4,8",
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own run instead of the shipped models; repeatable.",
            autocompletion=complete_runs,
        ),
    ] = None,
    seed: options.ImageSeed = 0,
    runs_dir: options.RunsDir = RUNS,
    device: options.Device = "auto",
) -> None:
    """Draw, judge and show small trained models in about a minute. Nothing is trained."""
    from selfe.run_folder.packed_weights import load_packed, read_manifest
    from selfe.run_folder.records import require_run

    counts = parse_steps(steps)
    chosen = [require_run(name, runs_dir) for name in run or []]
    assets = Path(__file__).resolve().parent.parent / "assets"
    packed = read_manifest(assets / "demo.json")
    if not chosen and not packed:
        raise ValueError(
            "this installation ships no models for the demo: name runs of the shapes world with "
            "--run, or pack them with `python -m scripts.weights.demo_models RUN ...`"
        )
    from selfe.api.demo import demo_prompts, draw_and_judge, write_page
    from selfe.api.geneval import GenEval
    from selfe.run_folder.model import load_run

    place = pick_device(device)
    models = [load_run(folder, step=step, device=place) for folder, step in chosen] or [
        load_packed(model, assets, place) for model in packed
    ]
    prompts = demo_prompts()
    with progress_bar() as bar:
        drawn = draw_and_judge(
            models,
            prompts,
            counts,
            GenEval(place, suite="shapes@1"),
            seed=seed,
            progress=Ticker(bar).job("drawing and judging"),
        )
    page = write_page(drawn, prompts, out / "index.html")
    rows = [
        {"model": each.label, "steps": each.steps, "right": f"{each.score.mean:.2f}",
         "interval": f"[{each.score.low:.2f}, {each.score.high:.2f}]"}
        for each in drawn
    ]  # fmt: skip
    columns = (Column("model"), Column("steps", right=True), Column("right", right=True),
               Column("interval", "95% interval"))  # fmt: skip
    typer.echo(as_table(rows, columns))
    typer.echo(f"right: share of {len(drawn[0].images)} images; a look, not a measurement")
    typer.echo(f"look at {page}")
