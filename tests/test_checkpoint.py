"""Checkpoints under kills, corruption, full disks and foreign files."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import differing, tiny_config, tiny_train

from selfe import checkpoint
from selfe.builder import build_model
from selfe.checkpoint import CheckpointError, list_checkpoints, newest_valid, verify
from selfe.session import check_folder, locked, parse_fork, train_run

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints at 4 and 8."""
    state = tiny_train(tiny_config("fm"), tmp_path)
    return tmp_path, state


def flip_bytes(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    start = random.Random(seed).randrange(len(content) - 4)
    for i in range(start, start + 4):
        content[i] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.fault
@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_are_noticed_and_the_one_before_is_used(run, name):
    folder, state = run
    flip_bytes(folder / "checkpoints" / "step-00000008" / name, seed=len(name))
    path, problems = newest_valid(folder / "checkpoints")
    assert path.name == "step-00000004"
    assert len(problems) == 1 and name in problems[0] and "damaged" in problems[0]
    # training goes on from there to the same end
    resumed = tiny_train(tiny_config("fm"), folder, resume=True)
    assert differing(state, resumed) == []
    verify(folder / "checkpoints" / "step-00000008")


@pytest.mark.fault
@pytest.mark.parametrize("name", [*FILES, "state.json"])
def test_truncated_newest_checkpoint_falls_back(run, name):
    folder, _ = run
    path = folder / "checkpoints" / "step-00000008" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, problems = newest_valid(folder / "checkpoints")
    assert found.name == "step-00000004"
    assert name in problems[0]


@pytest.mark.fault
def test_no_valid_checkpoint_is_an_error_not_a_fresh_start(run):
    folder, _ = run
    for step in (4, 8):
        flip_bytes(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors", step)
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        tiny_train(tiny_config("fm"), folder, resume=True)


class Payload:
    def __reduce__(self):
        return (os.mkdir, (str(Payload.target),))


@pytest.mark.fault
def test_a_pickle_is_refused_and_not_run(run, tmp_path):
    folder, _ = run
    Payload.target = tmp_path / "executed"
    path = folder / "checkpoints" / "step-00000008" / "model.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    state_path = path.with_name("state.json")
    state = json.loads(state_path.read_text())
    state["sha256"]["model.safetensors"] = checkpoint.file_sha256(path)
    state_path.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        tiny_train(tiny_config("fm"), folder, resume=True)
    assert not Payload.target.exists()


@pytest.mark.fault
def test_wrong_architecture_lists_the_keys(run):
    folder, _ = run
    path = folder / "checkpoints" / "step-00000008" / "model.safetensors"
    other = build_model(tiny_config("fm", "model.num_layers=2"), "cpu")
    with pytest.raises(CheckpointError, match=r"missing: double_blocks\.1"):
        checkpoint.load_weights(other, load_file(path), path)
    tensors = load_file(path)
    tensors["extra"] = torch.zeros(1)
    name = next(iter(tensors))
    tensors[name] = torch.zeros(3, 3, 3)
    model = build_model(tiny_config("fm"), "cpu")
    with pytest.raises(CheckpointError, match=r"unexpected: extra; shapes: .*\(3, 3, 3\)"):
        checkpoint.load_weights(model, tensors, path)


@pytest.mark.fault
def test_partial_optimizer_state_is_refused(run):
    folder, state = run
    path = folder / "checkpoints" / "step-00000008" / "optimizer.safetensors"
    tensors = load_file(path)
    removed = {k: v for k, v in tensors.items() if not k.startswith("image_in.weight/")}
    with pytest.raises(CheckpointError, match="without state"):
        checkpoint.load_optimizer(state.optimizer, state.model, removed, path)


KILL_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from selfe.checkpoint import prune, save_checkpoint
from tiny import tiny_config, tiny_train
torch.set_num_threads(1)
folder = Path({folder!r})
state = tiny_train(tiny_config("fm", "train.iterations=1"), folder)
print("ready", flush=True)
for step in range(2, 100000):
    save_checkpoint(folder / "checkpoints", step, model=state.model, ema=state.ema.module,
                    optimizer=state.optimizer, state={{}}, milestone=False)
    prune(folder / "checkpoints", 2)
"""


@pytest.mark.fault
def test_kill_during_a_save_always_leaves_a_valid_checkpoint(tmp_path):
    script = KILL_SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    chance = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline().strip() == "ready"
        time.sleep(0.2 + chance.random() * 0.3)
        process.kill()
        process.wait()
        path, problems = newest_valid(tmp_path / "checkpoints")
        assert path is not None
        assert problems == []
        shutil.rmtree(tmp_path / "checkpoints")


@pytest.mark.fault
def test_a_full_disk_loses_nothing(run, monkeypatch):
    folder, state = run

    def full(tensors, path):
        Path(path).write_bytes(b"x" * 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_checkpoint(
            folder / "checkpoints",
            9,
            model=state.model,
            ema=state.ema.module,
            optimizer=state.optimizer,
            state={},
            milestone=False,
        )
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000008",
    ]
    assert newest_valid(folder / "checkpoints")[0].name == "step-00000008"


@pytest.mark.fault
def test_unwritable_run_folder_is_an_error_before_the_first_step(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ValueError, match="cannot write to"), locked(blocker / "run"):
        pass


@pytest.mark.fault
def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="another process"), locked(tmp_path):
        pass


def test_an_existing_run_is_not_overwritten(tmp_path):
    with pytest.raises(ValueError, match="nothing to resume"):
        check_folder(tmp_path, resume=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="--resume"):
        check_folder(tmp_path, resume=False)


def test_fork_notation(tmp_path):
    assert parse_fork("base@4", tmp_path) == (tmp_path / "base", 4)
    for text in ("base", "base@", "base@x"):
        with pytest.raises(ValueError, match="RUN@STEP"):
            parse_fork(text, tmp_path)


def test_a_fork_continues_from_the_other_runs_step(tmp_path, monkeypatch):
    from tiny import tiny_source

    monkeypatch.setattr("selfe.session.build_source", lambda config, **_: tiny_source(config))
    base = tiny_train(tiny_config(), tmp_path / "base")
    from selfe.runs import write_config

    write_config(tmp_path / "base", tiny_config())
    same = train_run(
        tiny_config(),
        tmp_path / "same",
        runs_dir=tmp_path,
        device="cpu",
        init_from="base@4",
    )
    assert differing(base, same) == []
    late_aux = train_run(
        tiny_config("selfe", "objective.aux_from=6"),
        tmp_path / "aux",
        runs_dir=tmp_path,
        device="cpu",
        init_from="base@4",
    )
    assert late_aux.step == 8
    assert "model/image_in.weight" in differing(base, late_aux)
    with pytest.raises(ValueError, match="raise train.iterations"):
        train_run(
            tiny_config(), tmp_path / "no", runs_dir=tmp_path, device="cpu", init_from="base@8"
        )


def test_checkpoints_hold_safetensors_only(run):
    folder, _ = run
    for found in list_checkpoints(folder / "checkpoints"):
        assert sorted(p.name for p in found.path.iterdir()) == sorted([*FILES, "state.json"])
        for name in FILES:
            assert load_file(found.path / name)


def test_save_file_round_trip_of_zero_dimensional_tensors(tmp_path):
    # Adam's step counters are 0-d: they must survive
    save_file({"step": torch.tensor(3.0)}, tmp_path / "x.safetensors")
    assert load_file(tmp_path / "x.safetensors")["step"].item() == 3.0
