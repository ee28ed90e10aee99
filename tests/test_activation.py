"""The activation written for processors against the library's, in double precision."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from selfe.network import cpu_kernels
from selfe.network.cpu_kernels import beside_gelu_on_cpu as beside_gelu
from selfe.network.cpu_kernels import gelu_on_cpu as gelu


def spread(dtype: torch.dtype) -> torch.Tensor:
    """(3, 7, 12) values near 0, in the bend and far out, as a part of a wider tensor."""
    x = torch.randn(3, 7, 20, generator=torch.Generator().manual_seed(0)) * 3
    x[0, 0, 6:10] = torch.tensor([0.0, -40.0, 40.0, -5.0])
    return x.to(dtype)[..., 6:18]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("part", [1, 30, 2**16])
@pytest.mark.parametrize("beside", [False, True])
def test_value_and_slope_are_the_librarys(dtype, tolerance, part, beside, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "_PART", part)
    x, left = spread(dtype).requires_grad_(), torch.randn(3, 7, 5).to(dtype).requires_grad_()
    exact_x, exact_left = (p.detach().double().requires_grad_() for p in (x, left))
    expected = F.gelu(exact_x, approximate="tanh")
    if beside:
        out, expected = beside_gelu(left, x), torch.cat([exact_left, expected], dim=-1)
    else:
        out = gelu(x)
    upstream = torch.randn(out.shape).to(dtype)
    out.backward(upstream)
    expected.backward(upstream.double())
    assert "GeluBeside" in out.grad_fn.name()
    assert out.dtype == x.grad.dtype == dtype
    close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    close(out.double(), expected)
    close(x.grad.double(), exact_x.grad)
    if beside:
        close(left.grad.double(), exact_left.grad, rtol=0, atol=0)


def test_bf16_loses_no_more_than_the_library():
    x = spread(torch.bfloat16)
    exact = F.gelu(x.double(), approximate="tanh")
    errors = [
        (f(x).double() - exact).abs().max() for f in (gelu, partial(F.gelu, approximate="tanh"))
    ]
    assert errors[0] <= errors[1]


def test_double_precision_is_the_library_itself():
    x = spread(torch.float64)
    assert torch.equal(gelu(x), F.gelu(x, approximate="tanh"))
    assert torch.equal(beside_gelu(x, x), torch.cat([x, gelu(x)], dim=-1))


def test_nothing_is_kept_for_a_backward_pass_that_will_not_come():
    x, left = spread(torch.float32), torch.randn(3, 7, 5, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda packed: packed):
        beside_gelu(left, x).sum().backward()
        with torch.no_grad():
            gelu(x.clone().requires_grad_())
    assert kept == []
    assert torch.equal(left.grad, torch.ones_like(left))


def test_what_is_not_finite_stays_so():
    for value in (float("nan"), float("inf")):
        x = torch.full((1, 2, 3), value, requires_grad=True)
        out = gelu(x)
        out.sum().backward()
        assert not out.isfinite().any() and not x.grad.isfinite().any()
