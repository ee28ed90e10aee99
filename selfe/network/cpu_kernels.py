"""FLUX's activation: GELU in its tanh form, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfe.network.derivative import carries_tangent

NORM_EPS = 1e-6


_RATE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_PART = 2**16
"""Elements whose intermediate results stay in the cache of a core."""


def gelu(x: Tensor) -> Tensor:
    return beside_gelu(x.new_empty((*x.shape[:-1], 0)), x)


def beside_gelu(left: Tensor, x: Tensor) -> Tensor:
    """[left, gelu(x)] along the last dimension."""
    if eager_on_cpu(x) and left.dtype == x.dtype != torch.float64:
        return GeluBeside.apply(left, x)
    activated = F.gelu(x, approximate="tanh")
    return torch.cat([left, activated], dim=-1) if left.shape[-1] else activated


class GeluBeside(torch.autograd.Function):
    """The same for eager processors, whose library kernel takes as long as six products: written
    into its place part by part, with the slope for the backward pass.

    With u = r x (1 + c x^2), gelu(x) = x sigma(u); the slope is sigma + x sigma (1 - sigma) du/dx.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, x: Tensor) -> Tensor:
        ctx.offset = left.shape[-1]
        out = x.new_empty((*x.shape[:-1], ctx.offset + x.shape[-1]))
        out[..., : ctx.offset].copy_(left)
        slope = x.new_empty(x.shape) if ctx.needs_input_grad[1] else None
        _fill(x, out[..., ctx.offset :], slope)
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        (slope,) = ctx.saved_tensors
        grad_x = None if slope is None else grad[..., ctx.offset :] * slope
        return grad[..., : ctx.offset], grad_x


def _fill(x: Tensor, y: Tensor, slope: Tensor | None) -> None:
    """Write the activation of x into y, and where asked its slope; computed in fp32."""
    width = x.shape[-1]
    rows = max(1, _PART // width)
    rate = torch.tensor(_RATE)
    narrow = x.dtype != torch.float32
    scratch = torch.empty(3 if narrow else 1, rows, width)
    outputs = [y] if slope is None else [y, slope]
    parts = [tensor.flatten(0, -2).split(rows) for tensor in (x, *outputs)]
    for x_part, *results in zip(*parts, strict=True):
        sigma, *spare = scratch[:, : len(x_part)]
        wide = spare[0].copy_(x_part) if narrow else x_part
        torch.addcmul(rate, wide, wide, value=_RATE * _CUBIC, out=sigma)
        sigma.mul_(wide).sigmoid_()
        if slope is not None:
            bend = spare[1] if narrow else results[1]
            torch.addcmul(rate, wide, wide, value=3 * _RATE * _CUBIC, out=bend)
            bend.mul_(wide).mul_(sigma).addcmul_(bend, sigma, value=-1).add_(sigma)
            if narrow:
                results[1].copy_(bend)
        if narrow:
            results[0].copy_(sigma.mul_(wide))
        else:
            torch.mul(sigma, wide, out=results[0])


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean of x^2 + eps) over the last dimension, which is kept with size 1."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    return torch.rsqrt(mean_square + NORM_EPS)


def eager_on_cpu(x: Tensor) -> bool:
    """Whether functions written for processors will do for x; they know no forward mode."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not carries_tangent(x)


class NormaliseAndRotate(torch.autograd.Function):
    """The same in 3 passes over memory forward and 6 backward, where autograd makes 6 and 14; both
    results are laid out as attention reads them.

    Compilers for accelerators do this themselves. Pairs are multiplied as complex numbers, in
    place. With u the input, g gains, R the rotation and r = 1 / rms(u), y = r R(g u), hence
    z = r R^T(dy), dg = sum z u, du = g z - u r^2 / K sum_k (z u g)_k.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gains: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        wide = x.float()
        inverse = inverse_rms(wide)
        turned = wide * gains
        _as_complex(turned).mul_(torch.view_as_complex(table))
        ctx.save_for_backward(x, gains, table, inverse)
        queries_and_keys = x.new_empty([x.shape[i] for i in (2, 0, 3, 1, 4)])
        torch.mul(turned, inverse, out=queries_and_keys.permute(1, 3, 0, 2, 4))
        return queries_and_keys[0], queries_and_keys[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_queries: Tensor, grad_keys: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gains, table, inverse = ctx.saved_tensors
        wide = x.float()
        turned = torch.empty_like(wide)
        turned[:, :, 0].copy_(grad_queries.transpose(1, 2))
        turned[:, :, 1].copy_(grad_keys.transpose(1, 2))
        _as_complex(turned).mul_(torch.view_as_complex(table).conj())
        z = turned.mul_(inverse)
        product = z * wide
        grad_gains = product.sum_to_size(gains.shape)
        along = product.mul_(gains).sum(-1, keepdim=True)
        along.mul_(inverse.square()).div_(-x.shape[-1])
        return z.mul_(gains).addcmul_(wide, along).to(x.dtype), grad_gains, None


def _as_complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
