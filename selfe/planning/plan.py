"""What a run will cost: parameters, FLOPs, memory, GPU-days, disk; pure functions of its settings.

FLOPs are those of `selfe.network.flops`, by which the trainer states its MFU
(`selfe.training.throughput`). Every figure that is assumed rather than counted is listed in
`assumptions`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from selfe.config.schema import RunConfig
from selfe.config.stages import stage_at, stages_of
from selfe.device import GPUS, PEAK_SHARES, without_device
from selfe.network.flops import flops_per_image, parameter_counts
from selfe.planning.around import (
    around_assumptions,
    caption_flops,
    copy_seconds,
    drawing_flops,
)
from selfe.planning.assumptions import (
    NULL_TOKENS,
    state_assumption,
    storage_assumptions,
    work_assumptions,
)
from selfe.planning.memory import (
    CODEC_GEOMETRY,
    Memory,
    averages_of,
    cache_bytes_per_image,
    checkpoint_bytes,
    checkpoints_kept,
    image_tokens,
    memory_of,
    resolutions_of,
)
from selfe.planning.passes import TRAINING_PASS, Pass, passes_at
from selfe.registry import Registry

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class CostStage:
    """Iterations of equal cost, `start` <= iteration < `stop`.

    Attributes:
        resolutions: side of the square in pixels -> share of the samples.
    """

    start: int
    stop: int
    batch_size: int
    resolutions: Mapping[int, float]
    flops_per_step: int
    passes: tuple[Pass, ...]


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


def forward_flops(config: RunConfig, side: int, text_tokens: int) -> int:
    """FLOPs of one forward pass for one square image."""
    downsample = CODEC_GEOMETRY[config.data.codec][1]
    return flops_per_image(config.model.model_dump(), side, side, text_tokens, downsample)


def step_flops(
    config: RunConfig,
    batch_size: int,
    resolutions: Mapping[int, float],
    passes: Sequence[Pass],
    text_tokens: int,
) -> int:
    """FLOPs of one optimiser step on the global batch; the update itself counts nothing."""
    total = 0.0
    for side, share in resolutions.items():
        for each in passes:
            forward = forward_flops(
                config, side, NULL_TOKENS if each.caption == "null" else text_tokens
            )
            total += share * each.share * each.cost * forward * batch_size
    return round(total)


def cost_stages(config: RunConfig, text_tokens: int, first: int = 0) -> tuple[CostStage, ...]:
    """The run from iteration `first` on, cut where batch, resolutions or passes change."""
    end = config.train.iterations
    switch = config.objective.get("aux_from") or 0
    starts = {first, *(stage.start for stage in stages_of(config)), switch}
    cuts = [*sorted(start for start in starts if first <= start < end), end]
    stages = []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        stage, passes = stage_at(config, start), passes_at(config, start)
        mix = resolutions_of(config, stage)
        flops = step_flops(config, stage.batch_size, mix, passes, text_tokens)
        stages.append(CostStage(start, stop, stage.batch_size, dict(mix), flops, passes))
    return tuple(stages)


def largest_fitting(images: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of `images` that fits, or 1."""
    divisors = [n for n in range(images, 0, -1) if images % n == 0]
    return next((n for n in divisors if fits(n)), 1)


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
    fit = _fit(config, stages, text_tokens, 0.9 * GPUS[gpu].memory, gpus, shard)
    side = min(start.resolutions)
    sides = sorted({each for stage in stages for each in stage.resolutions})
    per_image = cache_bytes_per_image(config, mean_tokens)
    checkpoint = checkpoint_bytes(parameters, averages_of(config))
    captions = sum(
        stage.batch_size * (stage.stop - stage.start) * len(_captions(stage)) for stage in stages
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


def _captions(stage: CostStage) -> set[str]:
    """Kinds of captions that differ from image to image: its own, and a fake one."""
    return {each.caption for each in stage.passes if each.caption != "null"}


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


class _Fit(NamedTuple):
    """How a run is laid out on its GPUs.

    Attributes:
        shard: GPUs that share one copy of weights and optimiser.
        micro_batch: images of one GPU's forward and backward pass.
        memory: of one GPU, in the stage and at the resolution that need most.
        fits: whether `memory` stays within the limit.
    """

    shard: int
    micro_batch: int
    memory: Memory
    fits: bool


def _fit(
    config: RunConfig,
    stages: Sequence[CostStage],
    text_tokens: int,
    limit: float,
    gpus: int,
    shard: int | None,
) -> _Fit:
    def memory(count: int, shard: int) -> Memory:
        needs = [
            memory_of(config, stage.passes, image_tokens(config, side) + text_tokens, count, shard)
            for stage in stages
            for side in stage.resolutions
        ]
        return max(needs, key=lambda each: each.total)

    if shard is None:
        shard = 1 if memory(1, 1).total <= limit else gpus
    # one size for the whole run: it divides every stage's share of a GPU
    common = math.gcd(*(stage.batch_size // gpus for stage in stages))
    asked = math.gcd(common, config.train.micro_batch_size or common)
    micro = largest_fitting(asked, lambda count: memory(count, shard).total <= limit)
    need = memory(micro, shard)
    return _Fit(shard, micro, need, need.total <= limit)
