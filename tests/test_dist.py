"""Many processes against one: the same losses, gradients, samples, and checkpoints that travel.

Processes are forked after the imports and talk gloo. Tolerances are those of summing in another
order; where nothing may differ, every tensor of a checkpoint is compared.

Longer than other files: the processes that are forked share one set of jobs and fixtures.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import pickle
import shutil
import signal
import socket
import traceback
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from selfe.config.resolve import build_objective
from selfe.config.stages import check_batches
from selfe.distributed.group import ManyProcesses, Replicas
from selfe.distributed.launch import open_processes
from selfe.distributed.processes import OneProcess
from selfe.errors import PeerError, Stopped
from selfe.network.denoiser import DualTimeDenoiser  # noqa: F401  imported before the fork
from selfe.objectives.base import Nets
from selfe.run_folder import checkpoint, checkpoint_sharded
from selfe.run_folder.checkpoint import PARTS, list_checkpoints, newest_valid, read_state
from selfe.run_folder.checkpoint_sharded import load_part
from selfe.run_folder.model import build_model, load_run
from selfe.run_folder.records import find_checkpoint
from selfe.training.callbacks import Callbacks
from selfe.training.loop import accumulate, train
from selfe.training.metrics_log import read_lines
from selfe.training.run import train_run
from selfe.training.state import TrainState, new_state, restore
from tests.helpers.tiny import everything, tiny_config, tiny_source, tiny_train
from tests.test_trainer import Breaking

BATCH = "train.batch_size=16"  # a group of 4 for IMM on each of 4 processes
RUN = ("selfe", BATCH, "train.iterations=8", "train.checkpoint_every=2", "train.keep_last=9")


def serve(rank: int, size: int, port: int, connection) -> None:
    """Do what is asked for, together with the others of the group, until the pipe is closed."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with open_processes("cpu") as processes:
        while True:
            try:
                work, arguments = connection.recv()
            except EOFError:
                return
            try:
                outcome = work(processes, *arguments)
            except BaseException:
                outcome = RuntimeError(traceback.format_exc())
            connection.send_bytes(pickle.dumps(outcome))


@contextlib.contextmanager
def group_of(size: int):
    """A function that runs `work(processes, *arguments)` on all and returns their results."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = mp.get_context("fork")
    ends, members = [], []
    for rank in range(size):
        ours, theirs = fork.Pipe()
        members.append(fork.Process(target=serve, args=(rank, size, port, theirs)))
        members[-1].start()
        theirs.close()
        ends.append(ours)

    def run(work, *arguments) -> list:
        for end in ends:
            end.send((work, arguments))
        outcomes = [pickle.loads(end.recv_bytes()) for end in ends]
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    try:
        yield run
    finally:
        for member in members:
            member.kill()
            member.join()


@pytest.fixture(scope="module")
def two():
    with group_of(2) as run:
        yield run


@pytest.fixture(scope="module")
def four():
    with group_of(4) as run:
        yield run


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5)


def many_train(processes: OneProcess, config, run_dir: Path, **options):
    """`tiny_train` on many processes."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return train(
        config,
        model=build_model(config, "cpu"),
        objective=options.pop("objective", build_objective(config)),
        source=tiny_source(config),
        run_dir=run_dir,
        processes=processes,
        **options,
    )


def stopping_at(step: int, on_rank: int, rank: int) -> Callbacks:
    """Asks one process, and no other, to stop after an iteration."""
    seen = iter(range(1, 100))
    return Callbacks(should_stop=lambda: next(seen) == step and rank == on_rank)


def losses(run_dir: Path) -> list[tuple[int, float]]:
    lines = read_lines(run_dir / "metrics.jsonl")
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def content(run_dir: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, whole."""
    path = find_checkpoint(run_dir).path
    return {f"{part}/{k}": v for part in PARTS for k, v in load_part(path, part, {}).items()}


def differences(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


# -- one iteration ----------------------------------------------------------------------------

CASES = {
    "fm": ("fm", "", ()),
    "imm": ("imm", "", ()),
    "shortcut": ("shortcut", "", ("objective.group_size=4",)),
    "transition": ("transition", "", ()),
    "meanflow": ("meanflow", "", ()),
    "selfe": ("selfe", "", ()),
    "selfe, micro-batches": ("selfe", "", ("train.micro_batch_size=2",)),
    "selfe, aux, Bernoulli, one by one": (
        "selfe",
        "aux",
        ("times.pairing=bernoulli", "train.micro_batch_size=1"),
    ),
}


def state_away_from_zero(processes: OneProcess) -> TrainState:
    """Weights that are nowhere zero."""
    config = tiny_config()
    model = build_model(config, "cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return new_state(model, config, processes)


def one_iteration(processes: OneProcess, state: TrainState, case: str) -> dict:
    """Loss, gradient and sample indices of iteration 3."""
    method, variant, assignments = CASES[case]
    config = tiny_config(method, BATCH, *assignments, variant=variant)
    state.optimizer.zero_grad(set_to_none=True)
    nets = Nets(state.model, state.ema.module, lockstep=processes.sharded)
    objective, source = build_objective(config), tiny_source(config)
    loss, _, indices = accumulate(objective, source, nets, config, 3, processes)
    loss = processes.average(loss, list(state.model.parameters()))
    gradient = {
        name: processes.full(parameter.grad) for name, parameter in state.model.named_parameters()
    }
    gathered = [index for part in processes.gather(indices.tolist()) for index in part]
    return {"loss": loss.item(), "gradient": gradient, "indices": gathered}


WHOLE = "every process has all the weights"


def iterations_under_layouts(
    processes: OneProcess, shards: list[int | str], cases: list[str], folder: Path
) -> dict:
    found = {}
    for shard in shards:
        layout = Replicas(folder) if shard == WHOLE else ManyProcesses("cpu", shard)
        state = state_away_from_zero(layout)
        found |= {(case, shard): one_iteration(layout, state, case) for case in cases}
    return found


@pytest.mark.parametrize(
    "group, shards, cases",
    [
        ("two", [WHOLE, 1, 2], list(CASES)),
        ("four", [WHOLE, 1, 2, 4], ["fm", "imm", "selfe"]),
    ],
)
def test_losses_gradients_and_samples_equal_those_of_one_process(
    group, shards, cases, request, tmp_path
):
    one = OneProcess("cpu")
    state = state_away_from_zero(one)
    alone = {case: one_iteration(one, state, case) for case in cases}
    run = request.getfixturevalue(group)
    for found in run(iterations_under_layouts, shards, cases, tmp_path):
        for (case, shard), result in found.items():
            expected = alone[case]
            assert close(result["loss"], expected["loss"]), (case, shard)
            assert result["indices"] == expected["indices"]
            for name, gradient in expected["gradient"].items():
                difference = (result["gradient"][name] - gradient).abs().max().item()
                assert difference <= 1e-5 * max(1, gradient.abs().max().item()), (case, shard, name)


BF16 = ("selfe", BATCH, "train.iterations=3", "train.precision=bf16", "train.recompute=blocks")


def bf16_iterations(processes: OneProcess, folder: Path) -> list[tuple[int, float]]:
    many_train(processes, tiny_config(*BF16), folder)
    return losses(folder)


def test_bf16_weights_recomputed_with_fp32_sums_follow_autocast_on_one_process(two, tmp_path):
    found = two(bf16_iterations, tmp_path / "many")[0]
    tiny_train(tiny_config(*BF16), tmp_path / "one")
    for (_, a), (_, b) in zip(found, losses(tmp_path / "one"), strict=True):
        assert math.isclose(a, b, rel_tol=2e-2)


# -- runs -------------------------------------------------------------------------------------


def plain_run(processes: OneProcess, folder: Path) -> None:
    many_train(processes, tiny_config(*RUN), folder)


@pytest.fixture(scope="module")
def whole(two, tmp_path_factory):
    """A run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    two(plain_run, folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, tiny_train(tiny_config(*RUN), folder)


@pytest.mark.fault(7)
def test_a_run_of_two_processes_has_the_losses_of_one(whole, alone):
    ours, theirs = losses(whole), losses(alone[0])
    assert [step for step, _ in ours] == [step for step, _ in theirs] == list(range(1, 9))
    assert all(close(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
    layout = read_lines(whole / "metrics.jsonl")[0]
    assert layout == {"event": "layout", "step": 0, "processes": 2, "replicate": 1, "shard": 2}


def test_a_sharded_checkpoint_is_read_like_any_other(whole):
    from selfe.run_folder.records import write_config

    path = find_checkpoint(whole).path
    assert sorted(p.name for p in path.iterdir()) == [
        "ema.safetensors",
        "model",
        "optimizer",
        "state.json",
    ]
    write_config(whole, tiny_config(*RUN))
    generator = load_run(whole)
    state = new_state(build_model(tiny_config(*RUN), "cpu"), tiny_config(*RUN), OneProcess("cpu"))
    restore(state, path)
    for name, tensor in generator.network.state_dict().items():
        assert torch.equal(tensor, state.ema.module.state_dict()[name])


def stop_then_resume(processes: OneProcess, folder: Path) -> list[int]:
    config = tiny_config(*RUN)
    callbacks = stopping_at(3, on_rank=1, rank=processes.rank)
    stopped = many_train(processes, config, folder, callbacks=callbacks)
    resumed = many_train(processes, config, folder, resume=True)
    return [stopped.step, resumed.step]


@pytest.mark.fault(6)
def test_stopping_one_process_stops_all_and_resuming_changes_no_bit(two, whole, tmp_path):
    assert two(stop_then_resume, tmp_path) == [[3, 8], [3, 8]]
    assert differences(content(tmp_path), content(whole)) == []
    assert losses(tmp_path) == losses(whole)


def resume_and_gather(processes: OneProcess, folder: Path) -> dict[str, torch.Tensor]:
    """The state that is resumed from, as plain tensors; trains to the end from there."""
    config = tiny_config(*RUN)
    state = new_state(build_model(config, "cpu"), config, processes)
    restore(state, newest_valid(folder / "checkpoints")[0])
    before = {
        name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, tensor in everything(state).items()
    }
    many_train(processes, config, folder, resume=True)
    return before


@pytest.mark.fault(7)
def test_a_run_moves_from_two_processes_to_one_to_four(two, four, alone, tmp_path):
    config = tiny_config(*RUN)
    two(many_until, tmp_path, 3)
    first = tiny_train(config, tmp_path, resume=True, callbacks=stopping_at(2, on_rank=0, rank=0))
    assert first.step == 5
    for before in four(resume_and_gather, tmp_path):
        for name, tensor in everything(first).items():
            assert torch.equal(before[name], tensor), name
    ours, theirs = losses(tmp_path), losses(alone[0])
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert all(close(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


def many_until(processes: OneProcess, folder: Path, step: int) -> None:
    callbacks = stopping_at(step, on_rank=0, rank=processes.rank)
    many_train(processes, tiny_config(*RUN), folder, callbacks=callbacks)


# -- faults -----------------------------------------------------------------------------------


def resume_run(processes: OneProcess, folder: Path) -> list[str]:
    messages: list[str] = []
    callbacks = Callbacks(message=messages.append)
    many_train(processes, tiny_config(*RUN), folder, resume=True, callbacks=callbacks)
    return messages


@pytest.mark.fault(3)
@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_a_flipped_byte_in_a_shard_is_noticed_and_the_one_before_is_used(
    part, two, whole, tmp_path
):
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    shard = sorted((tmp_path / "checkpoints" / "step-00000008" / part).iterdir())[1]
    flipped = bytearray(shard.read_bytes())
    flipped[-5] ^= 0x10
    shard.write_bytes(flipped)
    messages = two(resume_run, tmp_path)[0]
    assert str(shard) in messages[0] and "damaged" in messages[0]
    assert messages[1] == "resumed from step-00000006"
    assert differences(content(tmp_path), content(whole)) == []


@dataclass
class Killer:
    """A source that kills its process, once, when asked for a sample."""

    inner: object
    position: int
    marker: Path

    facts = {}

    def batch(self, rng):
        if rng.position[0] == self.position and not self.marker.exists():
            self.marker.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.batch(rng)


def elastic_worker(folder: Path) -> None:
    torch.set_num_threads(1)
    with open_processes("cpu") as processes:
        train_run(tiny_config(*RUN), folder, runs_dir=folder, processes=processes, resume=None)


def elastic_agent(folder: Path) -> None:
    config = LaunchConfig(1, 1, 2, max_restarts=1, monitor_interval=0.1, start_method="fork")
    config.rdzv_backend, config.rdzv_endpoint, config.run_id = "c10d", "localhost:0", "test"
    elastic_launch(config, elastic_worker)(folder)


@pytest.mark.fault(11)
def test_kill_of_one_process_restarts_the_group_and_changes_no_bit(whole, tmp_path, monkeypatch):
    # the first sample of rank 1 at iteration 5: checkpoint 4 is there or still being written
    source = Killer(tiny_source(tiny_config(*RUN)), 5 * 16 + 8, tmp_path / "killed")
    monkeypatch.setattr("selfe.training.run.build_source", lambda config, **_: source)
    agent = mp.get_context("fork").Process(target=elastic_agent, args=(tmp_path,))
    agent.start()
    agent.join(300)
    assert agent.exitcode == 0
    assert source.marker.exists()
    assert differences(content(tmp_path), content(whole)) == []
    assert losses(tmp_path) == losses(whole)
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert (recorded["processes"], recorded["shard"]) == (2, 2)


def stopped_in_a_save(processes: OneProcess, folder: Path) -> str:
    commit = checkpoint_sharded.commit

    def signalled(temporary, record):
        os.kill(os.getpid(), signal.SIGTERM)
        return commit(temporary, record)

    config = tiny_config(*RUN)
    with (
        patch("selfe.training.run.build_source", lambda config, **_: tiny_source(config)),
        patch("selfe.run_folder.checkpoint_sharded.commit", signalled),  # called by rank 0 alone
        pytest.raises(Stopped) as stopped,
    ):
        train_run(config, folder, runs_dir=folder, processes=processes)
    return str(stopped.value)


@pytest.mark.fault(9)
def test_sigterm_to_one_process_in_a_save_leaves_complete_checkpoints(two, tmp_path):
    assert two(stopped_in_a_save, tmp_path) == ["SIGTERM", "SIGTERM"]
    folder = tmp_path / "checkpoints"
    newest, problems = newest_valid(folder)
    assert newest is not None and problems == []
    names = [c.path.name for c in list_checkpoints(folder)]
    assert sorted(p.name for p in folder.iterdir()) == names
    # iterations went on while iteration 2 was being saved, and the last of them was saved as well
    assert losses(tmp_path)[-1][0] == read_state(newest).step < 8


@pytest.mark.fault(9, full=20)
def test_sigterm_in_a_save_of_one_process_leaves_one_complete_checkpoint(
    trial, tmp_path, monkeypatch
):
    """The signal comes before or after one of the calls that a save is made of."""
    instants = itertools.count()

    def signalled(work):
        def call(*arguments):
            for step in (lambda: None, lambda: work(*arguments)):
                outcome = step()
                if next(instants) == trial:
                    os.kill(os.getpid(), signal.SIGTERM)
            return outcome

        return call

    monkeypatch.setattr("safetensors.torch.save_file", signalled(save_file))
    for name in ("prepare", "file_sha256", "write_atomically", "commit"):
        monkeypatch.setattr(checkpoint, name, signalled(getattr(checkpoint, name)))
    monkeypatch.setattr("selfe.training.run.build_source", lambda config, **_: tiny_source(config))
    with pytest.raises(Stopped, match="SIGTERM"):
        train_run(tiny_config(*RUN), tmp_path, runs_dir=tmp_path)
    # a save has 18 such instants: the last trials reach into the next one
    saved = ["step-00000002", "step-00000004"][: 1 + trial // 18]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == saved
    assert newest_valid(tmp_path / "checkpoints")[1] == []


def full_disk(processes: OneProcess, folder: Path) -> str:
    def full(tensors, path):
        raise OSError(28, "No space left on device")

    with (
        patch("safetensors.torch.save_file", full),  # called by rank 0 alone
        pytest.raises((OSError, PeerError)) as raised,
    ):
        plain_run(processes, folder)
    return f"{raised.typename}: {raised.value}"


@pytest.mark.fault(4)
def test_a_full_disk_ends_every_process_and_leaves_nothing_half_written(two, tmp_path):
    first, second = two(full_disk, tmp_path)
    assert first.startswith("OSError: [Errno 28] No space left on device: ")
    assert second.startswith("PeerError: process 0: [Errno 28] No space left on device: ")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def broken_step(processes: OneProcess, folder: Path) -> None:
    config = tiny_config("fm", BATCH, "train.iterations=3")
    objective = build_objective(config)
    if processes.rank == 1:
        objective = Breaking(objective, (1,), "loss")
    many_train(processes, config, folder, objective=objective)


@pytest.mark.fault(10)
def test_a_nonfinite_loss_on_one_process_skips_the_update_on_all(two, tmp_path):
    two(broken_step, tmp_path)
    config = tiny_config("fm", BATCH, "train.iterations=3")
    events = [r for r in read_lines(tmp_path / "metrics.jsonl") if r.get("event") == "nonfinite"]
    index = tiny_source(config).order(torch.arange(16, 32))
    # the fourth sample of rank 1's half
    assert [(e["step"], e["samples"]) for e in events] == [(2, [index[8 + 3].item()])]
    skipped = tiny_train(
        config, tmp_path / "one", objective=Breaking(build_objective(config), (1,), "loss")
    )
    weights = checkpoint.load_tensors(find_checkpoint(tmp_path).path / "ema.safetensors")
    for name, tensor in skipped.ema.module.state_dict().items():
        assert torch.allclose(weights[name], tensor, atol=1e-4), name


# -- layouts that do not fit ------------------------------------------------------------------


def test_batches_must_divide_over_processes_micro_batches_and_groups():
    check_batches(tiny_config("imm", BATCH), 4, 4)
    with pytest.raises(ValueError, match="16 does not divide over 3 processes"):
        check_batches(tiny_config("fm", BATCH), 1, 3)
    check_batches(tiny_config("fm", BATCH, "train.micro_batch_size=8"), 1, 4)  # 4 are at most 8
    with pytest.raises(ValueError, match=r"micro_batch_size = 16 must divide .* leaves 24 samples"):
        check_batches(tiny_config("fm", "train.batch_size=48", "train.micro_batch_size=16"), 1, 2)
    with pytest.raises(ValueError, match=r"micro-batches of 2 do not divide into groups of 4"):
        check_batches(tiny_config("imm", BATCH), 4, 8)


def test_a_shard_option_needs_its_processes():
    with pytest.raises(ValueError, match="launch_torchrun"), open_processes("cpu", shard=2):
        pass


def odd_shard(processes: OneProcess) -> str:
    with pytest.raises(ValueError, match="--shard 3 must divide the number of processes, 2"):
        ManyProcesses("cpu", 3)
    return "refused"


def test_shards_must_divide_the_processes(two):
    assert two(odd_shard) == ["refused", "refused"]
