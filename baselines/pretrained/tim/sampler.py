"""TiM's sampler: jumps from t to r along the field that the network gives for exactly that jump."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def transition_times(num_steps: int) -> list[float]:
    """N + 1 even times from 1 to 0, each rounded to bfloat16 as published: 0.98 is 0.98046875."""
    even = torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64)
    times: list[float] = even.to(torch.bfloat16).double().tolist()
    return times


def count_evaluations(num_steps: int, guidance: float) -> int:
    """NFE per image: two a step but for the first, which is never guided."""
    return 2 * num_steps - 1 if guidance > 1 else num_steps


def sample_tim(
    network: Network,
    latents: Tensor,
    text: Tensor,
    null_text: Tensor,
    num_steps: int,
    guidance: float = 2.5,
) -> Tensor:
    """x <- x - (t - r) F(x, t, r), the state kept in float64 between calls.

    Guidance is not applied at t = 1 (nor at 0), so a single step is unguided.

    Args:
        network: F(x, t, r, text); called in the dtype of `latents`.
        latents: (B, C, h, w) standard normal noise.
        text: (B, L, D) features of the prompts.
        null_text: (1 or B, L, D) features of the empty prompt, cut to the same L.
        num_steps: N >= 1.
        guidance: scale; 1 or less switches it off.

    Returns:
        (B, C, h, w) float64 latents.
    """
    if num_steps < 1:
        raise ValueError(f"steps must be at least 1, not {num_steps}")
    batch = latents.shape[0]
    null_text = null_text.expand(batch, -1, -1)
    x = latents.double()
    for t, r in pairwise(transition_times(num_steps)):
        guided = guidance > 1 and 0.0 < t < 1.0
        repeats = 2 if guided else 1
        field = network(
            torch.cat([x.to(latents.dtype)] * repeats),
            torch.full((batch * repeats,), t, dtype=torch.float32, device=x.device),
            torch.full((batch * repeats,), r, dtype=torch.float32, device=x.device),
            torch.cat([text, null_text]) if guided else text,
        )
        if guided:
            conditional, unconditional = field.chunk(2)
            field = unconditional + guidance * (conditional - unconditional)
        x = x - (t - r) * field.double()
    return x
