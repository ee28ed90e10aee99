"""selfe-bench geneval, rescore and compare."""

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
    parse_steps,
    pick_device,
    progress_bar,
    tell,
    tell_clip_limit,
)
from selfe.cli.completion import complete_models, complete_suites

SuiteOption = Annotated[
    str | None,
    typer.Option(
        help="Prompts and rules, with version.",
        show_default="by model: shapes@1 ...",
        autocompletion=complete_suites,
    ),
]
PromptsOption = Annotated[
    Path | None, typer.Option(help="Prompt file of geneval-long@1.", dir_okay=False)
]


def geneval(
    steps: Annotated[str, typer.Option(help="Sampler steps, separated by commas.")] = "2,4,8,50",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="RUN, RUN@STEP, a published model or diffusers:ID; repeatable. "
            "Every finished run if absent.",
            autocompletion=complete_models,
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Score a folder in GenEval's layout instead.")
    ] = None,
    milestones: Annotated[
        bool, typer.Option("--milestones", help="Score every milestone of the runs (Fig. 5).")
    ] = False,
    suite: SuiteOption = None,
    split: Annotated[
        str, typer.Option(help="For shapes suites: heldout or validation.", show_default="heldout")
    ] = "",
    prompts: PromptsOption = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many prompts per task: another protocol.")
    ] = None,
    images_per_prompt: Annotated[
        int | None, typer.Option(min=1, help="Images per prompt.", show_default="the suite's, 4")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Another detector than the suite's; mask2former-mmdet-2 prepares images in 8 bits "
            "as GenEval's environment does."
        ),
    ] = None,
    color_classifier: Annotated[
        str | None,
        typer.Option(
            help="Another colour classifier than the suite's; clip-fp16 computes in half precision "
            "as GenEval's script does."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images per detector call.", show_default="the detector's own"),
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score incomplete sets, marked in every table.")
    ] = False,
    inference: Annotated[
        str,
        typer.Option(
            help="How runs are drawn: paper (omega 5, EP-CFG, eta 1), paper-ancestral, searched.",
            show_default="the run's own section sampling",
        ),
    ] = "",
    crop: Annotated[
        bool,
        typer.Option(
            "--crop-black-borders",
            help="Cut black borders off before saving, as BAGEL's evaluation does; recorded.",
        ),
    ] = False,
    settings: Settings = None,
    model_arg: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For published models.")
    ] = None,
    runs_dir: RunsDir = RUNS,
    device: Device = "auto",
) -> None:
    """Draw a suite's images and score them.

    The same command continues what was interrupted. Under torchrun the processes share the work.
    """
    from evals.registry import IMAGES_SUITE, PHOTO_SUITE
    from selfe.cli.targets import Target, find_targets

    counts = parse_steps(steps)
    if images is not None and (model or milestones or settings or model_arg or inference or crop):
        raise ValueError(
            "--images scores what was drawn: --model, --milestones, --set, --inference, "
            "--crop-black-borders and --model-arg do not go with it"
        )
    targets: list[Target] = []
    if images is None:  # a typing error is answered before torch starts
        targets = find_targets(
            model or [],
            runs_dir=runs_dir,
            milestones=milestones,
            device=device,
            assignments=settings or [],
            model_args=model_arg or [],
            inference=inference,
        )
    from evals.base import Result
    from evals.scoring.benchmark import BenchmarkSettings, score_images, score_model
    from evals.scoring.crop import CropsBlackBorders
    from evals.scoring.processes import join_processes
    from evals.verdicts import differing_verdicts

    place = pick_device(device)
    processes = join_processes()
    common = BenchmarkSettings(
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
    results: list[tuple[Path, Result]] = []
    with progress_bar() as bar:
        tick = Ticker(bar) if processes.rank == 0 else lambda name, done, total: None
        if images is not None:
            if prompts is not None and processes.rank == 0:
                tell_clip_limit(common.open_suite(suite or PHOTO_SUITE).records)
            named = suite or (PHOTO_SUITE if prompts is not None else IMAGES_SUITE)
            scored = score_images(images, named, runs_dir, common, tick)
            if scored is not None:
                results.append(scored)
        else:
            for target in targets:  # all of them before the first image is drawn
                world = common.open_suite(suite or target.suite).world_preset
                if target.preset and world and target.preset != world:
                    raise ValueError(
                        f"{target.name} draws the {target.preset} preset of the shapes world and "
                        f"{suite} is of the {world} one: leave --suite out"
                    )
            for target in targets:
                generator = CropsBlackBorders(target.load()) if crop else target.load()
                for count in counts:
                    scored = score_model(
                        generator, count, suite or target.suite, target.results, common, tick
                    )
                    if scored is not None:
                        results.append(scored)
    processes.leave()
    if results:
        from selfe.cli.score_table import score_tables

        typer.echo(score_tables([result for _, result in results]))
    for folder, result in results:
        for encoder, count in result.truncated_prompts.items():
            if count:
                cut = f"{count} of {result.protocol.num_prompts} prompts were cut"
                tell(f"  {cut} for the text encoder {encoder}")
        tell(f"  {folder}")
        if folder.name.startswith(("detector-", "colors-")):
            if changed := differing_verdicts(folder, folder.parent):
                tell(f"  {changed}")
