"""Compiling and recomputing blocks changes how they are run, never what they compute."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from selfe.batch import TextCondition
from selfe.config.schema import TrainConfig
from selfe.network.denoiser import DualTimeDenoiser
from selfe.planning.memory import KEPT
from selfe.training.block_execution import accelerate
from tests.helpers.tiny import differing, tiny_config, tiny_train
from tests.test_network import TINY, make_inputs, tiny_model

RECOMPUTE = ("blocks", "selective")
IMAGES, TEXT = 2, 64


def accelerated(**settings):
    model = tiny_model()
    names = list(model.state_dict())
    accelerate(model, TrainConfig(**settings))
    assert list(model.state_dict()) == names
    return model


def loss_and_gradients(model, inputs):
    loss = model(*inputs).square().mean()
    loss.backward()
    return [loss, *(p.grad for p in model.parameters())]


@pytest.fixture
def traced(monkeypatch):
    """Tracing as for every back end, without generating code; counts the graphs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_recomputing_gives_the_same_loss_and_gradients(recompute):
    inputs = make_inputs(TINY)
    plain = loss_and_gradients(tiny_model(), inputs)
    again = loss_and_gradients(accelerated(recompute=recompute), inputs)
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("recompute", ("none", *RECOMPUTE))
def test_compiled_blocks_give_the_same_loss_and_gradients(recompute, traced):
    inputs = make_inputs(TINY)
    plain = loss_and_gradients(tiny_model(), inputs)
    compiled = loss_and_gradients(accelerated(compile=True, recompute=recompute), inputs)
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)
    # a double-stream block, a single-stream one, and the last, which skips the text's outputs:
    # blocks of a kind share a graph
    assert traced.frame_count == 3


def test_compiled_blocks_follow_the_shapes_of_buckets(traced):
    model, compiled = tiny_model(), accelerated(compile=True)
    with torch.no_grad():
        for shape in ({}, {"h": 8, "w": 4}):
            inputs = make_inputs(TINY, **shape)
            torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=0, atol=2e-6)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_a_run_is_the_same_with_and_without(recompute, tmp_path):
    plain = tiny_train(tiny_config("selfe", "train.iterations=3"), tmp_path / "plain")
    setting = f"train.recompute={recompute}"
    again = tiny_train(tiny_config("selfe", "train.iterations=3", setting), tmp_path / "again")
    assert differing(plain, again) == []


def kept_bytes(blocks: tuple[int, int], recompute: str) -> int:
    """Storage held between forward and backward pass by a network of so many blocks, in bf16."""
    network = DualTimeDenoiser(16, *blocks, 16, 4, 16, 16, (4, 6, 6)).bfloat16()
    accelerate(network, TrainConfig(recompute=recompute))
    mask = torch.ones(IMAGES, TEXT, dtype=torch.bool)
    condition = TextCondition(torch.randn(IMAGES, TEXT, 16), mask, torch.randn(IMAGES, 16), True)
    inputs = (torch.randn(IMAGES, 4, 16, 16), torch.rand(IMAGES), torch.zeros(IMAGES), condition)

    def storages() -> dict[int, torch.UntypedStorage]:
        tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor]
        return {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors}

    with torch.no_grad():
        network(*inputs)  # leaves the rotary table in its cache
    before = storages()  # kept, so that no address is used twice
    out = network(*inputs)
    held = {key: each.nbytes() for key, each in storages().items() if key not in before}
    out.sum().backward()
    return sum(held.values())


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_kept_activations_are_those_of_the_plan(recompute):
    """A block more keeps what the plan counts for it, and a little of attention's sums."""
    unit = 2 * 64 * (TEXT + 64) * IMAGES  # bytes x width x tokens
    base = kept_bytes((1, 1), recompute)
    for blocks, planned in zip(((2, 1), (1, 2)), KEPT[recompute], strict=True):
        assert (kept_bytes(blocks, recompute) - base) / unit == pytest.approx(planned, rel=0.03)
