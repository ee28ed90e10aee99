"""FSDP2 at the paper's widths without a GPU: what is live, what is sent, and what `plan` says."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from torch._subclasses import fake_tensor

from scripts.checks.sharded_step import PROCESSES, TEXT_TOKENS, planned, trace_step, with_batch
from selfe.config.resolve import resolve
from selfe.config.schema import RunConfig
from selfe.network.flops import parameter_counts
from selfe.planning.memory import bytes_per_number, kept_numbers

SHALLOW = ("model.num_layers=1", "model.num_single_layers=1")
"""The real width, tokens and batch; every further block is as the last."""
BLOCKS = 2
STATE = 20
"""Bytes per weight: weight, gradient, average, two moments."""


@pytest.mark.parametrize(
    ("method", "micro_batches", "passes"),
    [("fm", 2, 2), ("selfe", 1, 4)],  # Self-E: live and null, average, backward
)
def test_a_step_gathers_scatters_and_holds_what_is_planned(method, micro_batches, passes):
    config = resolve("0.5b", method, assignments=SHALLOW)
    config = with_batch(config, 64 * PROCESSES * micro_batches, 64)
    traced = trace_step(config, PROCESSES, 64, 256, step=299_999, micro_batches=micro_batches)
    parameters, _ = parameter_counts(config.model.model_dump())
    groups = (BLOCKS + 1) * micro_batches  # the blocks, and what lies outside
    assert traced.collectives == {
        "all_gather": passes * groups,
        "reduce_scatter": groups,
        "all_reduce": 2,  # of the loss and of the gradients' norm
    }
    # the weights in bf16 for every pass, their gradients in fp32; two rows are padded to eight
    gathered, scattered = 2 * passes * micro_batches, 4 * micro_batches
    assert traced.moved["all_gather"] == pytest.approx(gathered * parameters, rel=1e-4)
    assert traced.moved["reduce_scatter"] == pytest.approx(scattered * parameters, rel=1e-4)
    assert traced.state == pytest.approx(STATE * parameters / PROCESSES, rel=0.01)
    assert traced.peak == pytest.approx(
        planned(config, PROCESSES).memory_per_gpu.total, rel=0.15
    )  # ends weigh more beside two blocks


def test_replicas_of_shards_add_a_sum_per_block():
    config = resolve("0.5b", "fm", assignments=SHALLOW)
    traced = trace_step(config, 4, 64, 256, step=0, micro_batches=2)
    assert traced.collectives["all_gather"] == 4 * (BLOCKS + 1)
    # after the last micro-batch alone: one for every block and for what lies outside
    assert traced.collectives["all_reduce"] == (BLOCKS + 1) + 2


def test_the_sharded_update_never_makes_whole_weights():
    """Where torch does not know a kernel's shapes it runs it, on tensors of the whole network."""
    config = resolve("0.5b", "fm", assignments=[*SHALLOW, "model.num_attention_heads=2"])
    with patch.object(
        fake_tensor, "run_fallback_kernel", side_effect=AssertionError("a kernel was run")
    ):
        trace_step(config, PROCESSES, 2, 256, step=0)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_further_block_keeps_what_the_plan_says(precision):
    def config_of(single: int) -> RunConfig:
        blocks = ("model.num_layers=0", f"model.num_single_layers={single}")
        return resolve("0.5b", "fm", assignments=[*blocks, f"train.precision={precision}"])

    def activations(single: int) -> float:
        config = config_of(single)
        traced = trace_step(config, PROCESSES, 64, 256, step=0)
        return traced.peak - STATE * parameter_counts(config.model.model_dump())[0] / PROCESSES

    config = config_of(2)
    per_number = bytes_per_number(config) * 64 * (256 + TEXT_TOKENS) * 1024
    more = (activations(3) - activations(2)) / per_number
    assert more == pytest.approx(kept_numbers(config, "none")[1], rel=0.02)
