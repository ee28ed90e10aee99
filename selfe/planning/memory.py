"""Bytes of a run: on a GPU at the peak of a step, and on disk for the cache and the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from selfe.config.resolve import objective_of_section
from selfe.config.schema import RunConfig
from selfe.config.stages import Stage, stages_of
from selfe.device import without_device
from selfe.network.flops import FORWARD_BACKWARD, parameter_counts
from selfe.planning.passes import Pass

KEPT = {"none": (31, 27), "blocks": (1, 1), "selective": (11, 10)}
"""By `train.recompute`: what a double-stream and a single-stream block keep for the backward pass,
in numbers per token and feature. With "blocks" that is the input, with "selective" the results of
matrix products and attention as well. Traced on the network of the paper's ablations
(`scripts.checks.sharded_step`); with "none" in bf16, where norms keep fp32, which counts twice."""
KEPT_IN_FULL = {**KEPT, "none": (25, 21)}
"""The same where activations have 4 bytes."""

CODEC_GEOMETRY = {
    "flux": (16, 8),
    "shapes-grid": (4, 4),
    "shapes-free": (4, 4),
    "shapes-squares": (6, 8),
}
"""Latent channels, and pixels per latent along a side."""
WORLD_SIDES = {"grid": 32, "free": 64, "squares": 64}
"""Side of an image by preset of the shapes world, which this does not import: numpy takes time."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step.

    Attributes:
        parameters, gradients, adam, ema: fp32; shares of them where they are sharded.
        gathered: temporary copies: the bf16 weights, none in fp32, or sharded those of
            two blocks, and the gradients of one block before they are sent away.
        activations: kept for the backward pass, and what is recomputed of one block.
    """

    parameters: int
    gradients: int
    adam: int
    ema: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def resolutions_of(config: RunConfig, stage: Stage) -> Mapping[int, float]:
    """Sides of the training images in pixels, with their shares."""
    if config.data.source == "shapes":
        return {world_side(config.data.preset): 1.0}
    return stage.resolutions


def world_side(preset: str) -> int:
    """Side in pixels of the images of a preset of the shapes world.

    Raises:
        ValueError: for an unknown preset, listing those there are.
    """
    if preset not in WORLD_SIDES:
        raise ValueError(
            f"unknown shapes preset {preset!r}; the presets are {', '.join(WORLD_SIDES)}"
        )
    return WORLD_SIDES[preset]


def image_tokens(config: RunConfig, side: int) -> int:
    return (side // (2 * CODEC_GEOMETRY[config.data.codec][1])) ** 2


def bytes_per_number(config: RunConfig) -> int:
    """Of activations and of the weights that blocks compute with, on a GPU."""
    return 2 if without_device(config.train.precision) == "bf16" else 4


def kept_numbers(config: RunConfig, recompute: str) -> tuple[int, int]:
    """What a double-stream and a single-stream block keep; see `KEPT`."""
    return (KEPT if bytes_per_number(config) == 2 else KEPT_IN_FULL)[recompute]


def activation_bytes(config: RunConfig, passes: Sequence[Pass], tokens: int, images: int) -> int:
    """Activations kept for the backward pass of `images` images, 2 bytes a number in bf16, else 4.

    Of uncompiled blocks; compiled ones keep less. With recomputation one block at a time is as if
    it were not recomputed.
    """
    model = config.model
    width = model.attention_head_dim * model.num_attention_heads
    double, single = kept_numbers(config, config.train.recompute)
    kept = double * model.num_layers + single * model.num_single_layers
    trained = sum(p.share for p in passes if p.cost == FORWARD_BACKWARD)
    again = 0 if config.train.recompute == "none" else max(kept_numbers(config, "none"))
    size = bytes_per_number(config)
    return round(size * width * tokens * images * (kept * trained + again))


def memory_of(
    config: RunConfig, passes: Sequence[Pass], tokens: int, images: int, shard: int
) -> Memory:
    """fp32 weights, gradients, two Adam moments and moving averages, and what a step adds.

    Args:
        tokens: of an image and its caption.
        images: in a micro-batch.
        shard: GPUs that share one copy of the state; 1 where every GPU has its own.
    """
    parameters, block = parameter_counts(config.model.model_dump())
    own = -(-parameters // shard)
    size = bytes_per_number(config)
    copies = size * parameters if size == 2 else 0  # fp32 weights are multiplied as they lie there
    gathered = copies if shard == 1 else (2 * size + 4) * block
    return Memory(
        parameters=4 * own,
        gradients=4 * own,
        adam=8 * own,
        ema=4 * own * averages_of(config),
        gathered=gathered,
        activations=activation_bytes(config, passes, tokens, images),
    )


def cache_bytes_per_image(config: RunConfig, mean_tokens: int) -> int:
    """Latents of every resolution family, and once trimmed text tokens and pooled vector, in 16
    bits; text twice for a method with fake captions; 512 bytes of caption, size and checksums.
    """
    channels, downsample = CODEC_GEOMETRY[config.data.codec]
    sides = {side for stage in stages_of(config) for side in resolutions_of(config, stage)}
    latents = sum(channels * (side // downsample) ** 2 for side in sides)
    text = mean_tokens * config.model.joint_attention_dim + config.model.pooled_projection_dim
    objective = objective_of_section(config.method, config.objective, config.times)
    texts = 2 if objective.needs_fake_captions else 1
    return 2 * (latents + texts * text) + 512


def averages_of(config: RunConfig) -> int:
    """Moving averages that a run keeps: the scored one, and that of `conditional_decay`."""
    return 1 if config.objective.get("conditional_decay") is None else 2


def checkpoint_bytes(parameters: int, averages: int = 1) -> int:
    """Weights, moving averages and two Adam moments in fp32; headers add some kilobytes."""
    return (12 + 4 * averages) * parameters


def checkpoints_kept(config: RunConfig, first: int = 0) -> int:
    """Milestones, which are never pruned (the last iteration is one), and the newest others."""
    train = config.train
    last = 1
    if train.milestone_every:
        last = -(-train.iterations // train.milestone_every) - first // train.milestone_every
    return last + train.keep_last
