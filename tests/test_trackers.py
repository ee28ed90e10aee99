"""Trackers mirror the metrics file."""

from __future__ import annotations

import io
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from selfe.training.callbacks import Callbacks
from selfe.training.metrics_log import read_lines
from selfe.training.run import train_run
from selfe.training.trackers import open_tracker, scalars
from tests.helpers.tiny import tiny_config, tiny_train


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


def drawn_run(run_dir, tracker):
    """A session that draws its sample sheets after iteration 2."""
    config = tiny_config("fm", "train.iterations=2", "train.sample_every=2", "data.size=16")
    train_run(config, run_dir, runs_dir=run_dir.parent, device="cpu", tracker=tracker)
    return np.asarray(Image.open(run_dir / "samples" / "step-00000002.png"))


def test_tensorboard_holds_the_sample_sheets(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sheet = drawn_run(tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    (event,) = events.Images("samples")
    assert event.step == 2
    assert np.array_equal(Image.open(io.BytesIO(event.encoded_image_string)), sheet)


class FakeWandb(ModuleType):
    """What the tracker uses of the package, taking notes."""

    def __init__(self):
        super().__init__("wandb")
        self.logged, self.options, self.finished = [], {}, False

    def init(self, **options):
        self.options = options
        return self

    def Image(self, pixels):
        return ("image", pixels)

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def test_wandb_gets_numbers_and_sample_sheets(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    sheet = drawn_run(tmp_path / "run", "wandb")
    assert wandb.options["name"] == "run" and wandb.options["resume"] == "allow"
    numbers = [(step, values) for step, values in wandb.logged if "samples" not in values]
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert numbers == [(line["step"], scalars(line)) for line in lines]
    ((step, values),) = [entry for entry in wandb.logged if "samples" in entry[1]]
    ((kind, pixels),) = values["samples"]
    assert step == 2 and kind == "image" and np.array_equal(pixels, sheet)
    # steps never fall, or the service would drop them
    assert [step for step, _ in wandb.logged] == sorted(step for step, _ in wandb.logged)
    assert wandb.finished


class FakeTrackio(ModuleType):
    """What accelerate uses of the package, taking notes."""

    def __init__(self):
        super().__init__("trackio")
        self.logged, self.options, self.finished = [], {}, False
        self.config = {}

    def init(self, **options):
        self.options = options
        return self

    def log(self, values, step=None):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def test_another_tracker_of_accelerate_gets_the_numbers(tmp_path, monkeypatch):
    trackio = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    tracker = open_tracker("trackio", tmp_path / "mine", tiny_config("fm"))
    tracker.write({"step": 3, "loss": 1.5, "event": "x"})
    tracker.close()
    assert trackio.options["project"] == "selfe-bench" and trackio.options["name"] == "mine"
    assert trackio.config["optim.lr"] == tiny_config("fm").optim.lr
    assert trackio.logged == [(3, {"loss": 1.5})] and trackio.finished
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    with pytest.raises(ValueError, match="pip install comet-ml"):
        open_tracker("comet_ml", tmp_path, tiny_config("fm"))


def test_only_numbers_are_mirrored():
    record = {"step": 3, "loss": 1.5, "event": "nonfinite", "samples": [1], "flag": True}
    assert scalars(record) == {"loss": 1.5}


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"selfe-bench\[wandb\]"):
        open_tracker("wandb", tmp_path, tiny_config("fm"))
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'.*'tensorboard'"):
        open_tracker("tensorbord", tmp_path, tiny_config("fm"))
    with pytest.raises(ValueError, match="unknown tracker"):
        drawn_run(tmp_path / "run", "tensorbord")
    assert not (tmp_path / "run" / "config.json").exists()  # the name is free
