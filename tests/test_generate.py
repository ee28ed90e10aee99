"""Drawing a suite: GenEval's layout, resumable byte for byte, failures marked."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from evals.images import failed_marker_path, sample_path
from evals.scoring import draw
from evals.scoring.draw import draw_images, plan_chunks
from evals.scoring.drawing_cost import resident_peak
from selfe.cli import common
from selfe.generator import tell_drawn

RECORDS = [
    {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": f"prompt {i}"}
    for i in range(5)
]


class Painter:
    """Draws noise from the seed. Like a real sampler's, its rounding depends on the batch: here on
    the whole list of seeds, so that any change of a chunk's composition shows."""

    chunk_size = 3
    device = torch.device("cpu")

    def __init__(self, broken=(), die_at=None):
        self.calls, self.broken, self.die_at = [], broken, die_at

    def generate(self, prompts, num_steps, seeds):
        if len(self.calls) == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls.append((list(prompts), list(seeds)))
        mixed = sum(seeds) % 1000
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            rng = np.random.default_rng([seed, mixed, num_steps])
            image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            images.append(None if prompt in self.broken else image)
        return images


def drawn(folder, painter, **changes):
    arguments = {"num_steps": 2, "images_per_prompt": 2, "seed": 0, "folder": folder} | changes
    return draw_images(painter, RECORDS, **arguments)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")  # left by a kill, read by nobody
    }


def test_layout_is_genevals(tmp_path):
    drawn(tmp_path, Painter())
    for i, record in enumerate(RECORDS):
        stored = json.loads((tmp_path / f"{i:05d}" / "metadata.jsonl").read_text())
        assert stored == record
        assert list(stored) == list(record)
        names = sorted(p.name for p in (tmp_path / f"{i:05d}" / "samples").iterdir())
        assert names == ["00000.png", "00001.png"]


def test_chunks_cover_every_image_once_and_ignore_what_exists():
    chunks = plan_chunks(5, 2, 3)
    jobs = [job for chunk in chunks for job in chunk]
    assert len(jobs) == len(set(jobs)) == 10
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]


@pytest.mark.fault(17, full=4)
def test_kill_in_drawing_and_resume_gives_the_same_bytes(tmp_path, trial):
    drawn(tmp_path / "whole", Painter())
    child = multiprocessing.get_context("fork").Process(
        target=drawn, args=(tmp_path / "killed", Painter(die_at=trial))
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    painter = Painter()
    drawn(tmp_path / "killed", painter)
    # the chunk before the one in which it died may not have been written yet
    assert 4 - trial <= len(painter.calls) <= min(4, 5 - trial)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.fault(17, full=15)
def test_kill_in_writing_and_resume_gives_the_same_bytes(tmp_path, trial, monkeypatch):
    """The process dies at one of the 15 renames that put a file of the set into place."""
    drawn(tmp_path / "whole", Painter())
    real, renamed = os.replace, []

    def replace(source, target):
        if len(renamed) == (7 * trial) % 15:
            os.kill(os.getpid(), signal.SIGKILL)
        renamed.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    child = multiprocessing.get_context("fork").Process(
        target=drawn, args=(tmp_path / "killed", Painter())
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    monkeypatch.setattr(os, "replace", real)
    drawn(tmp_path / "killed", Painter())
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.fault(18)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_resuming_gives_the_same_bytes(tmp_path, damage):
    drawn(tmp_path / "whole", Painter())
    drawn(tmp_path / "parts", Painter())
    victim = sample_path(tmp_path / "parts", 2, 1)
    if damage == "missing":
        victim.unlink()
    else:
        data = victim.read_bytes()
        victim.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    painter = Painter()
    meter = drawn(tmp_path / "parts", painter)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert len(painter.calls) == 1 and meter.images == 3


def test_a_chunk_is_written_while_the_next_is_drawn(tmp_path):
    class Waiting(Painter):
        """Goes on to draw the second chunk only when the first lies there."""

        def generate(self, prompts, num_steps, seeds):
            deadline = time.monotonic() + 30
            while len(self.calls) == 1 and not sample_path(tmp_path, 1, 0).is_file():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return super().generate(prompts, num_steps, seeds)

    drawn(tmp_path, Waiting())
    assert len(list(tmp_path.rglob("*.png"))) == 10


@pytest.mark.parametrize("prompt_id", [0, 4])  # of the first chunk and of the last
def test_what_goes_wrong_in_writing_ends_the_drawing(tmp_path, monkeypatch, prompt_id):
    real = draw.write_png

    def full(path, image, identity):
        if path == sample_path(tmp_path, prompt_id, 1):
            raise OSError(28, "No space left on device")
        real(path, image, identity)

    monkeypatch.setattr(draw, "write_png", full)
    with pytest.raises(OSError, match="No space left"):
        drawn(tmp_path, Painter())
    monkeypatch.undo()
    drawn(tmp_path, Painter())
    assert len(list(tmp_path.rglob("*.png"))) == 10


def test_processes_share_the_work_and_draw_the_same_images(tmp_path):
    drawn(tmp_path / "one", Painter())
    painters = [Painter(), Painter()]
    for rank, painter in enumerate(painters):
        drawn(tmp_path / "two", painter, rank=rank, world_size=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert [len(p.calls) for p in painters] == [2, 2]


@pytest.mark.fault(19)
def test_a_failed_image_leaves_a_marker_and_no_picture(tmp_path):
    painter = Painter(broken=("prompt 1",))
    drawn(tmp_path, painter)
    assert failed_marker_path(tmp_path, 1, 0).is_file()
    assert not sample_path(tmp_path, 1, 0).exists()
    again = Painter()
    drawn(tmp_path, again)
    assert again.calls == []  # a failure is a result, not something to try until it works


def test_seeds_differ_between_images_and_benchmark_runs(tmp_path):
    a, b = Painter(), Painter()
    drawn(tmp_path / "a", a)
    drawn(tmp_path / "b", b, seed=1)
    seeds_a = [s for _, seeds in a.calls for s in seeds]
    seeds_b = [s for _, seeds in b.calls for s in seeds]
    assert len(set(seeds_a + seeds_b)) == 20


class Hoarder(Painter):
    """Takes its time and its memory."""

    seconds, megabytes = 0.05, 200

    def generate(self, prompts, num_steps, seeds):
        time.sleep(self.seconds)
        held = np.ones(self.megabytes * 2**20, dtype=np.uint8)
        assert held[-1] == 1
        return super().generate(prompts, num_steps, seeds)


def test_time_and_memory_of_drawing_are_measured(tmp_path):
    before = resident_peak()
    cost = drawn(tmp_path, Hoarder()).cost()
    assert cost["wall_s_per_image"] >= 4 * Hoarder.seconds / 10  # four chunks for ten images
    assert cost["peak_memory_bytes"] >= max(before, Hoarder.megabytes * 2**20)
    assert drawn(tmp_path, Hoarder()).cost() == {}  # all were found


class SlowPainter(Painter):
    """Says how far it is, as a model does that draws a chunk in several batches."""

    def generate(self, prompts, num_steps, seeds):
        for part in range(1, 5):
            tell_drawn(len(prompts) * part / 4)
        return super().generate(prompts, num_steps, seeds)


def test_progress_advances_within_a_chunk(tmp_path):
    told = []
    drawn(tmp_path, SlowPainter(), progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {10}
    done = [number for number, _ in told]
    assert done == sorted(done) and set(done) == set(range(1, 11))


def test_a_log_has_a_line_after_ten_seconds_of_progress(monkeypatch):
    now = [0.0]
    lines: list[str] = []
    monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(common.console, "print", lambda text, **_: lines.append(text))
    with common.progress_bar() as bar:
        tick = common.Ticker(bar)
        for done in range(40):
            now[0] += 4.0
            tick("drawing", done, 1000)
    assert lines == [f"drawing: {done}/1000" for done in range(0, 40, 3)]
