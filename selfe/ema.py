"""Exponential moving average of the weights: torch's AveragedModel with a warmed-up decay."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from selfe.config import OptimConfig

Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_decay(update: int, config: OptimConfig) -> float:
    """Decay at update n (0-based): min(d, (1 + n) / (10 + n)) with warm-up, else d.

    Without the warm-up a short run would be scored on weights that still remember initialisation.
    """
    if not config.ema_warmup:
        return config.ema_decay
    return min(config.ema_decay, (1 + update) / (10 + update))


class Ema:
    """The average of a model's parameters, and a module that evaluates with it."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.config = config
        self._decay = 0.0
        self._averaged = AveragedModel(model, multi_avg_fn=self._lerp)
        self._averaged.requires_grad_(False)
        # torch copies at the first update; ours starts as a copy, so that update n is update n
        self._averaged.n_averaged.fill_(1)

    @property
    def module(self) -> nn.Module:
        return self._averaged.module

    def _lerp(self, averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        torch._foreach_lerp_(averaged, [p.detach() for p in current], 1 - self._decay)

    @torch.no_grad()
    def update(self, model: nn.Module, update: int) -> None:
        """Move towards `model` after its update number `update` (0-based)."""
        self._decay = ema_decay(update, self.config)
        self._averaged.update_parameters(model)
