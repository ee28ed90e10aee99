"""Adam with linear warm-up and decay, and the gradient guard (paper S.2; clip 1.0 as minFM)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from selfe.config.schema import OptimConfig


def learning_rate(step: int, config: OptimConfig, iterations: int) -> float:
    """Rate of the update made at iteration `step` (0-based): warm-up, then linear to `final_lr`."""
    horizon = config.decay_horizon or iterations
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    progress = min(1.0, step / horizon)
    return warm * (config.lr + (config.final_lr - config.lr) * progress)


def build_optimizer(
    model: nn.Module, config: OptimConfig, *, sharded: bool = False
) -> torch.optim.Optimizer:
    """Adam over all parameters in one fused kernel; four times as fast on a CPU as foreach ones.

    The rate is a tensor, so that a captured or compiled step reads it without being traced again.
    With sharded weights it is a number: torch does not know the shapes of the kernel that takes a
    tensor, and finds them by running it once on whole weights, gradients and moments of zeros (16
    bytes per weight on every process).
    """
    return torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.lr if sharded else torch.tensor(config.lr),
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = float(torch.tensor(rate))  # rounded to fp32 as the tensor is


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Clip in place to a total norm and return the norm before, on the device, not checked."""
    return nn.utils.clip_grad_norm_(parameters, max_norm, error_if_nonfinite=False, foreach=True)
