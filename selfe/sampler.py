"""The any-step sampler: grids, s policies and updates over a plain velocity function.

`velocity(x_t, t, s) -> V` stands for the network with its captions and guidance bound; x_t is
(B, ...), t and s are (B,) fp32. One call is one *step*; N steps use N + 1 grid points.

Every update goes from t to t' < t as x' = (1 - t') x0_hat + a eps_hat + c z with a^2 + c^2 = t'^2,
so that the marginal at t' is kept whatever the noise (paper S.2 follows DDIM's eta family).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfe.path import add_noise, expand_time, noise_head, sample_head
from selfe.times import length_shift, warp_time

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]
"""`noise(k)`: standard normal (B, ...) for step k; called only where a step adds noise."""
UpdateKind = Literal["ancestral", "minfm"]


def time_grid(
    num_steps: int,
    num_tokens: int,
    *,
    base_len: int = 512,
    warp: bool = True,
    shift: float | None = None,
) -> list[float]:
    """N + 1 times from 1 to 0: linspace, then the training warp mu(L) (S.2, Inference).

    Args:
        shift: mu itself, in place of mu(L); less is nearer to the data.

    Raises:
        ValueError: if `num_steps` is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
    uniform = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    if warp:
        mu = length_shift(num_tokens, base_len=base_len) if shift is None else shift
        uniform = warp_time(uniform, mu)
    return uniform.tolist()


def secondary_time(t: float, t_next: float, fraction: float) -> float:
    """s_k = t_{k+1} + f (t_k - t_{k+1}): f = 0 next (Eq. 22's default), 1 current, 0.5 midpoint."""
    return t_next + fraction * (t - t_next)


def ancestral_coefficients(t: float, t_next: float, eta: float) -> tuple[float, float]:
    """(eps_hat, noise) coefficients of the exact DDPM posterior of this path, scaled by eta.

    c = eta t' sqrt(1 - [(1 - t) t' / ((1 - t') t)]^2); at t = 1 c = eta t'. eta = 0 is Euler.
    """
    if t_next <= 0:
        return 0.0, 0.0
    ratio = (1 - t) * t_next / ((1 - t_next) * t)
    c = eta * t_next * math.sqrt(max(0.0, 1 - ratio**2))
    return math.sqrt(max(0.0, t_next**2 - c**2)), c


def minfm_coefficients(t: float, t_next: float, eta: float) -> tuple[float, float]:
    """(eps_hat, noise) coefficients as minFM has them: kappa = max(0, t' - eta (t - t') t'/t)."""
    kappa = max(0.0, t_next - eta * (t - t_next) * t_next / t)
    return kappa, math.sqrt(max(0.0, t_next**2 - kappa**2))


UPDATES = {"ancestral": ancestral_coefficients, "minfm": minfm_coefficients}


@dataclass(frozen=True)
class SamplerSettings:
    """How the any-step sampler moves. Defaults are the paper's (S.2: eta = 1, s_k = next)."""

    eta: float = 1.0
    update: UpdateKind = "ancestral"
    s_fraction: float = 0.0
    warp: bool = True
    base_len: int = 512
    shift: float | None = None


def any_step_sample(
    velocity: Velocity,
    x: Tensor,
    num_steps: int,
    num_tokens: int,
    settings: SamplerSettings,
    noise: Noise,
) -> Tensor:
    """Draw samples in `num_steps` updates (Eq. 22 for eta = 0).

    Args:
        velocity: guided network.
        x: (B, ...) standard normal start, t = 1.
        num_tokens: image tokens, for the warp.
        noise: fresh noise of a step.

    Returns:
        (B, ...) the last step's x0_hat.
    """
    grid = time_grid(
        num_steps,
        num_tokens,
        base_len=settings.base_len,
        warp=settings.warp,
        shift=settings.shift,
    )
    coefficients = UPDATES[settings.update]
    for k, (t, t_next) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        s = secondary_time(t, t_next, settings.s_fraction)
        t_B = torch.full((x.shape[0],), t, dtype=torch.float32, device=x.device)
        s_B = torch.full_like(t_B, s)
        v = velocity(x, t_B, s_B)
        x0_hat = sample_head(x, v, t_B)
        if t_next <= 0:
            return x0_hat
        keep, fresh = coefficients(t, t_next, settings.eta)
        x = (1 - t_next) * x0_hat + keep * noise_head(x, v, t_B)
        if fresh > 0:
            x = x + fresh * noise(k)
    raise AssertionError("the time grid ends at 0")


def pushforward_sample(
    velocity: Velocity,
    x: Tensor,
    num_steps: int,
    *,
    start: float = 0.994,
    restart: bool = False,
    noise: Noise | None = None,
) -> Tensor:
    """IMM's sampler: x <- f_{t_{i+1}, t_i}(x) on a uniform grid from T (IMM Sec. 5; Euler-FM).

    With `restart`, each step predicts x_0 = f_{0, t}(x) and adds fresh noise back to the next time.

    Raises:
        ValueError: for fewer than one step, or a restart without a noise source.
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
    if restart and noise is None:
        raise ValueError("restart sampling needs a noise source")
    grid = torch.linspace(start, 0, num_steps + 1, dtype=torch.float64).tolist()
    for k, (t, t_next) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        t_B = torch.full((x.shape[0],), t, dtype=torch.float32, device=x.device)
        if restart and noise is not None:
            x0_hat = sample_head(x, velocity(x, t_B, torch.zeros_like(t_B)), t_B)
            x = add_noise(x0_hat, noise(k), torch.full_like(t_B, t_next)) if t_next > 0 else x0_hat
        else:
            t_next_B = torch.full_like(t_B, t_next)
            x = x - expand_time(t_B - t_next_B, x) * velocity(x, t_B, t_next_B)
    return x
