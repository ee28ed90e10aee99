"""The loop: resuming changes no bit, non-finite numbers never reach the weights.

Longer than other files: all of it is one loop and what may happen to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from selfe.batch import LatentBatch
from selfe.config.resolve import build_objective
from selfe.config.stages import first_position
from selfe.device import uses_bf16
from selfe.distributed.processes import OneProcess
from selfe.objectives.base import LossOutput, Nets
from selfe.objectives.registry import METHODS
from selfe.run_folder.checkpoint import list_checkpoints
from selfe.run_folder.model import build_model, load_run
from selfe.run_folder.records import write_config
from selfe.seeding import SampleRng, derive_seed
from selfe.training import loop
from selfe.training.callbacks import Callbacks
from selfe.training.loop import ObjectiveError, accumulate
from selfe.training.metrics_log import RunLog, read_lines
from selfe.training.optim import learning_rate
from selfe.training.run import train_run
from selfe.training.update import NonFiniteLoss, check_then_update, update_if_finite, update_of
from tests.helpers.tiny import differing, tiny_config, tiny_source, tiny_train


class StopAfter:
    def __init__(self, step: int) -> None:
        self.step, self.seen = step, 0

    def __call__(self) -> bool:
        self.seen += 1
        return self.seen == self.step


@pytest.mark.fault(6, full=7)
@pytest.mark.parametrize("method", METHODS.names())
def test_resume_is_bit_equal_to_never_stopping(method, trial, tmp_path):
    stop = (3, 7, 4, 1, 2, 5, 6)[trial]  # of 8 iterations; 4 is saved anyway
    config = tiny_config(method)
    whole = tiny_train(config, tmp_path / "whole")
    stopped = tiny_train(
        config, tmp_path / "parts", callbacks=Callbacks(should_stop=StopAfter(stop))
    )
    assert stopped.step == stop
    resumed = tiny_train(config, tmp_path / "parts", resume=True)
    assert resumed.step == whole.step == 8
    assert differing(whole, resumed) == []

    def losses(folder):
        return [(r["step"], r["loss"]) for r in read_lines(tmp_path / folder / "metrics.jsonl")]

    assert losses("whole") == losses("parts")


@pytest.mark.parametrize("variant", ["no-target-norm", "aux"])
def test_variants_train_and_differ_from_the_method(variant, tmp_path):
    plain = tiny_train(tiny_config(), tmp_path / "plain")
    ablated = tiny_train(tiny_config(variant=variant), tmp_path / variant)
    assert "model/image_in.weight" in differing(plain, ablated)


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path):
    whole = tiny_train(tiny_config("fm", "train.iterations=1"), tmp_path / "a")
    parts = tiny_train(
        tiny_config("fm", "train.iterations=1", "train.micro_batch_size=4"), tmp_path / "b"
    )
    a = whole.optimizer.state[whole.model.image_out.weight]["exp_avg"]
    b = parts.optimizer.state[parts.model.image_out.weight]["exp_avg"]
    assert a.abs().max() > 0
    assert torch.allclose(a, b, atol=1e-7)


@dataclass(frozen=True)
class TwoSizes:
    """Micro-batches of 4 that take turns between 4x4 and 8x12 latents, as buckets do."""

    inner: object

    def batch(self, rng: SampleRng) -> LatentBatch:
        batch = self.inner.batch(rng)
        if rng.position[0] // 4 % 2 == 0:
            return batch
        return replace(batch, x_0=batch.x_0.repeat(1, 1, 2, 3))


@pytest.mark.parametrize("method", ["selfe", "fm"])
def test_times_are_warped_for_the_size_of_each_micro_batch(method):
    """mu(L), Eq. s.12, with the image tokens L of the bucket: 4 and 24 here."""
    config = tiny_config(method, "train.micro_batch_size=4")
    model = build_model(config, "cpu")
    arguments = (TwoSizes(tiny_source(config)), Nets(model, model), config, 5, OneProcess("cpu"))
    _, outputs, _ = accumulate(build_objective(config), *arguments)
    position = torch.arange(first_position(config, 5), first_position(config, 6))
    rng = SampleRng(derive_seed(config.seed, "training"), position)
    t_raw = torch.sigmoid(rng.normal("t"))
    for output, rows, tokens in zip(outputs, t_raw.split(4), (4, 24), strict=True):
        mu = 0.5 + (1.15 - 0.5) / (4096 - 512) * (tokens - 512)
        expected = math.exp(mu) / (math.exp(mu) + 1 / rows - 1)
        torch.testing.assert_close(output.t, expected)


def test_the_batch_follows_the_stages(tmp_path):
    stages = 'train.stages=[{"start": 2, "batch_size": 4}]'
    config = tiny_config("fm", "train.iterations=4", "train.checkpoint_every=1", stages)
    asked = []

    class Watched:
        def batch(self, rng: SampleRng) -> LatentBatch:
            asked.append(rng.position.tolist())
            return tiny_source(config).batch(rng)

    state = tiny_train(config, tmp_path, source=Watched())
    assert asked == [[*range(8)], [*range(8, 16)], [*range(16, 20)], [*range(20, 24)]]
    again = tiny_train(config, tmp_path / "parts", callbacks=Callbacks(should_stop=StopAfter(3)))
    again = tiny_train(config, tmp_path / "parts", resume=True)
    assert differing(state, again) == []


def test_the_same_seed_gives_every_method_the_same_start_and_data(tmp_path):
    rng = SampleRng(5, torch.arange(16))
    batches = [tiny_source(tiny_config(m)).batch(rng) for m in METHODS.names()]
    for batch in batches[1:]:
        assert torch.equal(batch.x_0, batches[0].x_0)
        assert torch.equal(batch.dropped, batches[0].dropped)


def test_resume_refuses_another_configuration(tmp_path):
    tiny_train(tiny_config("fm"), tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        tiny_train(tiny_config("fm", "optim.lr=0.5"), tmp_path, resume=True)


def test_resume_forgets_what_was_logged_beyond_the_checkpoint(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.write({"step": step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    RunLog(tmp_path / "metrics.jsonl", resume_step=2).close()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]


def test_malformed_lines_inside_the_log_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_lines(tmp_path / "metrics.jsonl")


@dataclass(frozen=True)
class Breaking:
    """An objective whose loss or gradient is not finite at the named steps."""

    inner: object
    steps: tuple[int, ...]
    where: str

    group_size = 1
    needs_fake_captions = False

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        output = self.inner.loss(batch, nets, step, rng)
        if step not in self.steps:
            return output
        if self.where == "gradient":
            # finite value, infinite slope
            zero = output.loss - output.loss.detach()
            return replace(output, loss=output.loss + zero.sqrt())
        per_sample = output.per_sample.clone()
        per_sample[3] = float("nan")
        return replace(output, loss=output.loss * float("nan"), per_sample=per_sample)


@pytest.fixture(params=["the host decides", "the optimiser decides"])
def decision(request, monkeypatch):
    """Who keeps a non-finite update from the weights."""
    if request.param == "the host decides":
        monkeypatch.setattr(loop, "update_of", lambda processes: (check_then_update, 0))


def test_both_ways_to_decide_make_the_same_updates(tmp_path, monkeypatch):
    assert update_of(1) == (update_if_finite, 1)
    unasked = tiny_train(tiny_config(), tmp_path / "unasked")
    monkeypatch.setattr(loop, "update_of", lambda processes: update_of(2))
    asked = tiny_train(tiny_config(), tmp_path / "asked")
    assert differing(unasked, asked) == []
    lines = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("unasked", "asked")]
    assert [r["loss"] for r in lines[0]] == [r["loss"] for r in lines[1]]


@pytest.mark.fault(10)
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.usefixtures("decision")
def test_a_nonfinite_step_leaves_the_weights_alone_and_names_the_samples(where, tmp_path):
    config = tiny_config("fm", "train.iterations=3")
    good = tiny_train(tiny_config("fm", "train.iterations=3"), tmp_path / "good")
    objective = Breaking(build_objective(config), (2,), where)
    state = tiny_train(config, tmp_path / "bad", objective=objective)
    before = tiny_train(config, tmp_path / "before", callbacks=Callbacks(should_stop=StopAfter(2)))
    assert differing(state, before) == []
    assert "model/image_out.weight" in differing(state, good)
    events = [r for r in read_lines(tmp_path / "bad" / "metrics.jsonl") if "event" in r]
    assert [e["step"] for e in events] == [3]
    assert events[0]["where"] == where
    if where == "loss":
        source = tiny_source(config)
        index = source.order(torch.arange(16, 24))
        assert events[0]["samples"] == [index[3].item()]
        assert len(events[0]["t"]) == len(events[0]["s"]) == 1


class BrokenNet(torch.nn.Module):
    def forward(self, x_t, t, s, condition):
        return torch.full_like(x_t, float("nan"))


@dataclass(frozen=True)
class BreakingTarget:
    """Self-E whose evaluation by the averaged weights, and so its target, is NaN at one step."""

    inner: object
    at: int

    group_size = 1
    needs_fake_captions = False

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        if step == self.at:
            nets = replace(nets, ema=BrokenNet())
        return self.inner.loss(batch, nets, step, rng)


@pytest.mark.fault(10)
@pytest.mark.usefixtures("decision")
def test_a_nonfinite_target_leaves_the_weights_alone_and_names_the_samples(tmp_path):
    config = tiny_config("selfe", "train.iterations=3", "train.caption_dropout=0.0")
    objective = BreakingTarget(build_objective(config), 2)
    state = tiny_train(config, tmp_path / "bad", objective=objective)
    before = tiny_train(config, tmp_path / "before", callbacks=Callbacks(should_stop=StopAfter(2)))
    assert differing(state, before) == []
    (event,) = [r for r in read_lines(tmp_path / "bad" / "metrics.jsonl") if "event" in r]
    index = tiny_source(config).order(torch.arange(16, 24))
    assert (event["step"], event["where"]) == (3, "loss")
    assert event["samples"] == index[1::2].tolist()  # those with s < t have such a target


@pytest.mark.fault(10)
@pytest.mark.usefixtures("decision")
def test_too_many_nonfinite_steps_end_the_run(tmp_path):
    config = tiny_config("fm", "train.max_nonfinite=2", "train.log_every=100")
    objective = Breaking(build_objective(config), tuple(range(8)), "loss")
    with pytest.raises(NonFiniteLoss, match=r"3 iterations in a row.*iteration 3.*samples \["):
        tiny_train(config, tmp_path, objective=objective)


@pytest.mark.fault(10)
@pytest.mark.usefixtures("decision")
def test_a_run_without_any_update_is_not_trained(tmp_path):
    config = tiny_config("fm", "train.iterations=2")
    objective = Breaking(build_objective(config), (0, 1), "loss")
    with pytest.raises(NonFiniteLoss, match=r"2 iterations in a row.*iteration 2"):
        tiny_train(config, tmp_path, objective=objective)
    assert list_checkpoints(tmp_path / "checkpoints") == []


@dataclass(frozen=True)
class Changed:
    """An objective with something else in place of its output."""

    inner: object
    change: Callable[[LossOutput], object]

    group_size = 1
    needs_fake_captions = False

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> object:
        return self.change(self.inner.loss(batch, nets, step, rng))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda output: output.loss, "Changed.loss must return a LossOutput, got Tensor"),
        (lambda output: replace(output, loss=output.per_sample), r"loss must have shape \(\)"),
        (lambda output: replace(output, loss=output.loss.detach()), "must carry a gradient"),
        (
            lambda output: replace(output, per_sample=output.loss.detach()),
            r"per_sample must have shape \(8,\), got \(\)",
        ),
        (lambda output: replace(output, t=output.t[:4]), r"t must have shape \(8,\), got \(4,\)"),
        (lambda output: replace(output, s=None), r"s must be a tensor of shape \(8,\), got None"),
        (lambda output: replace(output, metrics={"m": 0.5}), r"metric m must be a tensor .*float"),
    ],
)
def test_an_objective_that_breaks_its_contract_is_told_where(change, words, tmp_path):
    config = tiny_config("fm")
    objective = Changed(build_objective(config), change)
    with pytest.raises(TypeError, match=words):
        tiny_train(config, tmp_path, objective=objective)


def test_a_value_error_of_an_objective_is_a_mistake_of_its_author(tmp_path):
    """Elsewhere one is a sentence for the user, without the place it comes from."""
    config = tiny_config("fm")
    objective = Changed(build_objective(config), lambda output: int("none"))
    with pytest.raises(ObjectiveError, match=r"Changed.loss failed at iteration 1: invalid lit"):
        tiny_train(config, tmp_path, objective=objective)


def test_a_loss_that_is_not_finite_by_itself_is_no_matter_of_gradients(tmp_path):
    config = tiny_config("fm", "train.max_nonfinite=0")
    objective = Changed(build_objective(config), lambda out: replace(out, loss=out.loss / 0))
    with pytest.raises(NonFiniteLoss, match="without a finite loss"):
        tiny_train(config, tmp_path, objective=objective)


@pytest.mark.fault(10)
@pytest.mark.usefixtures("decision")
def test_an_outcome_read_late_is_counted_before_the_next_checkpoint(tmp_path):
    """Iterations 3 and 4 fail, 4 is saved, and 5 is the third in a row after resuming."""
    config = tiny_config("fm", "train.max_nonfinite=2", "train.log_every=100")
    objective = Breaking(build_objective(config), (2, 3, 4), "loss")
    arguments = {"objective": objective, "resume": True}
    stop = Callbacks(should_stop=StopAfter(4))
    assert tiny_train(config, tmp_path, callbacks=stop, **arguments).skipped == 2
    events = [r["step"] for r in read_lines(tmp_path / "metrics.jsonl") if "event" in r]
    assert events == [3, 4]
    with pytest.raises(NonFiniteLoss, match=r"3 iterations in a row.*iteration 5"):
        tiny_train(config, tmp_path, **arguments)


def test_milestones_outlive_pruning(tmp_path):
    config = tiny_config(
        "fm",
        "train.iterations=10",
        "train.checkpoint_every=1",
        "train.milestone_every=4",
        "train.keep_last=2",
    )
    tiny_train(config, tmp_path)
    found = list_checkpoints(tmp_path / "checkpoints")
    assert [c.step for c in found if c.milestone] == [4, 8, 10]
    assert [c.step for c in found if not c.milestone] == [7, 9]


def test_learning_rate_warms_up_then_falls_to_its_floor():
    config = tiny_config("fm", "optim.lr=1.0", "optim.final_lr=0.1", "optim.warmup=10").optim
    assert learning_rate(0, config, 100) == pytest.approx(0.1)
    assert learning_rate(9, config, 100) == pytest.approx(1 - 0.9 * 9 / 100)
    assert learning_rate(50, config, 100) == pytest.approx(0.55)
    assert learning_rate(1000, config, 100) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("found", "bf16"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({}, False)]
)
def test_auto_is_bf16_where_the_processor_has_it(found, bf16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    device = torch.device("cpu")
    assert uses_bf16(device, "auto") is bf16
    assert uses_bf16(device, "bf16") and not uses_bf16(device, "fp32")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not uses_bf16(device, "auto")


def test_resume_before_the_first_checkpoint_refuses_another_configuration(tmp_path):
    """Nothing but config.json then tells what the run is; not even data may be prepared."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder, tiny_config("selfe", "data.size=64"))

    def prepared(done: int, total: int) -> None:
        raise AssertionError("data were prepared")

    for resume in (True, None):
        with pytest.raises(
            ValueError, match=r"\(method was selfe and is now fm.*; resume with the same"
        ):
            train_run(
                tiny_config("fm", "data.size=64"),
                folder,
                runs_dir=tmp_path,
                resume=resume,
                data_progress=prepared,
            )
    state = train_run(tiny_config("selfe", "data.size=64"), folder, runs_dir=tmp_path, resume=True)
    assert state.step == 8


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.joint_attention_dim=32", "do not fit: it needs model.joint_attention_dim = 64"),
        ("data.codec=shapes-free", "data.codec = shapes-free was made for another data.preset"),
    ],
)
def test_encoders_that_do_not_fit_are_refused_before_data_is_encoded(setting, words, tmp_path):
    def prepared(done: int, total: int) -> None:
        raise AssertionError("data were prepared")

    config = tiny_config("fm", "data.size=64", setting)
    with pytest.raises(ValueError, match=words):
        train_run(config, tmp_path / "run", runs_dir=tmp_path, data_progress=prepared)


def test_the_precision_found_at_the_start_is_recorded(tmp_path, monkeypatch):
    config = tiny_config("fm", "train.iterations=2", "train.precision=auto", "data.size=64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    folder, messages = tmp_path / "run", []
    arguments = {"runs_dir": tmp_path, "callbacks": Callbacks(message=messages.append)}
    state = train_run(config, folder, **arguments)
    assert all(p.dtype == torch.float32 for p in state.model.parameters())
    assert load_run(folder).facts.training["precision"] == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    train_run(config, folder, resume=True, **arguments)
    assert "this run began in bf16 and continues in fp32" in messages
    assert load_run(folder).facts.training["precision"] == "bf16"
    plain = train_run(config, tmp_path / "plain", runs_dir=tmp_path)
    assert load_run(tmp_path / "plain").facts.training["precision"] == "fp32"
    assert "model/image_out.weight" in differing(state, plain)


def test_config_and_state_are_readable(tmp_path):
    tiny_train(tiny_config("fm"), tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "step-00000008" / "state.json").read_text())
    assert state["samples_seen"] == 64
    assert set(state["sha256"]) == {
        "model.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
    }
