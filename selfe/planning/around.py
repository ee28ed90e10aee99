"""What a training costs beside its own steps: captions, checkpoints and their scores.

Pure functions; FLOPs are those of matrix multiplications, a multiply-add is 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfe.config.schema import RunConfig

EVALUATED_STEPS = (2, 4, 8, 50)
"""Sampler steps of the paper's tables."""
EVALUATED_IMAGES = 553 * 4
"""GenEval's prompts, four images each."""

# T5-v1.1-XXL's encoder: 24 layers of width 4,096 with 64 heads of 64 and a gated feed-forward part
# of 10,240. CLIP-L's text encoder: 12 layers of width 768.
_T5_LAYERS, _T5_WIDTH, _T5_INNER = 24, 4096, 10_240
_CLIP_LAYERS, _CLIP_WIDTH, _CLIP_TOKENS = 12, 768, 77

HOST_BYTES_PER_SECOND = 25e9
"""From one GPU to the host's memory: half of what PCIe 5 has."""


def _encoder_flops(layers: int, width: int, feed_forward: int, tokens: int) -> int:
    """Four projections of attention, its two products over all pairs, and the feed-forward part."""
    projections = (4 * width * width + feed_forward) * tokens
    return 2 * layers * (projections + 2 * tokens * tokens * width)


def caption_flops(config: RunConfig, text_tokens: int) -> int:
    """Of encoding one caption with the encoders of FLUX, T5-XXL and CLIP-L; the shapes world looks
    its words up in a table."""
    if config.data.source == "shapes":
        return 0
    t5 = _encoder_flops(_T5_LAYERS, _T5_WIDTH, 3 * _T5_WIDTH * _T5_INNER, text_tokens)
    clip = _encoder_flops(_CLIP_LAYERS, _CLIP_WIDTH, 8 * _CLIP_WIDTH**2, _CLIP_TOKENS)
    return t5 + clip


def drawing_flops(
    config: RunConfig,
    forward: int,
    steps: Sequence[int] = EVALUATED_STEPS,
    images: int = EVALUATED_IMAGES,
) -> int:
    """Of drawing a benchmark's images once in each number of steps, with the run's own guidance.

    Args:
        forward: FLOPs of one forward pass of an image with its caption; the null prompt is padded
            to the same length, so that both go through the network at once.
    """
    return sum(n * config.sampling.at(n).calls for n in steps) * images * forward


def copy_seconds(checkpoint_bytes: int, shard: int) -> float:
    """How long training stops for a checkpoint: every GPU copies its share to the host, and writes
    it while training goes on."""
    return checkpoint_bytes / shard / HOST_BYTES_PER_SECOND


def around_assumptions(text: bool, precision: str) -> tuple[str, ...]:
    """What the figures here assume; `text` where captions are encoded by a network."""
    encoders = (
        "online text: T5-XXL and CLIP-L read every caption of a batch, at the same MFU in 16 bits",
    )
    return (
        *(encoders if text else ()),
        f"GenEval: {EVALUATED_IMAGES:,} images in {', '.join(map(str, EVALUATED_STEPS))} steps at "
        f"the same MFU in {precision}; decoder, detector and CLIP are not counted",
        f"a checkpoint stops training while it is copied to the host, at "
        f"{HOST_BYTES_PER_SECOND / 1e9:g} GB/s a GPU; writing it takes no GPU time",
    )
