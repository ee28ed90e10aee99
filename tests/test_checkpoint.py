"""Checkpoints under kills, corruption, full disks and foreign files."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
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

from selfe.distributed.processes import OneProcess
from selfe.run_folder import checkpoint, checkpoint_kept
from selfe.run_folder.checkpoint import CheckpointError, list_checkpoints, newest_valid, verify
from selfe.run_folder.model import build_model
from selfe.sealed_files import seal
from selfe.training.run import check_folder, occupy, parse_fork, train_run
from selfe.training.state import TrainState, new_state, restore
from tests.helpers.tiny import TINY_MODEL, differing, tiny_config, tiny_train

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with checkpoints at 4 and 8, and its state; nobody changes either."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, tiny_train(tiny_config("fm"), folder)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, to be damaged."""
    folder, state = trained
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run", state


def flip_bytes(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    start = random.Random(seed).randrange(len(content) - 4)
    for i in range(start, start + 4):
        content[i] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.fault(3, full=30)
def test_flipped_bytes_are_noticed_and_the_one_before_is_used(run, trial):
    folder, state = run
    name = FILES[trial % 3]
    flip_bytes(folder / "checkpoints" / "step-00000008" / name, seed=trial)
    path, problems = newest_valid(folder / "checkpoints")
    assert path.name == "step-00000004"
    assert len(problems) == 1 and name in problems[0] and "damaged" in problems[0]
    # training goes on from there to the same end
    resumed = tiny_train(tiny_config("fm"), folder, resume=True)
    assert differing(state, resumed) == []
    verify(folder / "checkpoints" / "step-00000008")


@pytest.mark.fault(2)
@pytest.mark.parametrize("name", [*FILES, "state.json"])
def test_truncated_newest_checkpoint_falls_back(run, name):
    folder, _ = run
    path = folder / "checkpoints" / "step-00000008" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, problems = newest_valid(folder / "checkpoints")
    assert found.name == "step-00000004"
    assert name in problems[0]


@pytest.mark.fault(2, 3)
def test_no_valid_checkpoint_is_an_error_not_a_fresh_start(run):
    folder, _ = run
    for step in (4, 8):
        flip_bytes(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors", step)
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        tiny_train(tiny_config("fm"), folder, resume=True)


class Payload:
    def __reduce__(self):
        return (os.mkdir, (str(Payload.target),))


@pytest.mark.fault(12)
def test_a_pickle_is_refused_and_not_run(run, tmp_path):
    folder, _ = run
    Payload.target = tmp_path / "executed"
    path = folder / "checkpoints" / "step-00000008" / "model.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    state_path = path.with_name("state.json")
    state = json.loads(state_path.read_text())
    state["sha256"]["model.safetensors"] = checkpoint.file_sha256(path)
    state_path.write_text(seal("checkpoint", state))
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        tiny_train(tiny_config("fm"), folder, resume=True)
    assert not Payload.target.exists()


@pytest.mark.fault(13)
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


@pytest.mark.fault(13)
def test_partial_optimizer_state_is_refused(run):
    folder, state = run
    path = folder / "checkpoints" / "step-00000008" / "optimizer.safetensors"
    tensors = load_file(path)
    removed = {k: v for k, v in tensors.items() if not k.startswith("image_in.weight/")}
    with pytest.raises(CheckpointError, match="without state"):
        checkpoint.load_optimizer(state.optimizer, state.model, removed, path)


def save_for_ever(folder: Path, state: TrainState) -> None:
    for step in range(9, 100_000_000):
        save_step(folder, state, step)
        checkpoint_kept.Pruner(folder / "checkpoints", 2)()


def save_step(folder: Path, state: TrainState, step: int) -> None:
    checkpoint.save_checkpoint(
        folder / "checkpoints",
        step,
        model=state.model,
        ema=state.ema.module,
        optimizer=state.optimizer,
        state={},
        milestone=False,
    )


@pytest.mark.fault(1, full=50)
def test_kill_during_a_save_always_leaves_a_valid_checkpoint(run, trial):
    folder, state = run
    process = multiprocessing.get_context("fork").Process(
        target=save_for_ever, args=(folder, state)
    )
    process.start()
    while not (folder / "checkpoints" / "step-00000009").exists() and process.is_alive():
        time.sleep(0.001)
    time.sleep(0.1 * random.Random(trial).random())  # a save takes some 10 ms
    process.kill()
    process.join()
    path, problems = newest_valid(folder / "checkpoints")
    assert path is not None and int(path.name[-8:]) >= 9
    assert problems == []
    # what the kill left behind disturbs neither loading nor the next save
    config = tiny_config("fm")
    restored = new_state(build_model(config, "cpu"), config, OneProcess("cpu"))
    restore(restored, path)
    assert differing(restored, state) == []
    save_step(folder, state, int(path.name[-8:]) + 1)
    checkpoint_kept.Pruner(folder / "checkpoints", 2)()
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.fault(4)
@pytest.mark.parametrize("write", range(3))
def test_a_full_disk_loses_nothing(run, monkeypatch, write):
    """The disk is full at the first, second or third file of a checkpoint."""
    folder, state = run
    real, written = save_file, []

    def full(tensors, path):
        written.append(path)
        if len(written) <= write:
            return real(tensors, path)
        Path(path).write_bytes(b"x" * 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_step(folder, state, 9)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000008",
    ]
    assert newest_valid(folder / "checkpoints")[0].name == "step-00000008"


TRAIN_ON_A_SMALL_DISK = """
mount -t tmpfs -o size={size} none {disk} || exit 77
{python} -c 'from selfe.cli import main; main()' train --method fm --runs-dir {disk} --name run \
    --device cpu {options}
code=$?
cp -r {disk}/run {copy}
exit $code
"""


@pytest.mark.slow
@pytest.mark.fault(4)
def test_training_on_a_full_disk_ends_and_keeps_what_there_is(trained, tmp_path):
    """On a real file system with room for two checkpoints and a half of the third."""
    one = trained[0] / "checkpoints" / "step-00000008"
    pages = sum(-(-path.stat().st_size // 4096) for path in one.iterdir())
    disk = tmp_path / "disk"
    disk.mkdir()
    settings = (
        *TINY_MODEL,
        "train.iterations=20",
        "train.batch_size=8",
        "train.micro_batch_size=null",
        "train.checkpoint_every=2",
        "train.sample_every=null",
        "data.size=8",
    )
    script = TRAIN_ON_A_SMALL_DISK.format(
        size=int(2.5 * pages) * 4096 + 65536,
        disk=disk,
        python=sys.executable,
        options=" ".join(f"--set {setting}" for setting in settings),
        copy=tmp_path / "copy",
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
    )
    if done.returncode in (1, 77) and not (tmp_path / "copy").exists():
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode != 0
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    left = [path.name for path in (tmp_path / "copy" / "checkpoints").iterdir()]
    assert sorted(left) == ["step-00000002", "step-00000004"]
    assert newest_valid(tmp_path / "copy" / "checkpoints")[1] == []


@pytest.mark.fault(5)
def test_unwritable_run_folder_is_an_error_before_the_first_step(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with contextlib.ExitStack() as held, pytest.raises(ValueError, match="cannot write to"):
        occupy(blocker / "run", None, held)


@pytest.mark.fault(23)
def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with contextlib.ExitStack() as held:
        occupy(tmp_path, None, held)
        with pytest.raises(ValueError, match="another process"):
            occupy(tmp_path, None, held)


def test_an_existing_run_is_not_overwritten(tmp_path):
    with pytest.raises(ValueError, match="nothing to resume"):
        check_folder(tmp_path, resume=True)
    (tmp_path / "config.json").write_text("{}")
    check_folder(tmp_path, resume=False)  # nothing was trained yet
    for kept in ("checkpoints", "results"):
        (tmp_path / kept).mkdir()
        with pytest.raises(ValueError, match="--resume"):
            check_folder(tmp_path, resume=False)
        (tmp_path / kept).rmdir()


def test_fork_notation(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    assert parse_fork("base@4", tmp_path) == (tmp_path / "base", 4)
    for text in ("base", "base@", "base@x"):
        with pytest.raises(ValueError, match="RUN@STEP"):
            parse_fork(text, tmp_path)


def test_a_fork_continues_from_the_other_runs_step(tmp_path, monkeypatch):
    from tests.helpers.tiny import tiny_source

    monkeypatch.setattr("selfe.training.run.build_source", lambda config, **_: tiny_source(config))
    base = tiny_train(tiny_config(), tmp_path / "base")
    from selfe.run_folder.records import write_config

    write_config(tmp_path / "base", tiny_config())
    same = train_run(
        tiny_config(),
        tmp_path / "same",
        runs_dir=tmp_path,
        device="cpu",
        init_from="base@4",
    )
    assert differing(base, same) == []
    for run, origin in (("same", "base@4"), ("base", "scratch")):
        with pytest.raises(ValueError, match=f"was started from {origin}, not from base@8"):
            train_run(
                tiny_config(), tmp_path / run, runs_dir=tmp_path, resume=True, init_from="base@8"
            )
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
