"""What a plan assumes, in sentences that stand beside its figures."""

from __future__ import annotations

from collections.abc import Sequence

from selfe.config.schema import RunConfig
from selfe.planning.memory import (
    averages_of,
    bytes_per_number,
    checkpoint_bytes,
    checkpoints_kept,
    kept_numbers,
)

NULL_TOKENS = 1
"""Text tokens of the null prompt: it is trimmed to T5's end token, or the shapes' begin token."""


def listed(sides: Sequence[int]) -> str:
    return " and ".join(map(str, sides))


def work_assumptions(sides: Sequence[int], text_tokens: int) -> tuple[str, ...]:
    """Of the FLOPs.

    Args:
        sides: of the images, in pixels.
    """
    return (
        f"FLOPs of matrix multiplications; square images of {listed(sides)} pixels a side "
        "(other aspect ratios of a family have about as many tokens), captions padded to "
        f"{text_tokens} text tokens in every batch, the null prompt trimmed to {NULL_TOKENS}",
        "a forward and backward pass costs 3 forward passes; what is recomputed is not counted "
        "and has to be met by a lower MFU",
    )


def storage_assumptions(
    config: RunConfig,
    sides: Sequence[int],
    images: int,
    mean_tokens: int,
    first_iteration: int,
) -> tuple[str, ...]:
    """Of activations and disk.

    Args:
        images, mean_tokens: of the latent cache.
        first_iteration: where a fork starts.
    """
    train = config.train
    double, single = kept_numbers(config, train.recompute)
    return (
        f"activations: {bytes_per_number(config)} bytes x width x tokens x "
        f"({double} per double-stream block + {single} per single-stream one) per image "
        f"trained on (train.recompute = {train.recompute}), uncompiled, at the largest "
        "resolution; it fits below 90% of the GPU's memory",
        f"cache: {images:,} images, 16-bit latents of {listed(sides)} pixels a side, "
        f"{mean_tokens} text tokens each after trimming, pooled vector, 512 bytes of caption "
        "and checksums; text twice for a method with fake captions",
        f"disk: {checkpoints_kept(config, first_iteration)} checkpoints kept (milestones and "
        f"the newest {train.keep_last}), {checkpoint_bytes(1, averages_of(config))} bytes per "
        "parameter each",
    )


def state_assumption(shard: int, gpus: int, precision: str) -> str:
    """Of the memory for weights, gradients, moving average and optimiser.

    Args:
        shard: GPUs that share one copy.
        precision: as `selfe.device` names it.
    """
    state = "4 bytes for each weight, gradient and EMA weight, 8 for Adam"
    weights = "bf16 weights" if precision == "bf16" else "weights"
    if shard == 1:
        copy = f", 2 for the {weights}" if precision == "bf16" else ""
        return f"memory: {state}{copy}, all replicated: every GPU holds a whole copy"
    copies = f"sharded over {shard} GPUs" + (f" ({gpus // shard} copies)" * (shard < gpus))
    return (
        f"memory: {state}, {copies}; gathered for a while: {weights} of two blocks, fp32 "
        "gradients of one"
    )
