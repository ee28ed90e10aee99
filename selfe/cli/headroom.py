"""selfe-bench headroom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli.common import command_line, console, parse_steps


def headroom(
    suite: Annotated[str, typer.Option(help="A shapes suite, with its version.")] = "shapes@1",
    steps: Annotated[
        str, typer.Option(help="Sampler steps, separated by commas.")
    ] = "1,2,3,4,8,50",
    signal: Annotated[float, typer.Option(min=0, help="Factor on the latents, data.signal.")] = 1.0,
    split: Annotated[str, typer.Option(help="heldout or validation.", show_default="heldout")] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many prompts per task.")
    ] = None,
    images_per_prompt: Annotated[
        int | None, typer.Option(min=1, help="Images per prompt.", show_default="the suite's, 4")
    ] = None,
    eta: Annotated[float, typer.Option(min=0, max=1, help="Noise of a step.")] = 0.0,
    shift: Annotated[
        float | None,
        typer.Option(
            help="Shift mu of the time grid; less is nearer to the data.",
            show_default="the recipe's",
        ),
    ] = None,
    even: Annotated[bool, typer.Option("--even", help="Evenly spaced times, no shift.")] = False,
    scenes: Annotated[
        int, typer.Option(min=1, help="Scenes of each prompt to begin with; doubled.")
    ] = 512,
    most_scenes: Annotated[int, typer.Option(min=1, help="Scenes of each prompt at most.")] = 2048,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Change of a score by which more scenes are wanted.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
    scene_seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the result there, as JSON.", dir_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Score the exact Flow Matching model of a shapes world: what is left for any method."""
    from evals.scoring.benchmark import BenchmarkSettings
    from evals.scoring.headroom import as_markdown, measure_headroom
    from selfe.data.shapes_world import ShapesWorld
    from selfe.encoders.registry import load_codec
    from selfe.files import write_atomically
    from selfe.generation.exact import ExactGenerator
    from selfe.provenance import provenance
    from selfe.sampler import SamplerSettings

    if signal == 0:
        raise ValueError("--signal must be greater than 0")
    if scenes > most_scenes:
        raise ValueError(f"--scenes {scenes} is more than --most-scenes {most_scenes}")
    common = BenchmarkSettings(split=split, limit=limit, images_per_prompt=images_per_prompt)
    opened = common.open_suite(suite)
    if not opened.world_preset:
        raise ValueError(f"scenes of {suite} cannot be drawn: headroom is of the shapes suites")
    model = ExactGenerator(
        ShapesWorld(opened.world_preset),
        opened.records,
        load_codec(f"shapes-{opened.world_preset}", "cpu", signal=signal),
        num_scenes=scenes,
        settings=SamplerSettings(eta=eta, warp=not even, shift=shift),
        signal=signal,
        seed=scene_seed,
    )
    found = measure_headroom(
        model,
        opened,
        parse_steps(steps),
        most_scenes=most_scenes,
        seed=seed,
        signal=signal,
        tolerance=tolerance,
        progress=lambda text: console.print(text, markup=False, soft_wrap=True),
    )
    found = found.model_copy(update={"environment": provenance(), "command": command_line()})
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, found.model_dump_json(indent=1) + "\n")
    typer.echo(found.model_dump_json(indent=1) if as_json else as_markdown(found), nl=as_json)
