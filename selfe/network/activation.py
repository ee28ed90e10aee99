"""FLUX's activation: GELU in its tanh form, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfe.network.attention import eager_on_cpu

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
