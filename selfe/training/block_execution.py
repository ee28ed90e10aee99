"""How a denoiser's blocks are run: compiled one by one, recomputed in the backward pass.

Both wrap a block's `forward` in place. Weights, names and whatever hooks a block (sharding) stay as
they are, and a compiled region never contains a hook.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from selfe.config.schema import TrainConfig
from selfe.network.blocks import DoubleStreamBlock, SingleStreamBlock

Forward = Callable[..., Any]

_aten = torch.ops.aten
SAVED_OPERATIONS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""What "selective" keeps: matrix products and fused attention, nearly all of a block's FLOPs."""

VARIANTS_OF_A_BLOCK = 64
"""Graphs allowed per kind of block: with and without gradient, mask, and by shape. Torch's own
limit of 8 is passed quietly, by running what comes then uncompiled."""


def accelerate(network: nn.Module, config: TrainConfig) -> None:
    """Apply `config.recompute` and `config.compile` to every block; call it once per network."""
    if config.compile:
        torch._dynamo.config.recompile_limit = VARIANTS_OF_A_BLOCK
    for block in network.modules():
        if not isinstance(block, DoubleStreamBlock | SingleStreamBlock):
            continue
        forward: Forward = block.forward
        if config.recompute != "none":
            forward = recomputed(forward, selective=config.recompute == "selective")
        if config.compile:
            forward = torch.compile(forward)
        block.forward = forward  # type: ignore[method-assign]


def recomputed(forward: Forward, *, selective: bool) -> Forward:
    """`forward` that keeps its inputs only, or besides them the results of `SAVED_OPERATIONS`.

    Blocks draw no random numbers, so no generator's state is kept.
    """
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if selective:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, SAVED_OPERATIONS)

    def run(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, **options)

    return run
