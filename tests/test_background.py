"""Checkpoints written by a thread while training goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from selfe.run_folder import checkpoint_background
from selfe.run_folder.checkpoint import list_checkpoints, verify, write_checkpoint
from selfe.run_folder.checkpoint_background import WholeInBackground
from selfe.training import state
from tests.helpers.tiny import differing, tiny_config, tiny_train

CPU = torch.device("cpu")
CONFIG = tiny_config("selfe", "train.checkpoint_every=2", "train.keep_last=9")


@pytest.fixture
def in_background(monkeypatch):
    monkeypatch.setattr(
        state,
        "open_writer",
        lambda config, run_dir, processes: WholeInBackground(
            run_dir / "checkpoints", config.train.keep_last, CPU
        ),
    )


def digests(run_dir: Path) -> dict[int, dict[str, str]]:
    return {c.step: verify(c.path).sha256 for c in list_checkpoints(run_dir / "checkpoints")}


def test_a_slow_disk_changes_no_bit(in_background, tmp_path, monkeypatch):
    """Iterations that follow must not reach into what is still to be written."""

    def slow(*content):
        time.sleep(0.3)
        return write_checkpoint(*content)

    monkeypatch.setattr(checkpoint_background, "write_checkpoint", slow)
    written = tiny_train(CONFIG, tmp_path / "background")
    monkeypatch.undo()
    expected = tiny_train(CONFIG, tmp_path / "whole")
    assert differing(written, expected) == []
    assert digests(tmp_path / "background") == digests(tmp_path / "whole")
    assert list(digests(tmp_path / "whole")) == [2, 4, 6, 8]


def test_training_does_not_wait_for_the_disk(in_background, tmp_path, monkeypatch):
    steps_when_written = []

    def waits(folder, parts, record):
        lines = (folder.parent / "metrics.jsonl").read_text().splitlines()
        before = time.monotonic()
        awaited = min(record["step"] + 1, config.train.iterations)  # no line comes after the last
        while len(lines) < awaited and time.monotonic() - before < 20:
            time.sleep(0.01)
            lines = (folder.parent / "metrics.jsonl").read_text().splitlines()
        steps_when_written.append((record["step"], json.loads(lines[-1])["step"]))
        return write_checkpoint(folder, parts, record)

    monkeypatch.setattr(checkpoint_background, "write_checkpoint", waits)
    config = tiny_config("fm", "train.checkpoint_every=4", "train.iterations=7")
    tiny_train(config, tmp_path)
    first, reached = steps_when_written[0]
    assert first == 4 and reached > 4


def test_copies_lie_in_the_same_memory(tmp_path):
    """To reserve pinned memory for every checkpoint would stall training by seconds."""
    writer = WholeInBackground(tmp_path, 1, CPU)
    live = torch.zeros(3)
    places = []
    for value in range(3):
        live.fill_(value)
        staged = writer._stage({"model": {"weight": live}})["model"]["weight"]
        assert torch.equal(staged, live) and staged.data_ptr() != live.data_ptr()
        places.append(staged.data_ptr())
    writer.close()
    assert len(set(places)) == 1


def test_a_failure_is_raised_by_the_next_call(in_background, tmp_path, monkeypatch):
    def full(*content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_background, "write_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        tiny_train(CONFIG, tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps[-1] == 4  # the first failed at 2, and 4 waits for it
