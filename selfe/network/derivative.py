"""Exact derivatives of the network in time, by forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from selfe.batch import TextCondition


def carries_tangent(*tensors: Tensor) -> bool:
    """Whether any of the tensors is being differentiated in forward mode."""
    return any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def time_derivative(
    network: Callable[[Tensor, Tensor, Tensor, TextCondition], Tensor],
    x_t: Tensor,
    slope: Tensor,
    t: Tensor,
    s: Tensor,
    condition: TextCondition,
) -> Tensor:
    """d/dt V(x_t, t, s, c) where x_t changes with t by `slope`: the Jacobian-vector product with
    (slope, 1, 0, 0). It takes the time of two forward passes.

    Args:
        x_t, slope: (B, C, h, w).
        t, s: (B,).

    Returns:
        (B, C, h, w) in the dtype of the network's output, without gradient.
    """
    # Neither fused attention kernels nor compiled blocks have a forward derivative.
    with (
        torch.no_grad(),
        forward_ad.dual_level(),
        sdpa_kernel(SDPBackend.MATH),
        torch.compiler.set_stance("force_eager"),
    ):
        moving_x, moving_t = (
            forward_ad.make_dual(x.detach(), tangent)
            for x, tangent in ((x_t, slope), (t, torch.ones_like(t)))
        )
        value, derivative = forward_ad.unpack_dual(network(moving_x, moving_t, s, condition))
        return torch.zeros_like(value) if derivative is None else derivative
