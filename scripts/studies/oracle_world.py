"""All objectives where the truth is known: conditional Gaussian mixtures in a plane.

    python -m scripts.studies.oracle_world [--iterations 2000] [--seed 0]

Trains a small network with each objective of the benchmark and prints the divergence of its samples
from exact ones against the number of steps; then the fixed point of the classifier-only loss and
what the auxiliary term changes, on particles judged by closed-form posterior means.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.flow_matching import FlowMatching
from baselines.imm import InductiveMomentMatching
from baselines.meanflow import MeanFlow
from baselines.shortcut import ShortcutModel
from baselines.transition import TransitionModel
from selfe.batch import LatentBatch, TextCondition
from selfe.data.gaussian_mixture import ConditionalGaussianMixture, overlapping_pairs
from selfe.objectives.base import Nets, Objective
from selfe.objectives.self_evaluation import SelfEvaluation
from selfe.sampler import SamplerSettings, draw_samples
from selfe.seeding import SampleRng
from selfe.times import TimeSampler

STEPS = (1, 2, 4, 8, 50)


class PlaneNetwork(nn.Module):
    """V(x_t (B, D, 1, 1), t, s, condition) by a multilayer perceptron; one-hot pooled captions."""

    def __init__(self, dim: int, num_conditions: int, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim + num_conditions + 8, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, dim),
        )

    def forward(self, x_t: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
        gap = t - s
        times = [
            f(k * time) for time in (t, gap) for k in (1.5, 6.0) for f in (torch.sin, torch.cos)
        ]
        features = torch.cat([x_t.flatten(1), condition.pooled, torch.stack(times, 1)], dim=1)
        return self.layers(features).reshape(x_t.shape)


def encode(c: Tensor, num_conditions: int) -> TextCondition:
    """Conditions as one-hot pooled vectors; -1, the null prompt, as zeros."""
    pooled = nn.functional.one_hot(c.clamp_min(0), num_conditions).float()
    pooled = pooled * (c >= 0)[:, None]
    mask = torch.ones(len(c), 1, dtype=torch.bool)
    return TextCondition(torch.zeros(len(c), 1, 1), mask, pooled)


def draw_batch(
    world: ConditionalGaussianMixture, n: int, generator: torch.Generator, dropout: float = 0.1
) -> LatentBatch:
    c = world.sample_conditions(n, generator)
    x_0 = torch.empty(n, world.dim, dtype=torch.float64)
    for k in range(world.num_conditions):
        rows = c == k
        x_0[rows] = world.sample(int(rows.sum()), k, generator)
    dropped = torch.rand(n, generator=generator) < dropout
    shown = torch.where(dropped, -1, c)
    return LatentBatch(
        x_0=x_0.float().reshape(n, world.dim, 1, 1),
        condition=encode(shown, world.num_conditions),
        null=encode(torch.tensor([-1]), world.num_conditions),
        dropped=dropped,
        index=torch.arange(n),
    )


def train(
    world: ConditionalGaussianMixture,
    objective: Objective,
    iterations: int,
    *,
    seed: int = 0,
    batch: int = 256,
    ema_decay: float = 0.99,
) -> PlaneNetwork:
    """The averaged network after Adam with linear decay of 2e-3."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    live = PlaneNetwork(world.dim, world.num_conditions)
    ema = copy.deepcopy(live).requires_grad_(False)
    adam = torch.optim.Adam(live.parameters(), lr=2e-3, betas=(0.9, 0.95), foreach=True)
    for step in range(iterations):
        adam.param_groups[0]["lr"] = 2e-3 * (1 - step / iterations) + 1e-5
        rng = SampleRng(seed, torch.arange(step * batch, (step + 1) * batch))
        output = objective.loss(draw_batch(world, batch, generator), Nets(live, ema), step, rng)
        adam.zero_grad()
        output.loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        adam.step()
        with torch.no_grad():
            pairs = zip(ema.parameters(), live.parameters(), strict=True)
            for average, parameter in pairs:
                average.lerp_(parameter, 1 - min(ema_decay, (1 + step) / (10 + step)))
    return ema


@torch.no_grad()
def generate(
    network: PlaneNetwork,
    world: ConditionalGaussianMixture,
    c: int,
    n: int,
    num_steps: int,
    *,
    pushforward: bool = False,
    eta: float = 1.0,
    s_fraction: float = 0.0,
    seed: int = 1,
) -> Tensor:
    """(n, D) samples for one condition, without guidance."""
    generator = torch.Generator().manual_seed(seed)
    condition = encode(torch.full((n,), c), world.num_conditions)

    def velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return network(x, t, s, condition)

    def noise(k: int) -> Tensor:
        return torch.randn(n, world.dim, 1, 1, generator=generator)

    sampler = "pushforward" if pushforward else "any-step"
    settings = SamplerSettings(sampler, eta=eta, s_fraction=s_fraction, warp=False)
    x = draw_samples(velocity, noise(0), num_steps, 1, settings, noise)
    return x.flatten(1).double()


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E||a - b|| - E||a - a'|| - E||b - b'||, without the diagonals; 0 for equal laws."""

    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))


def divergence(
    network: PlaneNetwork,
    world: ConditionalGaussianMixture,
    num_steps: int,
    *,
    n: int = 1000,
    **sampling: object,
) -> float:
    """Energy distance to exact samples, averaged over the conditions."""
    generator = torch.Generator().manual_seed(2)
    distances = [
        energy_distance(
            generate(network, world, c, n, num_steps, **sampling),  # type: ignore[arg-type]
            world.sample(n, c, generator),
        )
        for c in range(world.num_conditions)
    ]
    return sum(distances) / len(distances)


@dataclass(frozen=True)
class Contender:
    label: str
    objective: Objective
    pushforward: bool = False
    eta: float = 1.0
    s_fraction: float = 0.0


def contenders(iterations: int) -> list[Contender]:
    times = TimeSampler(tau_horizon=iterations // 2)
    no_norm = SelfEvaluation(times=times, target_norm=False)
    return [
        Contender("Self-E", SelfEvaluation(times=times)),
        Contender("Self-E w/o target norm", no_norm),
        # a velocity is asked for at s = t, the only place where it is trained
        Contender("Flow Matching (Euler)", FlowMatching(times=times), eta=0.0, s_fraction=1.0),
        Contender("IMM (pushforward)", InductiveMomentMatching(), pushforward=True),
        Contender("Shortcut (Euler)", ShortcutModel(times=times), eta=0.0),
        Contender("Transition (Euler)", TransitionModel(), eta=0.0),
        Contender("Transition w/o loss norm", TransitionModel(loss_norm=False), eta=0.0),
        Contender("MeanFlow (Euler)", MeanFlow(), eta=0.0),
        Contender("MeanFlow w/o loss norm", MeanFlow(power=0.0), eta=0.0),
    ]


def empirical_posterior_mean(x_s: Tensor, s: float, particles: Tensor) -> Tensor:
    """E_p[x_0 | x_s] where p is the particles themselves: the ideal answer to c_fake (s.3)."""
    squared = torch.cdist(x_s, (1 - s) * particles).square()
    return torch.softmax(-squared / (2 * s**2), dim=1) @ particles


def settle(
    world: ConditionalGaussianMixture,
    c: int,
    k: float,
    *,
    n: int = 400,
    iterations: int = 200,
    rate: float = 0.3,
    seed: int = 3,
) -> Tensor:
    """Particles that follow x <- x - rate Delta (s.6) with exact posterior means, from N(0, I).

    k = 1 is the classifier score alone, k = 0 the reverse KL of Eq. 9, k = 0.9 the paper's mixture.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, world.dim, generator=generator, dtype=torch.float64)
    for _ in range(iterations):
        s = float(torch.rand((), generator=generator)) * 0.75 + 0.15
        x_s = (1 - s) * x + s * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        g_cond = world.posterior_mean(x_s, s, c)
        delta = k * (world.posterior_mean(x_s, s, None) - g_cond)
        if k < 1:
            delta = delta + (1 - k) * (empirical_posterior_mean(x_s, s, x) - g_cond)
        x = x - rate * delta
    return x


def main(print_line: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = overlapping_pairs()

    print_line(f"energy distance to exact samples, {options.iterations} iterations each")
    print_line(f"{'method':24s}" + "".join(f"{n:>9d}" for n in STEPS) + "  steps")
    for entry in contenders(options.iterations):
        network = train(world, entry.objective, options.iterations, seed=options.seed)
        sampling = {
            "pushforward": entry.pushforward,
            "eta": entry.eta,
            "s_fraction": entry.s_fraction,
        }
        row = [divergence(network, world, n, **sampling) for n in STEPS]
        print_line(f"{entry.label:24s}" + "".join(f"{value:9.4f}" for value in row))

    print_line("\nwhere particles driven by Delta of Eq. s.6 settle (condition 0, exact judges)")
    exact = world.sample(400, 0, torch.Generator().manual_seed(4))
    print_line(f"{'':24s}{'distance':>10s}{'std x':>8s}{'std y':>8s}{'q(c|x)':>8s}")
    cases = [("data", exact)]
    cases += [
        (label, settle(world, 0, k))
        for label, k in (
            ("classifier only, k = 1", 1.0),
            ("k = 0.9", 0.9),
            ("aux only, k = 0", 0.0),
        )
    ]
    fresh = world.sample(1000, 0, torch.Generator().manual_seed(5))
    for label, x in cases:
        posterior = world.log_density(x, 0.0, 0) - world.log_density(x, 0.0, None)
        share = float((posterior.exp() * world.prior[0]).mean())
        spread = x.std(0).tolist()
        distance = energy_distance(x, fresh)
        print_line(f"{label:24s}{distance:10.4f}{spread[0]:8.3f}{spread[1]:8.3f}{share:8.3f}")


if __name__ == "__main__":
    main()
