"""`selfe-bench measure`: one model on every suite and measure that is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli.common import (
    RUNS,
    Device,
    RunsDir,
    Settings,
    Ticker,
    command_line,
    console,
    parse_steps,
    pick_device,
    progress_bar,
)


def measure(
    steps: Annotated[str, typer.Option(help="Sampler steps, separated by commas.")] = "2,4,8,50",
    model: Annotated[
        list[str] | None,
        typer.Option(help="RUN, RUN@STEP, a published model or diffusers:ID; repeatable."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Measure a folder in GenEval's layout instead.")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="Prompts, and what scores them; repeatable.", show_default="by model"),
    ] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="MEASURE",
            help="On the images of every suite; repeatable: diversity, cmmd, fid, kid, "
            "precision-recall, pickscore, hpsv2.1, clipscore, imagereward.",
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="SUITE=FILE", help="Your copy of a suite's prompts; repeatable."),
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Another judge than the suite's: qwen3-vl-8b, vlm, vllm, mplug.")
    ] = "",
    judge_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="For the judge: model, revision, url, dtype ..."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Folder of photographs that distances are taken to.")
    ] = None,
    features: Annotated[
        str,
        typer.Option(help="Other features than the measure's own.", show_default="by measure"),
    ] = "",
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Your own copy of a weight; repeatable."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=20, help="For intervals of distances.")] = 200,
    split: Annotated[str, typer.Option(help="For shapes suites: heldout or validation.")] = "",
    limit: Annotated[
        int | None, typer.Option(help="At most so many prompts per task: another protocol.")
    ] = None,
    images_per_prompt: Annotated[
        int | None, typer.Option(min=1, help="Images per prompt.", show_default="the suite's, 4")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 16,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Measure incomplete sets, marked as such.")
    ] = False,
    settings: Settings = None,
    model_arg: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For published models.")
    ] = None,
    runs_dir: RunsDir = RUNS,
    device: Device = "auto",
) -> None:
    """Draw each set of prompts once and measure it: accuracy, preference, diversity, distances."""
    from evals.measure import MeasureOptions
    from evals.registry import IMAGES_SUITE, MEASURES
    from evals.scoring.across import Chosen, Instruments, measure_images, measure_model
    from evals.scoring.benchmark import BenchmarkSettings
    from evals.scoring.processes import join_processes
    from selfe.cli.targets import find_targets, parse_model_args

    counts = parse_steps(steps)
    files = {name: Path(path) for name, path in _pairs(prompts, "--prompts", "SUITE=FILE").items()}
    if images is not None and (model or settings or model_arg):
        raise ValueError(
            "--images measures what was drawn: --model, --set and --model-arg do not go with it"
        )
    for name in with_ or []:
        if name not in MEASURES:
            raise ValueError(MEASURES.unknown(name))
    chosen = [Chosen(name, files.pop(name, None)) for name in suite or []]
    if files:
        raise ValueError(f"--prompts names {', '.join(files)}, which no --suite asks for")
    place = pick_device(device)
    processes = join_processes()
    instruments = Instruments(
        tuple(dict.fromkeys(with_ or [])),
        MeasureOptions(
            device=place,
            batch_size=batch_size,
            features=features,
            reference=reference,
            resamples=resamples,
            cache=runs_dir / "references",
            weights=_pairs(weights, "--weights", "NAME=PATH"),
        ),
        judge,
        parse_model_args(judge_arg or []),
    )
    instruments.opened()  # say what is missing before hours of drawing
    common = BenchmarkSettings(
        split=split,
        limit=limit,
        images_per_prompt=images_per_prompt,
        seed=seed,
        device=place,
        allow_partial=allow_partial,
        command=command_line(),
        processes=processes,
    )
    written: list[Path] = []
    with progress_bar() as bar:
        tick = Ticker(bar) if processes.rank == 0 else lambda name, done, total: None
        if images is not None:
            every = chosen or [Chosen(IMAGES_SUITE)]
            written = measure_images(images, every, runs_dir, common, instruments, tick)
        else:
            for target in find_targets(
                model or [],
                runs_dir=runs_dir,
                milestones=False,
                device=place,
                assignments=settings or [],
                model_args=model_arg or [],
            ):
                generator = target.load()
                for count in counts:
                    written += measure_model(
                        generator,
                        count,
                        chosen or [Chosen(target.suite)],
                        target.results,
                        common,
                        instruments,
                        tick,
                    )
    processes.leave()
    for path in written:
        typer.echo(_line(path))
        console.print(f"  {path}", markup=False, soft_wrap=True)


def _pairs(texts: list[str] | None, option: str, form: str) -> dict[str, str]:
    """Raises ValueError for text without "=" or a name given twice."""
    found: dict[str, str] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value:
            raise ValueError(f"{option} takes {form}, got {text!r}")
        if name.strip() in found:
            raise ValueError(f"{option} {name.strip()} is given twice")
        found[name.strip()] = value
    return found


def _line(path: Path) -> str:
    """A finding in a line."""
    from evals.measurements import read_measurement
    from evals.results import RESULT, read_result

    if path.name == RESULT:
        result = read_result(path)
        label, steps = result.model.label, result.sampling.steps
        name, shown = result.protocol.suite, result.scores.overall
        partial = result.scores.partial
    else:
        found = read_measurement(path)
        label, steps = found.model.label, found.sampling.steps
        name, shown = f"{found.instrument.name} {found.headline}", found.shown
        partial = found.partial
    score = f"{shown.mean:.4f} [{shown.low:.4f}, {shown.high:.4f}]" if shown else "no overall score"
    at = f", {steps} steps" if steps else ""
    return f"{label}{at}, {name}: {score}{', PARTIAL' if partial else ''}"
