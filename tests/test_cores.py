"""Micro-batches on several cores: the same gradients, whatever computes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch

from selfe.cores import SideBySide, one_by_one, open_backward
from selfe.dist import OneProcess
from selfe.objectives.base import Nets
from selfe.trainer import accumulate


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["selfe", "fm", "imm"])
def test_threads_change_no_bit(method: str, two_threads: None) -> None:
    config = tiny.tiny_config(method, "train.micro_batch_size=4")
    objective, source = config.build_objective(), tiny.tiny_source(config)
    found = []
    model = tiny.build_model(config, "cpu")
    for parameter in model.parameters():  # modulations start at zero, and hide most gradients
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(3))
    with open_backward(model) as side_by_side:
        assert isinstance(side_by_side, SideBySide)
        for backward in (one_by_one, side_by_side):
            model.zero_grad(set_to_none=True)
            nets, alone = Nets(model, model), OneProcess("cpu")
            loss, _, indices = accumulate(objective, source, nets, config, 3, alone, backward)
            gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
            found.append((loss, indices, gradients))
    (loss, indices, gradients), (threaded_loss, threaded_indices, threaded) = found
    assert torch.equal(loss, threaded_loss) and torch.equal(indices, threaded_indices)
    assert any(g.abs().max() > 0 for g in gradients.values())
    for name, gradient in gradients.items():
        assert torch.equal(gradient, threaded[name]), name


def test_one_thread_needs_no_pool() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with open_backward(torch.nn.Linear(1, 1)) as backward:
            assert backward is one_by_one
    finally:
        torch.set_num_threads(before)


def test_threads_are_given_back_and_a_failure_is_told(two_threads: None) -> None:
    def broken() -> None:
        raise ValueError("a sentence")

    with pytest.raises(ValueError, match="a sentence"):
        with open_backward(torch.nn.Linear(1, 1)) as backward:
            backward(iter([broken, broken]), 2)
    assert torch.get_num_threads() == 2


def test_a_run_on_two_threads_equals_one_on_one(tmp_path: Path, two_threads: None) -> None:
    config = tiny.tiny_config("selfe", "train.micro_batch_size=4")
    threaded = tiny.tiny_train(config, tmp_path / "two")
    torch.set_num_threads(1)
    alone = tiny.tiny_train(config, tmp_path / "one")
    assert not tiny.differing(alone, threaded)
