"""The operations of a block written for processors, which have no compiler that fuses them.

They compute what `operations` computes, in fewer passes over memory. They know neither compiled
graphs nor forward-mode differentiation: there the plain operations serve.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfe.network.derivative import carries_tangent
from selfe.network.operations import (
    PLAIN,
    Kernels,
    attend,
    beside_gelu,
    gelu,
    inverse_rms,
    normalise_and_rotate,
)

FEW_TOKENS = 96
"""Up to here plain matmuls beat the CPU's fused attention kernel."""
_RATE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_PART = 2**16
"""Elements whose intermediate results stay in the cache of a core."""


def kernels_for(x_t: Tensor, t: Tensor) -> Kernels:
    """What a forward pass of the network with these inputs computes with; asked once a pass."""
    if x_t.device.type != "cpu" or carries_tangent(x_t, t):
        return PLAIN
    return PROCESSOR


def normalise_and_rotate_on_cpu(
    x_BL2HK: Tensor, gains: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """See `operations.normalise_and_rotate`."""
    if torch.compiler.is_compiling() or x_BL2HK.dtype == torch.float64:
        return normalise_and_rotate(x_BL2HK, gains, table)
    return NormaliseAndRotate.apply(x_BL2HK, gains, table)


def attend_on_cpu(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, mask: Tensor | None) -> Tensor:
    """See `operations.attend`."""
    if torch.compiler.is_compiling() or k_BHLK.shape[2] > FEW_TOKENS:
        return attend(q_BHLK, k_BHLK, v_BHLK, mask)
    scores = q_BHLK @ k_BHLK.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    # Processors take several times as long for it in bf16, conversions to fp32 included.
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=wide).to(v_BHLK.dtype) @ v_BHLK


def gelu_on_cpu(x: Tensor) -> Tensor:
    """See `operations.gelu`."""
    if torch.compiler.is_compiling() or x.dtype == torch.float64:
        return gelu(x)
    return GeluBeside.apply(x.new_empty((*x.shape[:-1], 0)), x)


def beside_gelu_on_cpu(left: Tensor, x: Tensor) -> Tensor:
    """See `operations.beside_gelu`."""
    if torch.compiler.is_compiling() or not left.dtype == x.dtype != torch.float64:
        return beside_gelu(left, x)
    return GeluBeside.apply(left, x)


PROCESSOR = Kernels(normalise_and_rotate_on_cpu, attend_on_cpu, gelu_on_cpu, beside_gelu_on_cpu)


class GeluBeside(torch.autograd.Function):
    """[left, gelu(x)], written into its place part by part, with the slope for the backward pass:
    the library's kernel takes as long as six products.

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


class NormaliseAndRotate(torch.autograd.Function):
    """Both in 3 passes over memory forward and 6 backward, where autograd makes 6 and 14; both
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
