"""What a run will cost: parameters, FLOPs, memory, GPU-days, disk; pure functions of its settings.

FLOPs are those of `selfe.network.flops`; a forward and backward pass costs three forward passes.
Every figure that is assumed rather than counted is listed in `assumptions`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selfe.config import ModelConfig, RunConfig
from selfe.network.flops import flops_per_image
from selfe.registry import Registry

FORWARD, FORWARD_BACKWARD = 1, 3
SECONDS_PER_DAY = 86_400
NULL_TOKENS = 1
"""Text tokens of the null prompt: it is trimmed to T5's end token, or the shapes' begin token."""


@dataclass(frozen=True)
class Gpu:
    """An accelerator.

    Attributes:
        flops: denominator of the MFU, dense bf16 FLOP/s.
        memory: bytes.
    """

    flops: float
    memory: float


GPUS = {
    "a100": Gpu(312e12, 80e9),
    "h100": Gpu(790e12, 80e9),
    "h200": Gpu(790e12, 141e9),
}

KEPT_DOUBLE, KEPT_SINGLE = 31, 27
"""Activations of a block kept for the backward pass, in numbers per token and feature."""

CODEC_GEOMETRY = {"flux": (16, 8), "shapes-grid": (4, 4), "shapes-free": (4, 4)}
"""Latent channels, and pixels per latent along a side."""


@dataclass(frozen=True)
class Pass:
    """One evaluation of the network in a training step.

    Attributes:
        name: what it computes.
        share: of the batch that takes part.
        cost: in forward passes: 1 without, 3 with a backward pass.
        null: the caption is the null prompt.
    """

    name: str
    share: float
    cost: int
    null: bool = False


def flow_matching_passes(objective: Any, step: int) -> list[Pass]:
    return [Pass("loss", 1, FORWARD_BACKWARD)]


def imm_passes(objective: Any, step: int) -> list[Pass]:
    """The reference particles are one more forward pass of the whole batch."""
    return [Pass("loss", 1, FORWARD_BACKWARD), Pass("reference particles", 1, FORWARD)]


def self_evaluation_passes(objective: Any, step: int) -> list[Pass]:
    """Only the half with s < t is evaluated; the fake branch, once it is on, is trained as well."""
    passes = [
        Pass("loss", 1, FORWARD_BACKWARD),
        Pass("evaluation, null prompt", 0.5, FORWARD, null=True),
        Pass("evaluation, caption", 0.5, FORWARD),
    ]
    if objective.aux_from is not None and step >= objective.aux_from:
        passes.append(Pass("fake branch", 0.5, FORWARD_BACKWARD))
    return passes


PASSES: dict[str, Callable[[Any, int], list[Pass]]] = {
    "selfe": self_evaluation_passes,
    "fm": flow_matching_passes,
    "imm": imm_passes,
}


@dataclass(frozen=True)
class Stage:
    """Iterations of equal cost, `start` <= iteration < `stop`."""

    start: int
    stop: int
    flops_per_step: int
    passes: tuple[Pass, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step, weights and optimiser replicated."""

    parameters: int
    gradients: int
    adam: int
    ema: int
    bf16_weights: int
    activations: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Plan:
    """Cost of a run; bytes, FLOPs and GPU-days are plain numbers in those units."""

    recipe: str
    method: str
    variant: str
    gpu: str
    gpus: int
    parameters: int
    iterations: int
    global_batch: int
    image_tokens: int
    text_tokens: int
    flops_per_image_forward: int
    flops_per_step: int
    flops_total: int
    stages: tuple[Stage, ...]
    relative_to_fm: float
    mfu: float
    images_per_second: float
    gpu_days: float
    days: float
    images_per_gpu: int
    micro_batch_per_gpu: int
    fits: bool
    memory_per_gpu: Memory
    cache_images: int
    cache_bytes_per_image: int
    cache_bytes: int
    checkpoint_bytes: int
    run_bytes: int
    assumptions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        record = asdict(self)
        record["memory_per_gpu"]["total"] = self.memory_per_gpu.total
        return record


@functools.lru_cache
def count_parameters(model: ModelConfig) -> int:
    """Exact, from the network itself built without memory (the meta device)."""
    import torch

    from selfe.network.denoiser import DualTimeDenoiser

    with torch.device("meta"):
        network = DualTimeDenoiser(**model.model_dump())
    return sum(p.numel() for p in network.parameters())


def image_side(config: RunConfig) -> int:
    """Pixels along a side of the training images."""
    if config.data.source == "shapes":
        from selfe.data.shapes_world import ShapesWorld

        return ShapesWorld(config.data.preset).image_size
    return config.data.resolution


def step_flops(config: RunConfig, passes: Sequence[Pass], text_tokens: int) -> int:
    """FLOPs of one optimiser step on the global batch; the update itself counts nothing."""
    side, downsample = image_side(config), CODEC_GEOMETRY[config.data.codec][1]
    total = 0.0
    for each in passes:
        tokens = NULL_TOKENS if each.null else text_tokens
        forward = flops_per_image(config.model.model_dump(), side, side, tokens, downsample)
        total += each.share * each.cost * forward * config.train.batch_size
    return round(total)


def stages_of(config: RunConfig, text_tokens: int) -> tuple[Stage, ...]:
    """The run cut where its cost per step changes, that is, where the auxiliary term starts."""
    objective, end = config.build_objective(), config.train.iterations
    switch = config.objective.get("aux_from")
    cuts = [0, *([switch] if switch is not None and 0 < switch < end else []), end]
    stages = []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        passes = PASSES[config.method](objective, start)
        stages.append(Stage(start, stop, step_flops(config, passes, text_tokens), tuple(passes)))
    return tuple(stages)


def activation_bytes(config: RunConfig, passes: Sequence[Pass], tokens: int, images: int) -> int:
    """bf16 activations kept for the backward pass of `images` images, nothing recomputed.

    Measured by counting what autograd saves under bf16 autocast, uncompiled (compiled blocks keep
    less): 31 numbers per token and feature of the width in a double-stream block, 27 in a
    single-stream block.
    """
    model = config.model
    width = model.attention_head_dim * model.num_attention_heads
    kept = KEPT_DOUBLE * model.num_layers + KEPT_SINGLE * model.num_single_layers
    trained = sum(p.share for p in passes if p.cost == FORWARD_BACKWARD)
    return round(2 * width * tokens * kept * images * trained)


def memory_of(
    config: RunConfig, parameters: int, passes: Sequence[Pass], tokens: int, images: int
) -> Memory:
    """fp32 weights, gradients, two Adam moments and moving average, and what autocast adds."""
    return Memory(
        parameters=4 * parameters,
        gradients=4 * parameters,
        adam=8 * parameters,
        ema=4 * parameters,
        bf16_weights=2 * parameters,
        activations=activation_bytes(config, passes, tokens, images),
    )


def largest_fitting(images: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of `images` that fits, or 1."""
    divisors = [n for n in range(images, 0, -1) if images % n == 0]
    return next((n for n in divisors if fits(n)), 1)


def cache_bytes_per_image(config: RunConfig, mean_tokens: int) -> int:
    """Latents, trimmed text tokens and pooled vector in 16 bits, and 512 bytes of caption, size
    and checksum.
    """
    channels, downsample = CODEC_GEOMETRY[config.data.codec]
    latents = channels * (image_side(config) // downsample) ** 2
    text = mean_tokens * config.model.joint_attention_dim + config.model.pooled_projection_dim
    return 2 * (latents + text) + 512


def checkpoint_bytes(parameters: int) -> int:
    """Weights, moving average and two Adam moments in fp32; headers add some kilobytes."""
    return 16 * parameters


def checkpoints_kept(config: RunConfig) -> int:
    """Milestones, which are never pruned (the last iteration is one), and the newest others."""
    train = config.train
    last = 1
    if train.milestone_every:
        last = -(-train.iterations // train.milestone_every)
    return last + train.keep_last


def make_plan(
    config: RunConfig,
    *,
    gpu: str = "h200",
    gpus: int = 8,
    mfu: float = 0.5,
    text_tokens: int | None = None,
    mean_tokens: int | None = None,
    images: int | None = None,
) -> Plan:
    """The cost of a run.

    Args:
        config: resolved configuration.
        gpu: name in `GPUS`.
        gpus: how many share the global batch.
        mfu: share of the GPU's dense bf16 peak that is reached.
        text_tokens: columns of a padded batch of captions; None for the encoder's default limit.
        mean_tokens: tokens of a stored caption after trimming; None for half of the limit.
        images: size of the data set; None for 10 million, or the shapes recipe's own.

    Raises:
        ValueError: for an unknown GPU, or counts and shares out of range.
    """
    if gpu not in GPUS:
        raise ValueError(Registry("GPU", dict.fromkeys(GPUS, ":")).unknown(gpu))
    if not 0 < mfu <= 1:
        raise ValueError(f"the MFU is a share between 0 and 1 of the GPU's peak, got {mfu}")
    shapes = config.data.source == "shapes"
    text_tokens = text_tokens if text_tokens is not None else (24 if shapes else 256)
    mean_tokens = mean_tokens if mean_tokens is not None else -(-text_tokens // 2)
    images = images if images is not None else (config.data.size if shapes else 10_000_000)
    for name, value in (
        ("gpus", gpus),
        ("text tokens", text_tokens),
        ("mean tokens", mean_tokens),
        ("images", images),
    ):
        if value < 1:
            raise ValueError(f"the number of {name} must be at least 1, got {value}")
    train = config.train
    if train.batch_size % gpus:
        raise ValueError(
            f"a global batch of {train.batch_size} does not divide over {gpus} GPUs: choose a "
            "divisor, or another train.batch_size"
        )

    side, (_, downsample) = image_side(config), CODEC_GEOMETRY[config.data.codec]
    forward = flops_per_image(config.model.model_dump(), side, side, text_tokens, downsample)
    image_tokens = (side // (2 * downsample)) ** 2
    stages = stages_of(config, text_tokens)
    total = sum(stage.flops_per_step * (stage.stop - stage.start) for stage in stages)
    seconds = total / (GPUS[gpu].flops * mfu)
    parameters = count_parameters(config.model)
    per_gpu = train.batch_size // gpus
    dearest = max(stages, key=lambda stage: stage.flops_per_step)

    def memory(count: int) -> Memory:
        tokens = image_tokens + text_tokens
        return memory_of(config, parameters, dearest.passes, tokens, count)

    limit = 0.9 * GPUS[gpu].memory
    asked = min(per_gpu, train.micro_batch_size or per_gpu)
    micro = largest_fitting(asked, lambda count: memory(count).total <= limit)
    per_image = cache_bytes_per_image(config, mean_tokens)
    fm = FORWARD_BACKWARD * forward * train.batch_size
    return Plan(
        recipe=config.recipe,
        method=config.method,
        variant=config.variant,
        gpu=gpu,
        gpus=gpus,
        parameters=parameters,
        iterations=train.iterations,
        global_batch=train.batch_size,
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        flops_per_image_forward=forward,
        flops_per_step=stages[0].flops_per_step,
        flops_total=total,
        stages=stages,
        relative_to_fm=stages[0].flops_per_step / fm,
        mfu=mfu,
        images_per_second=train.iterations * train.batch_size / (seconds / gpus),
        gpu_days=seconds / SECONDS_PER_DAY,
        days=seconds / SECONDS_PER_DAY / gpus,
        images_per_gpu=per_gpu,
        micro_batch_per_gpu=micro,
        fits=memory(micro).total <= limit,
        memory_per_gpu=memory(micro),
        cache_images=images,
        cache_bytes_per_image=per_image,
        cache_bytes=per_image * images,
        checkpoint_bytes=checkpoint_bytes(parameters),
        run_bytes=checkpoints_kept(config) * checkpoint_bytes(parameters),
        assumptions=(
            f"MFU {mfu:g} of {GPUS[gpu].flops / 1e12:g} TFLOP/s dense bf16 per {gpu.upper()}; "
            "latents and text are cached, so encoders cost nothing",
            f"FLOPs of matrix multiplications; {image_tokens} image tokens ({side} x {side} "
            f"pixels), captions padded to {text_tokens} text tokens in every batch, the null "
            f"prompt trimmed to {NULL_TOKENS}",
            "a forward and backward pass costs 3 forward passes; nothing is recomputed",
            "every iteration at the recipe's resolution and global batch",
            "memory: 4 bytes for each weight, gradient and EMA weight, 8 for Adam, 2 for "
            "autocast's bf16 weights, all replicated on each GPU; activations 2 bytes x width x "
            f"tokens x ({KEPT_DOUBLE} per double-stream block + {KEPT_SINGLE} per single-stream "
            "one) per image trained on, uncompiled; it fits below 90% of the GPU's memory",
            f"cache: {images:,} images, 16-bit latents, {mean_tokens} text tokens each after "
            "trimming, pooled vector, 512 bytes of caption and checksum",
            f"disk: {checkpoints_kept(config)} checkpoints kept (milestones and the newest "
            f"{train.keep_last}), 16 bytes per parameter each",
        ),
    )
