"""`selfe-bench headroom`: the exact Flow Matching model of a shapes world, scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import command_line, console, fitted, parse_steps
from selfe.cli.tables import Column, as_table

ShapesSuite = Annotated[str, typer.Option(help="A shapes suite, with its version.")]
Signal = Annotated[
    float | None,
    typer.Option(min=0, help="Factor on the latents, data.signal.", show_default="the recipes'"),
]
Eta = Annotated[float, typer.Option(min=0, max=1, help="Noise of a step.")]
Shift = Annotated[
    float | None,
    typer.Option(
        help="Shift mu of the time grid; a smaller one puts more steps near the data.",
        show_default="the recipe's",
    ),
]
Even = Annotated[bool, typer.Option("--even", help="Evenly spaced times, no shift.")]
Scenes = Annotated[
    int, typer.Option(min=1, help="Scenes of each prompt at first; doubled until scores settle.")
]
MostScenes = Annotated[int, typer.Option(min=1, help="Scenes of each prompt at most.")]
Tolerance = Annotated[
    float, typer.Option(min=0, help="Scores have settled when doubling changes none by more.")
]
SceneSeed = Annotated[int, typer.Option(min=0, help="Seed of the scenes.")]
OutFile = Annotated[
    Path | None, typer.Option(help="Write the result there, as JSON.", dir_okay=False)
]


def headroom(
    suite: ShapesSuite = "shapes@1",
    steps: options.Steps = "1,2,3,4,8,50",
    signal: Signal = None,
    split: options.Split = "",
    limit: options.Limit = None,
    images_per_prompt: options.ImagesPerPrompt = None,
    eta: Eta = 0.0,
    shift: Shift = None,
    even: Even = False,
    scenes: Scenes = 512,
    most_scenes: MostScenes = 2048,
    tolerance: Tolerance = 0.01,
    seed: options.ImageSeed = 0,
    scene_seed: SceneSeed = 0,
    out: OutFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Score the exact Flow Matching model of a shapes world: what steps cost without guidance."""
    from evals.registry import SUITES

    SUITES.require(suite)  # a typing error is answered before torch starts
    from evals.scoring.headroom import WHAT, measure_headroom, reading_words, table_rows
    from evals.scoring.settings import BenchmarkSettings
    from selfe.config.recipes import CALIBRATED_SIGNAL
    from selfe.data.shapes_world import open_world
    from selfe.encoders.registry import load_codec
    from selfe.files import write_atomically
    from selfe.generation.exact import ExactGenerator
    from selfe.provenance import provenance
    from selfe.sampler import SamplerSettings
    from selfe.sealed_files import seal

    if signal == 0:
        raise ValueError("--signal must be greater than 0")
    if scenes > most_scenes:
        raise ValueError(f"--scenes {scenes} is more than --most-scenes {most_scenes}")
    common = BenchmarkSettings(split=split, limit=limit, images_per_prompt=images_per_prompt)
    opened = common.open_suite(suite)
    if not opened.world_preset:
        raise ValueError(
            f"{suite} has no scenes to draw: it needs shapes@1, shapes-free@1 or scenes@1"
        )
    if signal is None:
        signal = CALIBRATED_SIGNAL if opened.world_preset == "grid" else 1.0
    model = ExactGenerator(
        open_world(opened.world_preset),
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
        write_atomically(out, seal(WHAT, json.loads(found.model_dump_json())))
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    rows = table_rows(found)
    always = ("steps", "exact", "headroom")
    columns = [
        Column(key, keep=None if key in always else place, right=key != "exact")
        for place, key in enumerate(reversed(rows[0]))
    ]
    typer.echo(as_table(rows, columns[::-1]) + "\n")
    typer.echo(fitted("\n".join(reading_words(found))))
