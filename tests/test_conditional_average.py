"""`objective.conditional_decay`: an average of the weights for the conditional branch alone."""

from __future__ import annotations

import pytest
import torch

from selfe.distributed.processes import OneProcess
from selfe.run_folder.model import build_model
from selfe.training.callbacks import Callbacks
from selfe.training.state import new_state, restore
from tests.helpers.tiny import differing, everything, tiny_config, tiny_train

CONDITIONAL = "objective.conditional_decay"


def test_an_average_for_the_conditional_branch_alone(tmp_path):
    """With the decay of the scored average it is that average; with 0 it is the live weights."""
    usual = tiny_config("selfe")
    scored = tiny_train(usual, tmp_path / "scored")
    same = tiny_train(
        tiny_config("selfe", f"{CONDITIONAL}={usual.optim.ema_decay}"), tmp_path / "same"
    )
    assert same.conditional is not None
    scored_weights = same.ema.module.state_dict()
    for name, value in same.conditional.module.state_dict().items():
        assert torch.equal(value, scored_weights[name])
    found = everything(same)
    assert all(torch.equal(found[name], value) for name, value in everything(scored).items())

    live = tiny_train(tiny_config("selfe", "objective.conditional_weights=live"), tmp_path / "live")
    zero = tiny_train(tiny_config("selfe", f"{CONDITIONAL}=0"), tmp_path / "zero")
    found = everything(zero)
    assert all(torch.equal(found[name], value) for name, value in everything(live).items())
    assert "model/image_in.weight" in differing(scored, live)


def test_an_average_for_the_conditional_branch_is_saved_and_resumed(tmp_path):
    config = tiny_config("selfe", f"{CONDITIONAL}=0.3", "optim.ema_warmup=false")
    whole = tiny_train(config, tmp_path / "whole")
    asked = iter(range(1, 9))

    def stop() -> bool:
        return next(asked) == 3

    tiny_train(config, tmp_path / "parts", callbacks=Callbacks(should_stop=stop))
    resumed = tiny_train(config, tmp_path / "parts", resume=True)
    assert differing(whole, resumed) == []
    assert whole.conditional is not None
    assert "image_in.weight" in {
        name
        for name, value in whole.conditional.module.state_dict().items()
        if not torch.equal(value, whole.ema.module.state_dict()[name])
    }


def test_a_fork_begins_its_conditional_average_as_the_scored_one(tmp_path):
    source = tiny_train(tiny_config("selfe"), tmp_path / "source")
    config = tiny_config("selfe", f"{CONDITIONAL}=0.3")
    state = new_state(build_model(config, "cpu"), config, OneProcess(torch.device("cpu")))
    restore(state, tmp_path / "source" / "checkpoints" / "step-00000008")
    assert state.conditional is not None
    for name, value in source.ema.module.state_dict().items():
        assert torch.equal(state.conditional.module.state_dict()[name], value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ((f"{CONDITIONAL}=1",), "at least 0 and below 1"),
        ((f"{CONDITIONAL}=0.9", "objective.conditional_weights=live"), "there is none"),
    ],
)
def test_a_conditional_decay_that_makes_no_sense_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_config("selfe", *settings)


def test_only_self_e_has_a_conditional_average():
    with pytest.raises(ValueError, match="conditional_decay"):
        tiny_config("fm", f"{CONDITIONAL}=0.9")
