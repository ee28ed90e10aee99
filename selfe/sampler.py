"""The samplers: grids, s policies and updates over a plain velocity function.

`velocity(x_t, t, s) -> V` stands for the network with its captions and guidance bound; x_t is
(B, ...), t and s are (B,) fp32. One call is one *step*; N steps use N + 1 grid points.

An any-step update goes from t to t' < t as x' = (1 - t') x0_hat + a eps_hat + c z with
a^2 + c^2 = t'^2, so that the marginal at t' is kept whatever the noise (paper S.2 follows DDIM's
eta family).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from selfe.path import add_noise, expand_time, noise_head, sample_head
from selfe.times import IMM_TIME_MAX, length_shift, warp_time

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]
"""`noise(k)`: standard normal (B, ...) for step k; called only where a step adds noise."""
UpdateKind = Literal["ancestral", "minfm"]
SamplerKind = Literal["any-step", "pushforward", "restart"]


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


def even_grid(num_steps: int, start: float, shift: float | None = None) -> list[float]:
    """N + 1 times from `start` to 0, evenly, or warped by mu = `shift` (Eq. s.12 of Self-E).

    Raises:
        ValueError: if `num_steps` is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
    if shift is None:
        return torch.linspace(start, 0, num_steps + 1, dtype=torch.float64).tolist()
    even = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    return (start * warp_time(even, shift)).tolist()


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
    """How a sampler moves. Defaults are the paper's (S.2: eta = 1, s_k = next).

    Attributes:
        kind: "any-step"; "pushforward", IMM's: x <- f_{t_{i+1}, t_i}(x) (IMM Sec. 5, Euler-FM);
            "restart", IMM's other: predict x_0 = f_{0, t}(x), add fresh noise to the next time.
        eta, update, s_fraction, warp, base_len: of "any-step" alone.
        shift: mu of the time grid, see `time_grid` and `even_grid`.
    """

    kind: SamplerKind = "any-step"
    eta: float = 1.0
    update: UpdateKind = "ancestral"
    s_fraction: float = 0.0
    warp: bool = True
    base_len: int = 512
    shift: float | None = None


class Step(NamedTuple):
    """One update, from `t` to `t_next`; the network is called with (t, s)."""

    t: float
    s: float
    t_next: float


def sampling_steps(settings: SamplerSettings, num_steps: int, num_tokens: int) -> list[Step]:
    """The updates of a sampler, in order; the last one ends at 0.

    Args:
        num_tokens: image tokens, for the warp of "any-step".

    Raises:
        ValueError: for fewer than one step, or an unknown kind.
    """
    if settings.kind == "any-step":
        grid = time_grid(
            num_steps,
            num_tokens,
            base_len=settings.base_len,
            warp=settings.warp,
            shift=settings.shift,
        )
    elif settings.kind in ("pushforward", "restart"):
        grid = even_grid(num_steps, IMM_TIME_MAX, settings.shift)
    else:
        raise ValueError(f"unknown sampler {settings.kind!r}: use any-step, pushforward or restart")
    fraction = settings.s_fraction if settings.kind == "any-step" else 0.0
    return [
        Step(t, 0.0 if settings.kind == "restart" else secondary_time(t, t_next, fraction), t_next)
        for t, t_next in zip(grid[:-1], grid[1:], strict=True)
    ]


def take_step(
    step: Step, x: Tensor, v: Tensor, settings: SamplerSettings, noise: Callable[[], Tensor]
) -> Tensor:
    """The sample at `step.t_next`.

    Args:
        x: (B, ...) at `step.t`.
        v: V(x, step.t, step.s), guided.
        noise: standard normal (B, ...); called only where the step adds noise.
    """
    t_B = torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device)
    next_B = torch.full_like(t_B, step.t_next)
    if settings.kind == "pushforward":
        return x - expand_time(t_B - next_B, x) * v
    x0_hat = sample_head(x, v, t_B)
    if step.t_next <= 0:
        return x0_hat
    if settings.kind == "restart":
        return add_noise(x0_hat, noise(), next_B)
    keep, fresh = UPDATES[settings.update](step.t, step.t_next, settings.eta)
    x = (1 - step.t_next) * x0_hat + keep * noise_head(x, v, t_B)
    return x + fresh * noise() if fresh > 0 else x


def draw_samples(
    velocity: Velocity,
    x: Tensor,
    num_steps: int,
    num_tokens: int,
    settings: SamplerSettings,
    noise: Noise,
) -> Tensor:
    """Draw samples in `num_steps` updates (Eq. 22 for "any-step" with eta = 0).

    Args:
        velocity: guided network.
        x: (B, ...) standard normal start.
        num_tokens: image tokens, for the warp.
        noise: fresh noise of a step.

    Returns:
        (B, ...) at t = 0.

    Raises:
        ValueError: as `sampling_steps`.
    """
    for k, step in enumerate(sampling_steps(settings, num_steps, num_tokens)):
        t_B = torch.full((x.shape[0],), step.t, dtype=torch.float32, device=x.device)
        v = velocity(x, t_B, torch.full_like(t_B, step.s))
        x = take_step(step, x, v, settings, partial(noise, k))
    return x
