"""How cost grows: with the milestones of a training, and what the benchmark of growth measures."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from evals.detectors.shapes import ShapesDetector
from scripts.bench.geneval_share import timed
from scripts.bench.growth import cost_of, exponent
from selfe.run_folder import checkpoint
from selfe.run_folder.checkpoint_state import CheckpointState
from tests.helpers.tiny import tiny_config, tiny_train


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_exponent_is_free_of_what_starting_costs(power: float) -> None:
    assert exponent([7 + 3 * n**power for n in (5, 50, 500)]) == pytest.approx(power)


def test_a_process_is_not_charged_with_the_memory_of_the_one_that_started_it(
    tmp_path: Path,
) -> None:
    seconds, peak = cost_of(["-S", "-c", "x = bytearray(40_000_000)"], tmp_path)
    assert 0 < seconds < 5
    assert 40e6 < peak < 80e6  # this process has imported torch
    with pytest.raises(RuntimeError, match="not today"):
        cost_of(["-S", "-c", "raise SystemExit('not today')"], tmp_path)


def test_seconds_of_a_network_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(self: object, images: object) -> str:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        return "found"

    monkeypatch.setattr(ShapesDetector, "detect", work)
    parts: Counter[str] = Counter()
    with timed(parts):
        assert ShapesDetector.detect(None, []) == ShapesDetector.detect(None, []) == "found"  # type: ignore[arg-type]
    assert parts["ShapesDetector"] == pytest.approx(0.04, abs=0.03)
    assert ShapesDetector.detect is work


def test_a_training_reads_a_milestone_once_however_many_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    inner = checkpoint.read_state

    def counted(path: Path) -> CheckpointState:
        read[path.name] += 1
        return inner(path)

    monkeypatch.setattr(checkpoint, "read_state", counted)
    every = ["train.checkpoint_every=1", "train.milestone_every=2", "train.keep_last=2"]
    tiny_train(tiny_config("fm", "train.iterations=12", *every), tmp_path)
    left = [c.step for c in checkpoint.list_checkpoints(tmp_path / "checkpoints")]
    assert left == [2, 4, 6, 8, 9, 10, 11, 12]
    # when written, and by the list above
    assert {step: read[f"step-{step:08d}"] for step in range(2, 13, 2)} == dict.fromkeys(
        range(2, 13, 2), 2
    )
