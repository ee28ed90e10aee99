"""`selfe-bench geneval`: draws a suite's images and scores them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import (
    RUNS,
    Ticker,
    command_line,
    parse_steps,
    pick_device,
    progress_bar,
    tell,
    tell_clip_limit,
)

if TYPE_CHECKING:
    from evals.base import Result
    from evals.scoring.benchmark import Progress
    from evals.scoring.settings import BenchmarkSettings
    from selfe.cli.targets import Target

Scored = list[tuple[Path, "Result"]]
"""Folders of results, and the results; on process 0 alone."""

Milestones = Annotated[
    bool, typer.Option("--milestones", help="Score every milestone of the runs (Fig. 5).")
]
DetectorName = Annotated[
    str | None,
    typer.Option(
        help="Another detector than the suite's; mask2former-mmdet-2 prepares images in 8 bits "
        "as GenEval's environment does, mask2former-compiled saves time on many images of one size."
    ),
]
ColorClassifierName = Annotated[
    str | None,
    typer.Option(
        help="Another colour classifier than the suite's; clip-fp16 computes in half precision "
        "as GenEval's script does."
    ),
]
DetectorBatch = Annotated[
    int | None,
    typer.Option(min=1, help="Images per detector call.", show_default="the detector's own"),
]
Inference = Annotated[
    str,
    typer.Option(
        help="How runs are drawn: paper (omega 5, EP-CFG, eta 1), paper-ancestral, searched.",
        show_default="the run's own section sampling",
    ),
]
CropBlackBorders = Annotated[
    bool,
    typer.Option(
        "--crop-black-borders",
        help="Cut black borders off before saving, as BAGEL's evaluation does; recorded.",
    ),
]


def geneval(
    steps: options.Steps = "2,4,8,50",
    model: options.Models = None,
    images: options.ImageFolder = None,
    milestones: Milestones = False,
    suite: options.Suite = None,
    split: options.Split = "",
    prompts: options.PromptFile = None,
    limit: options.Limit = None,
    images_per_prompt: options.ImagesPerPrompt = None,
    seed: options.ImageSeed = 0,
    detector: DetectorName = None,
    color_classifier: ColorClassifierName = None,
    batch_size: DetectorBatch = None,
    allow_partial: options.AllowPartial = False,
    inference: Inference = "",
    crop: CropBlackBorders = False,
    settings: options.Settings = None,
    model_arg: options.ModelArgs = None,
    runs_dir: options.RunsDir = RUNS,
    device: options.Device = "auto",
) -> None:
    """Draw a suite's images and score them.

    The same command continues what was interrupted. Under torchrun the processes share the work.
    """
    counts = parse_steps(steps)
    if images is not None and (model or milestones or settings or model_arg or inference or crop):
        raise ValueError(
            "--images scores images that exist already: leave out --model, --milestones, "
            "--set, --inference, --crop-black-borders and --model-arg"
        )
    # a typing error is answered before torch starts
    _require_names(suite, detector, color_classifier)
    targets: list[Target] = []
    if images is None:
        from selfe.cli.targets import find_targets

        targets = find_targets(
            model or [],
            runs_dir=runs_dir,
            milestones=milestones,
            device=device,
            assignments=settings or [],
            model_args=model_arg or [],
            inference=inference,
        )
    from evals.scoring.processes import join_processes
    from evals.scoring.settings import BenchmarkSettings

    place = pick_device(device)
    processes = join_processes()
    chosen = BenchmarkSettings(
        split=split,
        prompts=prompts,
        limit=limit,
        images_per_prompt=images_per_prompt,
        seed=seed,
        detector=detector,
        color_classifier=color_classifier,
        device=place,
        batch_size=batch_size,
        allow_partial=allow_partial,
        command=command_line(),
        processes=processes,
    )
    with progress_bar() as bar:
        tick = Ticker(bar) if processes.rank == 0 else lambda name, done, total: None
        if images is not None:
            scored = score_drawn(images, suite, runs_dir, chosen, tick)
        else:
            scored = draw_and_score(targets, counts, suite, crop, chosen, tick)
    processes.leave()
    tell_scores(scored)


def _require_names(suite: str | None, detector: str | None, classifier: str | None) -> None:
    from evals.registry import COLOR_CLASSIFIERS, DETECTORS, SUITES

    for table, name in ((SUITES, suite), (DETECTORS, detector), (COLOR_CLASSIFIERS, classifier)):
        if name is not None:
            table.require(name)


def score_drawn(
    images: Path, suite: str | None, runs_dir: Path, settings: BenchmarkSettings, tick: Progress
) -> Scored:
    """Score a folder in GenEval's layout, by GenEval's own prompts unless others are named."""
    from evals.registry import IMAGES_SUITE, PHOTO_SUITE
    from evals.scoring.benchmark import score_images

    own_prompts = settings.prompts is not None
    if own_prompts and settings.processes.rank == 0:
        tell_clip_limit(settings.open_suite(suite or PHOTO_SUITE).records)
    named = suite or (PHOTO_SUITE if own_prompts else IMAGES_SUITE)
    scored = score_images(images, named, runs_dir, settings, tick)
    return [] if scored is None else [scored]


def draw_and_score(
    targets: Sequence[Target],
    counts: Sequence[int],
    suite: str | None,
    crop: bool,
    settings: BenchmarkSettings,
    tick: Progress,
) -> Scored:
    """Draw and score every model at every number of steps.

    Raises:
        ValueError: before anything is drawn, if a model cannot draw the suite's world.
    """
    from evals.scoring.benchmark import score_model
    from evals.scoring.crop import CropsBlackBorders

    for target in targets:
        world = settings.open_suite(suite or target.suite).world_preset
        if target.preset and world and target.preset != world:
            raise ValueError(
                f"{target.name} draws the {target.preset} preset of the shapes world and "
                f"{suite} is of the {world} one: leave --suite out"
            )
    found: Scored = []
    for target in targets:
        generator = CropsBlackBorders(target.load()) if crop else target.load()
        for count in counts:
            scored = score_model(
                generator, count, suite or target.suite, target.results, settings, tick
            )
            if scored is not None:
                found.append(scored)
    return found


def tell_scores(scored: Scored) -> None:
    """The tables on stdout; on stderr the folders, and what a reader of the scores must know."""
    from evals.verdicts import differing_verdicts
    from selfe.cli.score_table import score_tables

    if scored:
        typer.echo(score_tables([result for _, result in scored]))
    for folder, result in scored:
        for encoder, count in result.truncated_prompts.items():
            if count:
                cut = f"{count} of {result.protocol.num_prompts} prompts were cut"
                tell(f"  {cut} for the text encoder {encoder}")
        tell(f"  {folder}")
        if folder.name.startswith(("detector-", "colors-")):
            if changed := differing_verdicts(folder, folder.parent):
                tell(f"  {changed}")
