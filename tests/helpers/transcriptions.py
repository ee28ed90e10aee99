"""The paper's equations once more, as slow as they read: float64, one sample at a time.

Written from the texts (Self-E arXiv 2512.22374, IMM 2503.07565, shortcut models 2410.12557,
transition models 2509.04394), not from this repository's code, so that the tests compare two
independent readings. Samples are numpy arrays without a batch
dimension; a network is `V(x, t, s, c) -> array`; times and weights are Python floats.

Longer than other files: a second reading of the papers, kept together to be read beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Network = Callable[[Array, float, float, Array], Array]


# --- the path (Eq. 1, 2, 6) ---------------------------------------------------------------------


def noisy(x_0: Array, eps: Array, t: float) -> Array:
    return (1.0 - t) * x_0 + t * eps


def head(net: Network, x_t: Array, t: float, s: float, c: Array) -> Array:
    """G of Eq. 6."""
    return x_t - t * net(x_t, t, s, c)


# --- times (s.11-s.13) --------------------------------------------------------------------------


def mu(num_tokens: int, base_len: int = 512) -> float:
    return 0.5 + (1.15 - 0.5) * (num_tokens - base_len) / (4096 - base_len)


def warped(t_raw: float, shift: float) -> float:
    if t_raw == 0.0:
        return 0.0
    return math.exp(shift) / (math.exp(shift) + (1.0 / t_raw - 1.0))


def grid(num_steps: int, num_tokens: int, base_len: int = 512) -> list[float]:
    shift = mu(num_tokens, base_len)
    return [warped(1.0 - i / num_steps, shift) for i in range(num_steps + 1)]


# --- Self-E -------------------------------------------------------------------------------------


def eq17(t: float, s: float) -> float:
    """lambda = sigma_t / alpha_t - sigma_s / alpha_s; infinite at t = 1 > s, 0 at s = t."""
    if s == t:
        return 0.0
    if t == 1.0:
        return math.inf
    return t / (1.0 - t) - s / (1.0 - s)


@dataclass(frozen=True)
class Reading:
    """How the evaluation passes are made. The defaults are the paper; others are known mistakes."""

    null_net: str = "live"
    cond_net: str = "ema"
    fake_net: str = "live"
    sign: float = 1.0
    swap_conditions: bool = False
    evaluate_at: str = "s"
    renoise_data: bool = False
    share_noise: bool = False
    pair_second_time: str = "s"
    k_swapped: bool = False


@dataclass(frozen=True)
class SelfETerms:
    """Everything Self-E computes for one sample (the losses are means over its elements)."""

    x0_hat: Array
    x_s_hat: Array | None
    delta: Array | None
    x_self: Array | None
    target: Array
    weight: float
    loss: float
    fake_loss: float | None


def self_e(
    live: Network,
    ema: Network,
    x_0: Array,
    eps: Array,
    eps_s: Array,
    t: float,
    s: float,
    c: Array,
    null: Array,
    *,
    fake: Array | None = None,
    k: float = 0.9,
    aux: bool = False,
    target_norm: bool = True,
    unnormalized_weight: str = "one_plus_lambda",
    dropped: bool = False,
    fake_weight: str = "inverse_square",
    reading: Reading | None = None,
) -> SelfETerms:
    """Eq. 6, 14, 16-21, s.6, s.8 for one sample."""
    how = reading or Reading()
    nets = {"live": live, "ema": ema}
    x_t = noisy(x_0, eps, t)
    x0_hat = head(live, x_t, t, s, c)
    if s == t:
        loss = float(np.mean((x0_hat - x_0) ** 2)) / t**2
        return SelfETerms(x0_hat, None, None, None, x_0, 1.0 / t**2, loss, None)

    generated = x_0 if how.renoise_data else x0_hat
    x_s_hat = noisy(generated, eps if how.share_noise else eps_s, s)
    at = {"s": s, "t": t}[how.evaluate_at]
    second = {"s": at, "0": 0.0}[how.pair_second_time]
    null_c, cond_c = (c, null) if how.swap_conditions else (null, c)
    g_null = head(nets[how.null_net], x_s_hat, at, second, null_c)
    g_cond = head(nets[how.cond_net], x_s_hat, at, second, cond_c)
    delta = g_null - g_cond
    fake_loss = None
    if aux:
        assert fake is not None
        g_fake = head(nets[how.fake_net], x_s_hat, at, second, fake)
        share = 1.0 - k if how.k_swapped else k
        delta = share * (g_null - g_cond) + (1.0 - share) * (g_fake - g_cond)
        scale = 1.0 / s**2 if fake_weight == "inverse_square" else 1.0
        fake_loss = scale * float(np.mean((g_fake - x0_hat) ** 2))
    x_self = x0_hat - how.sign * delta

    lam = 0.0 if dropped else eq17(t, s)
    if math.isinf(lam):  # the limit of Eq. 18 and 19
        mixture, eq18 = x_self, x_self
    else:
        mixture = x_0 + lam * x_self
        eq18 = mixture / (1.0 + lam)
    if target_norm:
        target = mixture / np.sqrt(np.sum(mixture**2)) * np.sqrt(np.sum(x_0**2))
        weight = 1.0 / t**2
    else:
        target = eq18
        weight = (1.0 + lam if unnormalized_weight == "one_plus_lambda" else 1.0) / t**2
    loss = weight * float(np.mean((x0_hat - target) ** 2))
    return SelfETerms(x0_hat, x_s_hat, delta, x_self, target, weight, loss, fake_loss)


def eq16(x0_hat: Array, x_0: Array, x_self: Array, t: float, s: float) -> float:
    """The hybrid loss before it is rewritten as one regression, with w = 1/t^2."""
    lam = eq17(t, s)
    both = np.mean((x0_hat - x_0) ** 2) + lam * np.mean((x0_hat - x_self) ** 2)
    return float(both) / t**2


# --- Flow Matching (Eq. 3) ----------------------------------------------------------------------


def flow_matching(net: Network, x_0: Array, eps: Array, t: float, c: Array) -> float:
    v = net(noisy(x_0, eps, t), t, t, c)
    return float(np.mean((v - (eps - x_0)) ** 2))


# --- IMM ----------------------------------------------------------------------------------------


def eta(t: float) -> float:
    return t / (1.0 - t)


def eta_inverse(y: float) -> float:
    return y / (1.0 + y)


def imm_r(
    t: float, s: float, *, time_max: float = 0.994, time_min: float = 0.0, k: int = 12
) -> float:
    stepped = eta(t) - (eta(time_max) - eta(time_min)) / 2.0**k
    # the formula is silent below eta = 0, where no time lies (its inverse has a pole at -1)
    return max(s, min(t - 1e-4, eta_inverse(max(stepped, 0.0))))


def imm_weight(t: float, *, a: float = 2.0, b: float = 4.0) -> float:
    """w(t): sigmoid weight on the log-SNR, its rate of change, the norm of (alpha, sigma)."""
    alpha, sigma = 1.0 - t, t
    log_snr = 2.0 * math.log(alpha / sigma)
    sigmoid = 1.0 / (1.0 + math.exp(-(b - log_snr)))
    minus_rate = 2.0 / (t * (1.0 - t))  # -d log_snr / dt
    return 0.5 * sigmoid * minus_rate * alpha**a / (alpha**2 + sigma**2)


def imm_kernel(a: Array, b: Array, t: float, s: float, sigma_d: float = 1.0) -> float:
    w_tilde = 1.0 / ((t - s) * sigma_d)
    distance = max(float(np.sqrt(np.sum((a - b) ** 2))), 1e-8)
    return math.exp(-w_tilde * distance / a.size)


def imm_map(
    net: Network, x: Array, t: float, s: float, c: Array, *, c_in_sigma_d: float | None = None
) -> Array:
    """f_{s,t}: Euler-FM; with `c_in_sigma_d` the network sees c_in x."""
    seen = x
    if c_in_sigma_d is not None:
        seen = x / (c_in_sigma_d * math.sqrt((1.0 - t) ** 2 + t**2))
    return x - (t - s) * net(seen, t, s, c)


def imm_group(
    net: Network,
    x_0: Sequence[Array],
    eps: Sequence[Array],
    c: Sequence[Array],
    t: float,
    s: float,
    *,
    sigma_d: float = 1.0,
    a: float = 2.0,
    b: float = 4.0,
    k: int = 12,
    c_in_sigma_d: float | None = None,
) -> float:
    """Loss of one group, before the factor D."""
    m = len(x_0)
    r = imm_r(t, s, k=k)
    options = {"c_in_sigma_d": c_in_sigma_d}
    y = [imm_map(net, noisy(x_0[j], eps[j], t), t, s, c[j], **options) for j in range(m)]
    y_ref = [imm_map(net, noisy(x_0[j], eps[j], r), r, s, c[j], **options) for j in range(m)]
    total = 0.0
    for p in range(m):
        for q in range(m):
            total += imm_kernel(y[p], y[q], t, s, sigma_d)
            total += imm_kernel(y_ref[p], y_ref[q], t, s, sigma_d)
            total -= 2.0 * imm_kernel(y[p], y_ref[q], t, s, sigma_d)
    return imm_weight(t, a=a, b=b) * total / m**2


# --- shortcut models (2410.12557) -----------------------------------------------------------------


def shortcut_target(
    net: Network, x_t: Array, times: tuple[float, float, float], c: Array, *, velocity: bool
) -> Array:
    """Eq. 4-5 for steps of any size: where two steps end, divided by the time they took.

    With `velocity` the network is asked with a step size of 0, as at the finest level.
    """
    t, m, s = times
    x_m = x_t - (t - m) * net(x_t, t, t if velocity else m, c)
    x_s = x_m - (m - s) * net(x_m, m, m if velocity else s, c)
    return (x_t - x_s) / (t - s)


# --- transition models (2509.04394) ---------------------------------------------------------------


def transition(
    net: Network,
    x_0: Array,
    eps: Array,
    t: float,
    s: float,
    c: Array,
    *,
    h: float,
    target_net: Network | None = None,
    directional: bool = True,
) -> tuple[float, float]:
    """(error, loss before it is divided by itself) of one sample (C, H, W)."""
    fixed = target_net or net
    after = fixed(noisy(x_0, eps, t + h), t + h, s, c)
    before = fixed(noisy(x_0, eps, t - h), t - h, s, c)
    target = (eps - x_0) - (t - s) * (after - before) / (2.0 * h)
    v = net(noisy(x_0, eps, t), t, s, c)
    error = float(np.mean((v - target) ** 2))
    if not directional:
        return error, error
    lengths = np.linalg.norm(v, axis=0) * np.linalg.norm(target, axis=0)
    cosine = np.sum(v * target, axis=0) / lengths
    return error, error + float(np.mean(1.0 - cosine))


def transition_weight(t: float, s: float) -> float:
    return (math.tan(t) - math.tan(s) + 1.0) ** -0.5


# --- MeanFlow (2505.13447) ------------------------------------------------------------------------


def meanflow_squared_error(
    net: Network,
    x_0: Array,
    eps: Array,
    t: float,
    r: float,
    c: Array,
    *,
    target_net: Network | None = None,
) -> float:
    """||u - u_tgt||^2 of one sample, Eq. 9-11; du/dt = v d_z u + d_t u (Eq. 8) one by one."""
    fixed = target_net or net
    z, v = noisy(x_0, eps, t), eps - x_0
    h = 1e-5
    along = (fixed(z + h * v, t, r, c) - fixed(z - h * v, t, r, c)) / (2.0 * h)
    in_time = (fixed(z, t + h, r, c) - fixed(z, t - h, r, c)) / (2.0 * h)
    target = v - (t - r) * (along + in_time)
    return float(np.sum((net(z, t, r, c) - target) ** 2))


# --- guidance -----------------------------------------------------------------------------------


def linear_cfg(null: Array, cond: Array, omega: float) -> Array:
    return null + omega * (cond - null)


def ep_cfg(null: Array, cond: Array, omega: float) -> Array:
    guided = linear_cfg(null, cond, omega)
    return guided * math.sqrt(float(np.sum(cond**2)) / float(np.sum(guided**2)))


def ep_cfg_x0(null: Array, cond: Array, omega: float, x_t: Array, t: float) -> Array:
    """Energy-preserving guidance of the sample heads, given back as V."""
    guided = ep_cfg(x_t - t * null, x_t - t * cond, omega)
    return (x_t - guided) / t


# --- samplers -----------------------------------------------------------------------------------


def ddpm_posterior(t: float, t_next: float) -> tuple[float, float, float]:
    """q(x_t' | x_t, x_0) by joint Gaussian conditioning: weights of x_0, x_t; variance.

    Forward chain x_t = ratio x_t' + independent noise, ratio = alpha_t / alpha_t'.
    Given x_0: Var x_t' = sigma_t'^2, Var x_t = sigma_t^2, Cov = ratio sigma_t'^2.
    """
    ratio = (1.0 - t) / (1.0 - t_next)
    gain = ratio * t_next**2 / t**2
    variance = t_next**2 - gain * ratio * t_next**2
    return (1.0 - t_next) - gain * (1.0 - t), gain, variance


def ancestral(t: float, t_next: float, noise_level: float) -> tuple[float, float]:
    """(eps_hat, noise) coefficients of DDIM's family; eta = 1 is `ddpm_posterior`."""
    if t_next == 0.0:
        return 0.0, 0.0
    c = noise_level * math.sqrt(ddpm_posterior(t, t_next)[2])
    return math.sqrt(max(t_next**2 - c**2, 0.0)), c


def minfm(t: float, t_next: float, noise_level: float) -> tuple[float, float]:
    kappa = max(0.0, t_next - noise_level * (t - t_next) * t_next / t)
    return kappa, math.sqrt(t_next**2 - kappa**2)


def sample(
    velocity: Callable[[Array, float, float], Array],
    x: Array,
    times: Sequence[float],
    noises: Sequence[Array],
    *,
    update: Callable[[float, float, float], tuple[float, float]] = ancestral,
    noise_level: float = 1.0,
    fraction: float = 0.0,
) -> Array:
    for k in range(len(times) - 1):
        t, t_next = times[k], times[k + 1]
        v = velocity(x, t, t_next + fraction * (t - t_next))
        x0_hat, eps_hat = x - t * v, x + (1.0 - t) * v
        if t_next == 0.0:
            return x0_hat
        keep, fresh = update(t, t_next, noise_level)
        x = (1.0 - t_next) * x0_hat + keep * eps_hat + fresh * noises[k]
    return x


def pushforward(
    velocity: Callable[[Array, float, float], Array],
    x: Array,
    num_steps: int,
    *,
    start: float = 0.994,
    restart_noises: Sequence[Array] | None = None,
) -> Array:
    times = [start * (1.0 - i / num_steps) for i in range(num_steps + 1)]
    for k in range(num_steps):
        t, t_next = times[k], times[k + 1]
        if restart_noises is None:
            x = x - (t - t_next) * velocity(x, t, t_next)
        else:
            x = x - t * velocity(x, t, 0.0)
            if t_next > 0.0:
                x = noisy(x, restart_noises[k], t_next)
    return x
