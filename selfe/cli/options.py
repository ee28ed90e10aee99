"""Options that several commands share, each declared once: name, help, limits and completion.

What one command alone takes stands in its own file, above it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli.completion import (
    complete_methods,
    complete_models,
    complete_recipes,
    complete_runs,
    complete_settings,
    complete_suites,
)
from selfe.objectives.registry import METHODS

# Folders, device, output.
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of training runs and results.")]
Device = Annotated[
    str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.", metavar="DEVICE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
CacheDir = Annotated[
    Path | None, typer.Option(help="Folder of downloaded weights.", show_default="user cache")
]

# A training.
Method = Annotated[
    str, typer.Option(help=f"Objective: {', '.join(METHODS)}.", autocompletion=complete_methods)
]
Variant = Annotated[str, typer.Option(help="Ablation of the method, as `ls methods` lists them.")]
Recipe = Annotated[
    str,
    typer.Option(
        help="What to train: shapes, shapes-easy, shapes-quick, scenes, shapes-64, "
        "0.5b or 2b; "
        "see `ls recipes`.",
        autocompletion=complete_recipes,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        autocompletion=complete_settings,
        help="Override a setting; repeatable. `ls settings` explains them.",
    ),
]

# Models, and how they are drawn.
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="RUN or RUN@STEP.", autocompletion=complete_runs)
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        help="RUN, RUN@STEP, a published model or diffusers:ID; repeatable. "
        "Every finished run if absent.",
        autocompletion=complete_models,
    ),
]
ModelArgs = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="For published models.")
]
Steps = Annotated[str, typer.Option(help="Sampler steps, separated by commas.")]
ImageSeed = Annotated[int, typer.Option(min=0, help="Seed of the images.")]

# Prompts, and how images are scored.
ImageFolder = Annotated[
    Path | None, typer.Option(help="Score a folder in GenEval's layout instead.")
]
Suite = Annotated[
    str | None,
    typer.Option(
        help="Prompts and rules, with version.",
        show_default="by model: shapes@1 ...",
        autocompletion=complete_suites,
    ),
]
Split = Annotated[
    str, typer.Option(help="For shapes suites: heldout or validation.", show_default="heldout")
]
PromptFile = Annotated[
    Path | None, typer.Option(help="Prompt file of geneval-long@1.", dir_okay=False)
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="At most so many prompts per task: another protocol.")
]
ImagesPerPrompt = Annotated[
    int | None, typer.Option(min=1, help="Images per prompt.", show_default="the suite's, 4")
]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Score incomplete sets, marked as partial.")
]

# Many trainings side by side.
Seeds = Annotated[
    str | None, typer.Option(help="Training seeds, separated by commas.", show_default="0")
]
StudyRunsDir = Annotated[
    Path | None, typer.Option(help="Folder of the trainings.", show_default="runs/NAME")
]
StudyOut = Annotated[
    Path | None, typer.Option(help="Folder of the report.", show_default="reports/local/NAME")
]
StudyDevice = Annotated[
    str, typer.Option(help="cpu, cuda, or auto: GPUs where there are any.", metavar="DEVICE")
]
Cores = Annotated[
    int | None, typer.Option(min=1, help="Cores to use.", show_default="all there are")
]
Gpus = Annotated[int | None, typer.Option(min=1, help="GPUs to use.", show_default="all there are")]
PerRun = Annotated[
    int | None,
    typer.Option(
        "--per-run",
        min=1,
        help="Cores or GPUs of one training; several GPUs start torchrun.",
        show_default="by size",
    ),
]
GpuKind = Annotated[
    str | None, typer.Option(help="Kind of GPU for the plan: a100, h100, h200 or b200.")
]
Mfu = Annotated[
    float | None,
    typer.Option(help="Share of the GPU's peak that is reached, for the plan.", show_default="0.5"),
]
Price = Annotated[
    float | None,
    typer.Option(min=0, help="Of a GPU-hour, in any currency.", show_default="no cost shown"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and start nothing.")]
PlanAsJson = Annotated[
    bool, typer.Option("--json", help="Print the plan as JSON; the rest goes to stderr.")
]
AsCommands = Annotated[
    bool, typer.Option("--commands", help="Print the commands as a shell script; start nothing.")
]
