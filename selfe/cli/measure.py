"""`selfe-bench measure`: one model on every suite and measure that is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import (
    RUNS,
    Ticker,
    command_line,
    console,
    parse_pairs,
    parse_steps,
    pick_device,
    progress_bar,
    warn,
)

if TYPE_CHECKING:
    from evals.scoring.across import Chosen, Instruments
    from evals.scoring.benchmark import Progress
    from evals.scoring.settings import BenchmarkSettings
    from selfe.cli.targets import Target

Suites = Annotated[
    list[str] | None,
    typer.Option(help="Prompts, and what scores them; repeatable.", show_default="by model"),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="MEASURE",
        help="On the images of every suite; repeatable: diversity, cmmd, fid, kid, "
        "precision-recall, pickscore, hpsv2.1, clipscore, imagereward.",
    ),
]
PromptFiles = Annotated[
    list[str] | None,
    typer.Option(metavar="SUITE=FILE", help="Your copy of a suite's prompts; repeatable."),
]
Judge = Annotated[
    str, typer.Option(help="Another judge than the suite's: qwen3-vl-8b, vlm, vllm, mplug.")
]
JudgeArgs = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="For the judge: model, revision, url, dtype ..."),
]
Reference = Annotated[
    Path | None, typer.Option(help="Folder of photographs that distances are measured to.")
]
Features = Annotated[
    str, typer.Option(help="Other features than the measure's own.", show_default="by measure")
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PLACE",
        help="Other weights: your file or folder, or OWNER/NAME@COMMIT of the hub; repeatable.",
    ),
]
Resamples = Annotated[int, typer.Option(min=20, help="Resamples for the intervals of distances.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]


def measure(
    steps: options.Steps = "2,4,8,50",
    model: options.Models = None,
    images: options.ImageFolder = None,
    suite: Suites = None,
    with_: With = None,
    prompts: PromptFiles = None,
    judge: Judge = "",
    judge_arg: JudgeArgs = None,
    reference: Reference = None,
    features: Features = "",
    weights: Weights = None,
    resamples: Resamples = 200,
    split: options.Split = "",
    limit: options.Limit = None,
    images_per_prompt: options.ImagesPerPrompt = None,
    seed: options.ImageSeed = 0,
    batch_size: BatchSize = 16,
    allow_partial: options.AllowPartial = False,
    settings: options.Settings = None,
    model_arg: options.ModelArgs = None,
    runs_dir: options.RunsDir = RUNS,
    device: options.Device = "auto",
) -> None:
    """Draw each set of prompts once and measure it: accuracy, preference, diversity, distances."""
    from evals.registry import FEATURES, IMAGES_SUITE, JUDGES, MEASURES, SUITES

    counts = parse_steps(steps)
    if images is not None and (model or settings or model_arg):
        raise ValueError(
            "--images measures images that exist already: leave out --model, --set and --model-arg"
        )
    # a typing error is answered before torch starts
    named = ((MEASURES, with_ or []), (SUITES, suite or []), (JUDGES, [judge]))
    for table, names in (*named, (FEATURES, [features])):
        for name in filter(None, names):
            table.require(name)
    places = parse_pairs(weights or [], "--weights", "NAME=PLACE")
    targets: list[Target] = []
    if images is None:
        from selfe.cli.targets import find_targets

        targets = find_targets(
            model or [],
            runs_dir=runs_dir,
            milestones=False,
            device=device,
            assignments=settings or [],
            model_args=model_arg or [],
        )
    from evals.measure import MeasureOptions
    from evals.scoring.across import Chosen, Instruments, measure_images
    from evals.scoring.processes import join_processes
    from evals.scoring.settings import BenchmarkSettings

    suites = _suites(suite or [], prompts or [])
    warn(_unread(places))
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
            weights=places,
        ),
        judge,
        parse_pairs(judge_arg or [], "--judge-arg", "KEY=VALUE", allow_empty=True),
    )
    chosen = BenchmarkSettings(
        split=split,
        limit=limit,
        images_per_prompt=images_per_prompt,
        seed=seed,
        device=place,
        allow_partial=allow_partial,
        command=command_line(),
        processes=processes,
    )
    opened = (replace(chosen, prompts=each.prompts).open_suite(each.name) for each in suites)
    if (judge or judge_arg) and not any(suite.judge for suite in opened):
        raise ValueError(
            "--judge and --judge-arg change nothing here: none of the suites asks a judge. Name "
            "one that does with --suite: geneval2@1, dpg@1 or dpg-official"
        )
    instruments.opened()  # say what is missing before hours of drawing
    with progress_bar() as bar:
        tick = Ticker(bar) if processes.rank == 0 else lambda name, done, total: None
        if images is not None:
            every = suites or [Chosen(IMAGES_SUITE)]
            written = measure_images(images, every, runs_dir, chosen, instruments, tick)
        else:
            written = draw_and_measure(targets, counts, suites, chosen, instruments, tick)
    processes.leave()
    for path in written:
        typer.echo(_line(path))
        console.print(f"  {path}", markup=False, soft_wrap=True)


def draw_and_measure(
    targets: Sequence[Target],
    counts: Sequence[int],
    suites: Sequence[Chosen],
    settings: BenchmarkSettings,
    instruments: Instruments,
    tick: Progress,
) -> list[Path]:
    """Measure every model at every number of steps, on its own suite unless others are named.

    Returns:
        Files of the findings, on process 0.
    """
    from evals.scoring.across import Chosen, measure_model

    written: list[Path] = []
    for target in targets:
        generator, every = target.load(), suites or [Chosen(target.suite)]
        for count in counts:
            written += measure_model(
                generator, count, every, target.results, settings, instruments, tick
            )
    return written


def _unread(names: Iterable[str]) -> list[str]:
    """A sentence for every weight that no measure of this project reads."""
    from evals.published import HUB_WEIGHTS, OTHER_WEIGHTS

    known = [*HUB_WEIGHTS, *OTHER_WEIGHTS]
    return [
        f"no measure here reads the weights {name!r} (known: {', '.join(known)})"
        for name in names
        if name not in known
    ]


def _suites(names: list[str], prompts: list[str]) -> list[Chosen]:
    """Suites by name, each with the user's file of its prompts where there is one.

    Raises:
        ValueError: for a file of a suite that is not among them.
    """
    from evals.scoring.across import Chosen

    files = {
        name: Path(path) for name, path in parse_pairs(prompts, "--prompts", "SUITE=FILE").items()
    }
    chosen = [Chosen(name, files.pop(name, None)) for name in names]
    if files:
        raise ValueError(f"--prompts names {', '.join(files)}, but no --suite does")
    return chosen


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
