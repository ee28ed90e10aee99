"""What a run will cost: parameters, FLOPs, memory, GPU-days, disk; pure functions of its settings.

FLOPs are those of `selfe.network.flops`, by which the trainer states its MFU
(`selfe.training.throughput`). Every figure that is assumed rather than counted is listed in
`assumptions`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from selfe.config.schema import RunConfig
from selfe.config.stages import stages_of
from selfe.device import GPUS, PEAK_SHARES, without_device
from selfe.network.flops import parameter_counts
from selfe.planning.around import (
    around_assumptions,
    caption_flops,
    copy_seconds,
    drawing_flops,
)
from selfe.planning.assumptions import (
    state_assumption,
    storage_assumptions,
    work_assumptions,
)
from selfe.planning.layout import lay_out
from selfe.planning.memory import (
    Memory,
    averages_of,
    cache_bytes_per_image,
    checkpoint_bytes,
    checkpoints_kept,
    image_tokens,
)
from selfe.planning.passes import TRAINING_PASS
from selfe.planning.stages import CostStage, cost_stages, forward_flops, step_flops
from selfe.registry import Registry

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Plan:
    """Cost of a run; bytes, FLOPs and GPU-days are plain numbers in those units.

    What depends on the stage (batch, image tokens, FLOPs per image and step) is that of the first.

    Attributes:
        gpu_hours: of all training steps.
        price_per_gpu_hour: the user's, in any currency.
        online_text_gpu_hours: what encoding captions in training would add, instead of a cache.
        geneval_gpu_hours: drawing GenEval's images of one checkpoint, at the last stage's size.
        checkpoint_seconds: how long training stops for one.
    """

    recipe: str
    method: str
    variant: str
    gpu: str
    gpus: int
    parameters: int
    first_iteration: int
    iterations: int
    global_batch: int
    image_tokens: int
    text_tokens: int
    flops_per_image_forward: int
    flops_per_step: int
    flops_total: int
    stages: tuple[CostStage, ...]
    relative_to_fm: float
    mfu: float
    images_per_second: float
    gpu_days: float
    days: float
    images_per_gpu: int
    micro_batch_per_gpu: int
    shard: int
    fits: bool
    memory_per_gpu: Memory
    cache_images: int
    cache_bytes_per_image: int
    cache_bytes: int
    checkpoint_bytes: int
    checkpoint_seconds: float
    run_bytes: int
    gpu_hours: float
    price_per_gpu_hour: float | None
    online_text_gpu_hours: float
    geneval_gpu_hours: float
    assumptions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        record = asdict(self)
        record["memory_per_gpu"]["total"] = self.memory_per_gpu.total
        for stage, planned in zip(record["stages"], self.stages, strict=True):
            for entry, each in zip(stage["passes"], planned.passes, strict=True):
                entry["name"] = each.name
        return record


def _check_counts(config: RunConfig, first: int, gpus: int, shard: int | None) -> None:
    if not 0 <= first < config.train.iterations:
        raise ValueError(
            f"the run has {config.train.iterations} iterations and cannot start at {first}"
        )
    for stage in stages_of(config):
        if stage.batch_size % gpus:
            raise ValueError(
                f"a global batch of {stage.batch_size} (from iteration {stage.start} on) does not "
                f"divide over {gpus} GPUs: choose a divisor, or another batch size"
            )
    if shard is not None and (shard < 1 or gpus % shard):
        raise ValueError(
            f"{gpus} GPUs cannot hold the state in groups of {shard}: choose a divisor"
        )


def make_plan(
    config: RunConfig,
    *,
    gpu: str = "h200",
    gpus: int = 8,
    mfu: float = 0.5,
    shard: int | None = None,
    first_iteration: int = 0,
    text_tokens: int | None = None,
    mean_tokens: int | None = None,
    images: int | None = None,
    price: float | None = None,
) -> Plan:
    """The cost of a run.

    Args:
        config: resolved configuration.
        gpu: name in `GPUS`.
        gpus: how many share the global batch.
        mfu: share that is reached of the GPU's dense peak in the run's precision.
        shard: GPUs that share one copy of weights and optimiser; None for 1, or for all of them
            where not even a single image fits beside a whole copy.
        first_iteration: where a fork starts.
        text_tokens: columns of a padded batch of captions; None for the encoder's default limit.
        mean_tokens: tokens of a stored caption after trimming; None for half of the limit.
        images: size of the data set; None for 10 million, or the shapes recipe's own.
        price: of a GPU-hour.

    Raises:
        ValueError: for an unknown GPU, or counts and shares out of range.
    """
    shapes = config.data.source == "shapes"
    text_tokens = text_tokens if text_tokens is not None else (24 if shapes else 256)
    mean_tokens = mean_tokens if mean_tokens is not None else -(-text_tokens // 2)
    images = images if images is not None else (config.data.size if shapes else 10_000_000)
    _check_asked(gpu, gpus, mfu, text_tokens, mean_tokens, images)
    if price is not None and not 0 <= price < math.inf:
        raise ValueError(f"the price of a GPU-hour must be 0 or more, got {price}")
    _check_counts(config, first_iteration, gpus, shard)

    parameters = parameter_counts(config.model.model_dump())[0]
    stages = cost_stages(config, text_tokens, first_iteration)
    start = stages[0]
    total = sum(stage.flops_per_step * (stage.stop - stage.start) for stage in stages)
    drawn = sum(stage.batch_size * (stage.stop - stage.start) for stage in stages)
    precision = without_device(config.train.precision)
    peak = GPUS[gpu].flops * PEAK_SHARES[precision]
    seconds = total / (peak * mfu)
    fm_flops = step_flops(config, start.batch_size, start.resolutions, [TRAINING_PASS], text_tokens)
    fit = lay_out(config, stages, text_tokens, 0.9 * GPUS[gpu].memory, gpus, shard)
    side = min(start.resolutions)
    sides = sorted({each for stage in stages for each in stage.resolutions})
    per_image = cache_bytes_per_image(config, mean_tokens)
    checkpoint = checkpoint_bytes(parameters, averages_of(config))
    captions = sum(
        stage.batch_size * (stage.stop - stage.start) * len(stage.captions) for stage in stages
    )
    encoding = caption_flops(config, text_tokens) * captions / (GPUS[gpu].flops * mfu)
    last = max(stages[-1].resolutions)
    scoring = drawing_flops(config, forward_flops(config, last, text_tokens)) / (peak * mfu)
    return Plan(
        recipe=config.recipe,
        method=config.method,
        variant=config.variant,
        gpu=gpu,
        gpus=gpus,
        parameters=parameters,
        first_iteration=first_iteration,
        iterations=config.train.iterations,
        global_batch=start.batch_size,
        image_tokens=image_tokens(config, side),
        text_tokens=text_tokens,
        flops_per_image_forward=forward_flops(config, side, text_tokens),
        flops_per_step=start.flops_per_step,
        flops_total=total,
        stages=stages,
        relative_to_fm=start.flops_per_step / fm_flops,
        mfu=mfu,
        images_per_second=drawn / (seconds / gpus),
        gpu_days=seconds / SECONDS_PER_DAY,
        days=seconds / SECONDS_PER_DAY / gpus,
        images_per_gpu=start.batch_size // gpus,
        micro_batch_per_gpu=fit.micro_batch,
        shard=fit.shard,
        fits=fit.fits,
        memory_per_gpu=fit.memory,
        cache_images=images,
        cache_bytes_per_image=per_image,
        cache_bytes=per_image * images,
        checkpoint_bytes=checkpoint,
        checkpoint_seconds=copy_seconds(checkpoint, fit.shard),
        run_bytes=checkpoints_kept(config, first_iteration) * checkpoint,
        gpu_hours=seconds / 3600,
        price_per_gpu_hour=price,
        online_text_gpu_hours=encoding / 3600,
        geneval_gpu_hours=scoring / 3600,
        assumptions=(
            f"MFU {mfu:g} of {peak / 1e12:g} TFLOP/s dense {precision} per {gpu.upper()}; "
            "latents and text are cached, so encoders cost nothing",
            *work_assumptions(sides, text_tokens),
            state_assumption(fit.shard, gpus, precision),
            *storage_assumptions(config, sides, images, mean_tokens, first_iteration),
            *around_assumptions(config.data.source != "shapes", precision),
        ),
    )


def _check_asked(
    gpu: str, gpus: int, mfu: float, text_tokens: int, mean_tokens: int, images: int
) -> None:
    if gpu not in GPUS:
        raise ValueError(Registry("GPU", dict.fromkeys(GPUS, ":")).unknown(gpu))
    if not 0 < mfu <= 1:
        raise ValueError(f"the MFU is a share between 0 and 1 of the GPU's peak, got {mfu}")
    for name, value in (
        ("gpus", gpus),
        ("text tokens", text_tokens),
        ("mean tokens", mean_tokens),
        ("images", images),
    ):
        if value < 1:
            raise ValueError(f"the number of {name} must be at least 1, got {value}")
    if mean_tokens > text_tokens:
        raise ValueError(
            f"captions cannot have {mean_tokens} tokens on average where a batch has {text_tokens}"
        )
