"""`selfe-bench plan`: what a run will cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import fitted

if TYPE_CHECKING:
    from selfe.planning.plan import Plan
    from selfe.planning.stages import CostStage


def plan(
    method: options.Method,
    recipe: options.Recipe = "0.5b",
    variant: options.Variant = "",
    gpu: Annotated[str, typer.Option(help="Accelerator: a100, h100, h200 or b200.")] = "h200",
    gpus: Annotated[int, typer.Option(help="How many share the global batch.")] = 8,
    mfu: Annotated[float, typer.Option(help="Share of the GPU's peak that is reached.")] = 0.5,
    shard: Annotated[
        int | None,
        typer.Option(
            help="GPUs that share one copy of weights and optimiser.",
            show_default="1, or all where that does not fit",
        ),
    ] = None,
    first_iteration: Annotated[
        int, typer.Option(help="Where a fork of another run starts (train --init-from).")
    ] = 0,
    text_tokens: Annotated[
        int | None, typer.Option(help="Columns of a padded batch of captions.", show_default="256")
    ] = None,
    mean_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a cached caption.", show_default="half of those")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Images of the data set.", show_default="10 million")
    ] = None,
    price: options.Price = None,
    settings: options.Settings = None,
    as_json: options.AsJson = False,
) -> None:
    """Estimate the cost of a run: parameters, FLOPs, memory, GPU-days and disk. Nothing is
    started."""
    from selfe.config.resolve import resolve
    from selfe.planning.plan import make_plan

    made = make_plan(
        resolve(recipe, method, variant=variant, assignments=settings or []),
        gpu=gpu,
        gpus=gpus,
        mfu=mfu,
        shard=shard,
        first_iteration=first_iteration,
        text_tokens=text_tokens,
        mean_tokens=mean_tokens,
        images=images,
        price=price,
    )
    typer.echo(json.dumps(made.as_json(), indent=1) if as_json else fitted(describe(made)))


def describe(made: Plan) -> str:
    """The plan as a table, every assumption below it."""
    memory = made.memory_per_gpu
    accumulation = made.images_per_gpu // made.micro_batch_per_gpu
    state = memory.total - memory.activations

    def where(stage: CostStage) -> str:
        return f" from {stage.start:,}" if len(made.stages) > 1 else ""

    def batches(stage: CostStage) -> str:
        mix = " + ".join(f"{share:.0%} at {side}^2" for side, share in stage.resolutions.items())
        return f"{stage.stop - stage.start:,} x {stage.batch_size:,} ({mix})"

    rows = [
        ("parameters", f"{made.parameters:,}"),
        *((f"iterations x batch{where(stage)}", batches(stage)) for stage in made.stages),
        ("forward, one image", f"{made.flops_per_image_forward / 1e9:,.4g} GFLOP"),
    ]
    for stage in made.stages:
        rows.append((f"step{where(stage)}", f"{stage.flops_per_step / 1e15:,.4g} PFLOP"))
        rows += [
            (f"    {p.name}", f"{p.share * p.cost:g} forward passes of the batch")
            for p in stage.passes
        ]
    rows += [
        ("step / flow-matching step", f"{made.relative_to_fm:.3f}"),
        ("whole run", f"{made.flops_total / 1e18:,.4g} EFLOP"),
        ("throughput", f"{made.images_per_second:,.0f} images/s on {made.gpus} {made.gpu.upper()}"),
        ("GPU-days", f"{made.gpu_days:,.1f} ({made.days:,.2f} days on {made.gpus})"),
        *costs(made),
        (
            "micro-batch per GPU",
            f"{made.micro_batch_per_gpu} x {accumulation} accumulated"
            + ("" if made.fits else ", TOO LARGE even so"),
        ),
        (
            "state",
            f"sharded over {made.shard} GPUs" if made.shard > 1 else "a whole copy on every GPU",
        ),
        (
            "memory per GPU",
            f"{gigabytes(memory.total)} ({gigabytes(state)} weights and optimiser, "
            f"{gigabytes(memory.activations)} activations)",
        ),
        (
            "cache on disk",
            f"{gigabytes(made.cache_bytes)} ({made.cache_bytes_per_image:,} bytes per image)",
        ),
        (
            "checkpoint",
            f"{gigabytes(made.checkpoint_bytes)}, training stops for "
            f"{made.checkpoint_seconds:.2g} s",
        ),
        ("checkpoints of the run", gigabytes(made.run_bytes)),
    ]
    width = max(len(name) for name, _ in rows)
    title = " ".join(part for part in (made.recipe, made.method, made.variant) if part)
    lines = [title, *(f"  {name:<{width}}  {value}" for name, value in rows), "assumed:"]
    return "\n".join([*lines, *(f"  - {text}" for text in made.assumptions)])


def costs(made: Plan) -> list[tuple[str, str]]:
    """Money, and what comes on top of the steps."""

    price = made.price_per_gpu_hour

    def money(hours: float) -> str:
        amount = hours * (price or 0)
        return f"{amount:,.0f}" if amount >= 10 else f"{amount:.2f}"

    def hours(count: float) -> str:
        shown = f"{count:,.0f}" if count >= 100 else f"{count:.2g}"
        return f"{shown} GPU-hours" + (f", {money(count)}" if price is not None else "")

    rows = [("GenEval, each checkpoint", hours(made.geneval_gpu_hours))]
    if made.online_text_gpu_hours:
        share = made.online_text_gpu_hours / made.gpu_hours
        text = f"{hours(made.online_text_gpu_hours)} more ({share:+.0%})"
        rows.insert(0, ("without a cache of text", text))
    if price is not None:
        rows.insert(0, ("cost", f"{money(made.gpu_hours)} ({price:g} a GPU-hour)"))
    return rows


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.3g} GB" if count < 1e12 else f"{count / 1e12:,.3g} TB"
