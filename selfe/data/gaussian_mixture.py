"""The oracle world: conditional Gaussian mixtures, where every posterior mean is closed form.

Under x_s = (1 - s) x_0 + s eps a component N(m, S) of the data becomes N(a m, a^2 S + s^2 I) with
a = 1 - s, and E[x_0 | x_s] = sum_k w_k(x_s) [m_k + a S_k (a^2 S_k + s^2 I)^-1 (x_s - a m_k)] with
w_k the responsibilities. It is what Self-E's G(x_s, s, s, c) approximates (Eq. 11, s.1), so signs
and fixed points can be checked against it. All float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


@dataclass(frozen=True)
class ConditionalGaussianMixture:
    """K conditions of J Gaussian components each, in D dimensions.

    Attributes:
        weights: (K, J) of the components within a condition, each row summing to 1.
        means: (K, J, D).
        covariances: (K, J, D, D), positive definite.
        prior: (K,) probabilities of the conditions, which weigh the null prompt's mixture.

    Raises:
        ValueError: if shapes disagree or weights do not sum to 1.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    prior: Tensor

    def __post_init__(self) -> None:
        K, J, D = self.means.shape
        shapes = (self.weights.shape, self.covariances.shape, self.prior.shape)
        if shapes != ((K, J), (K, J, D, D), (K,)):
            raise ValueError(f"mixture of shapes {shapes} does not fit means {(K, J, D)}")
        sums = torch.cat([self.weights.sum(1), self.prior.sum().reshape(1)])
        if not torch.allclose(sums, torch.ones_like(sums)):
            raise ValueError("weights of a condition, and the prior, must each sum to 1")

    @property
    def num_conditions(self) -> int:
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        return self.means.shape[2]

    def _components(self, c: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (J,), means (J, D), covariances (J, D, D) of one condition or of all."""
        if c is not None:
            return self.weights[c].log(), self.means[c], self.covariances[c]
        joint = (self.weights * self.prior[:, None]).flatten()
        return joint.log(), self.means.flatten(0, 1), self.covariances.flatten(0, 1)

    def _noisy(self, s: float, c: int | None) -> tuple[Tensor, MultivariateNormal]:
        log_weights, means, covariances = self._components(c)
        alpha = 1.0 - s
        noise = s**2 * torch.eye(self.dim, dtype=means.dtype)
        return log_weights, MultivariateNormal(alpha * means, alpha**2 * covariances + noise)

    def log_density(self, x_s: Tensor, s: float, c: int | None) -> Tensor:
        """log q(x_s | c) of (B, D) points at noise level s in [0, 1]; c = None: the null prompt."""
        log_weights, noisy = self._noisy(s, c)
        return torch.logsumexp(log_weights + noisy.log_prob(x_s[:, None]), dim=1)

    def posterior_mean(self, x_s: Tensor, s: float, c: int | None) -> Tensor:
        """E[x_0 | x_s, c], (B, D); c = None: E[x_0 | x_s] under the prior over conditions."""
        log_weights, noisy = self._noisy(s, c)
        _, means, covariances = self._components(c)
        alpha = 1.0 - s
        responsibility = torch.softmax(log_weights + noisy.log_prob(x_s[:, None]), dim=1)
        gain = alpha * torch.linalg.solve(noisy.covariance_matrix, covariances)  # (J, D, D)
        offset = x_s[:, None] - alpha * means
        per_component = means + torch.einsum("bje,jed->bjd", offset, gain)
        return torch.einsum("bj,bjd->bd", responsibility, per_component)

    def sample(self, n: int, c: int | None, generator: torch.Generator) -> Tensor:
        """(n, D) draws of x_0 given a condition, or of the whole mixture for None."""
        log_weights, means, covariances = self._components(c)
        choice = torch.multinomial(log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.dim, generator=generator, dtype=means.dtype)
        root = torch.linalg.cholesky(covariances)
        return means[choice] + torch.einsum("bij,bj->bi", root[choice], z)

    def sample_conditions(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) int64 conditions drawn from the prior."""
        return torch.multinomial(self.prior, n, replacement=True, generator=generator)


def overlapping_pairs(spread: float = 0.3) -> ConditionalGaussianMixture:
    """Three conditions of two components in the plane, of about unit variance, that overlap.

    Args:
        spread: standard deviation of a component along its short axis.
    """
    angle = torch.arange(6, dtype=torch.float64) * (torch.pi / 3)
    means = 1.2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    # neighbours on the circle belong to one condition, so every condition overlaps both others
    means = means.reshape(3, 2, 2)
    long = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    return ConditionalGaussianMixture(
        weights=torch.tensor([[0.7, 0.3], [0.5, 0.5], [0.4, 0.6]], dtype=torch.float64),
        means=means,
        covariances=(spread**2 * long).expand(3, 2, 2, 2).contiguous(),
        prior=torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64),
    )
