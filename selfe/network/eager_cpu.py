"""Operations that the CPU runs slowly one by one, written with their backward pass by hand.

Compilers fuse all this themselves, and accelerators are fast enough at it, so these stand in only
for an eager network on the CPU in single precision or bf16. What they compute is the same up to
rounding.

Shape suffixes: B batch, L tokens, H heads, K features of a head; 2 is (query, key).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfe.network.norms import inverse_rms

CHUNK = 2**18
"""Elements worked on at a time where several operations follow each other: they stay in the
cache."""

GELU_SLOPE = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_SLOPE


def applies_to(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype != torch.float64 and not torch.compiler.is_compiling()


class NormaliseAndRotate(torch.autograd.Function):
    """(B, L, 2, H, K) -> two of (B, H, L, K), in 3 passes over memory forward where autograd makes
    6, and 6 backward where it makes 14. Both results lie as attention reads them.

    Pairs are multiplied as complex numbers, in place. With u the input, g gains, R the rotation and
    r = 1 / rms(u), y = r R(g u), hence z = r R^T(dy), dg = sum z u,
    du = g z - u r^2 / K sum_k (z u g)_k.
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


class TanhGelu(torch.autograd.Function):
    """GELU in its tanh form, as x S(w) with S the sigmoid and w = x (a + b x^2).

    The CPU's tanh is slow, and its kernels evaluate it forward and again backward. Here the
    derivative S + x S (1 - S) (a + 3 b x^2) comes from the same sigmoid and is all that is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty(x.shape)
        slope = torch.empty_like(out) if ctx.needs_input_grad[0] else None
        width = x.shape[-1]
        rows = max(1, CHUNK // max(1, width))
        flat = [part.reshape(-1, width) for part in (x, out)]
        for i in range(0, flat[0].shape[0], rows):
            part, result = (whole[i : i + rows] for whole in flat)
            wide = part.float()
            square = wide * wide
            gate = torch.rsub(square, GELU_SLOPE, alpha=-GELU_CUBIC).mul_(wide).sigmoid_()
            value = wide * gate
            result.copy_(value)
            if slope is not None:
                bend = square.mul_(3 * GELU_CUBIC).add_(GELU_SLOPE).mul_(value)
                bend.addcmul_(bend, gate, value=-1)
                torch.add(bend, gate, out=slope.view(-1, width)[i : i + rows])
        if slope is not None:
            ctx.save_for_backward(slope)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grad * slope
