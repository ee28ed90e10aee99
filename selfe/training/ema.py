"""Exponential moving average of the weights, with a warmed-up decay."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from selfe.config.schema import OptimConfig


def ema_decay(update: int, config: OptimConfig) -> float:
    """Decay at update n (0-based): min(d, (1 + n) / (10 + n)) with warm-up, else d.

    Without the warm-up a short run would be scored on weights that still remember initialisation.
    """
    if not config.ema_warmup:
        return config.ema_decay
    return min(config.ema_decay, (1 + update) / (10 + update))


class Ema:
    """The average of a model's parameters, as a module that evaluates with it; it starts as a copy.

    torch's AveragedModel visits every parameter in Python, which on small networks costs more than
    the average itself (scripts/bench/ema.py).
    """

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.config = config
        self.module = copy.deepcopy(model).requires_grad_(False)
        self._followed: nn.Module | None = None
        self._averaged: list[Tensor] = []
        self._current: list[Tensor] = []

    @torch.no_grad()
    def update(self, model: nn.Module, update: int, where: Tensor | None = None) -> None:
        """Move the average towards `model` after update number `update` (0-based).

        `where` is a bool scalar on the device: False leaves the average as it is.
        """
        if model is not self._followed:
            # found at the first update: sharding, which comes before, replaces parameters
            self._followed = model
            self._averaged, self._current = list(self.module.parameters()), list(model.parameters())
        weight = 1 - ema_decay(update, self.config)
        if where is None:
            torch._foreach_lerp_(self._averaged, self._current, weight)
        else:
            weights = [where * weight] * len(self._averaged)
            torch._foreach_lerp_(self._averaged, self._current, weights)
