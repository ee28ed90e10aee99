"""Trackers mirror the metrics file."""

from __future__ import annotations

import pytest
from tiny import tiny_config, tiny_train

from selfe.runlog import read_lines
from selfe.trackers import open_tracker, scalars
from selfe.trainer import Callbacks


def test_tensorboard_holds_what_the_metrics_file_holds(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config("fm", "train.iterations=3")
    tracker = open_tracker("tensorboard", tmp_path, config)
    tiny_train(config, tmp_path, callbacks=Callbacks(record=tracker.write))
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = [(e.step, e.value) for e in events.Scalars("loss")]
    lines = [(r["step"], pytest.approx(r["loss"])) for r in read_lines(tmp_path / "metrics.jsonl")]
    assert written == lines and len(lines) == 3


def test_only_numbers_are_mirrored():
    record = {"step": 3, "loss": 1.5, "event": "nonfinite", "samples": [1], "flag": True}
    assert scalars(record) == {"loss": 1.5}


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"selfe-bench\[wandb\]"):
        open_tracker("wandb", tmp_path, tiny_config("fm"))
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'.*'tensorboard'"):
        open_tracker("tensorbord", tmp_path, tiny_config("fm"))
