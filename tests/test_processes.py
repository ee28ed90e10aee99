"""Several processes on one benchmark: shares of the work, and results that do not depend on it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evals import registry
from evals.detectors.shapes import ShapesDetector
from evals.results import read_result
from evals.scoring import scorer, settings
from evals.scoring.benchmark import score_images, score_model
from evals.scoring.processes import join_processes
from evals.scoring.settings import BenchmarkSettings
from selfe.cli import targets
from selfe.cli.common import pick_device
from selfe.generator import GeneratorFacts
from tests.helpers.command_line import selfe_bench

SETTINGS = dict(limit=2, images_per_prompt=2, batch_size=3)


class Painter:
    """Noise from the seed, drawn a chunk at a time."""

    facts = GeneratorFacts("painter", "Painter", "painter", "0", (32, 32))
    chunk_size = 5
    device = torch.device("cpu")

    def nfe(self, num_steps: int) -> int:
        return num_steps

    def sampling_at(self, num_steps: int) -> dict[str, object]:
        return {}

    def count_truncated(self, prompts) -> dict[str, int]:
        return {"words": 3, "letters": 0}

    def generate(self, prompts, num_steps, seeds):
        Path(f"drawn-by-{os.environ.get('RANK', '0')}").touch()
        return [np.random.default_rng(s).integers(0, 256, (32, 32, 3), np.uint8) for s in seeds]


def together(world_size: int, folder: Path, work: Callable[[BenchmarkSettings], object]) -> None:
    """Run `work` in so many processes that meet as under torchrun, in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    detect = ShapesDetector.detect

    def noted(self, images):
        with open(f"batches-of-{os.environ['RANK']}", "a") as file:
            file.write(f"{len(images)}\n")
        return detect(self, images)

    def run(rank: int) -> None:
        os.chdir(folder)
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        ShapesDetector.detect = noted
        processes = join_processes()
        result = work(BenchmarkSettings(processes=processes, **SETTINGS))
        processes.leave()
        assert (result is None) == (rank != 0)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=run, args=(rank,)) for rank in range(world_size)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * world_size


def quiet(name: str, done: int, total: int) -> None:
    pass


@pytest.mark.fault(23)
def test_drawing_and_scoring_are_shared_and_results_equal(tmp_path, monkeypatch):
    # the statistic of the shapes world is not what is looked at here
    monkeypatch.setattr(scorer.Scorer, "diversity", lambda *_: {})
    (tmp_path / "one").mkdir()
    (tmp_path / "three").mkdir()
    with contextlib.chdir(tmp_path / "one"):
        alone, result = score_model(
            Painter(), 2, "shapes@1", Path("r"), BenchmarkSettings(**SETTINGS), quiet
        )
        alone = alone.absolute()
    together(
        3,
        tmp_path / "three",
        lambda settings: score_model(Painter(), 2, "shapes@1", Path("r"), settings, quiet),
    )
    shared = tmp_path / "three" / alone.relative_to(tmp_path / "one")
    assert {p.name for p in (tmp_path / "three").glob("drawn-by-*")} == {
        "drawn-by-0",
        "drawn-by-1",
        "drawn-by-2",
    }
    counts = [(tmp_path / "three" / f"batches-of-{r}").read_text().split() for r in range(3)]
    assert sum(len(c) for c in counts) == 8 and sum(int(n) for c in counts for n in c) == 24
    assert max(len(c) for c in counts) == 3
    ours = {p.relative_to(alone) for p in alone.rglob("*") if p.is_file()}
    assert {p.name for p in ours} >= {"detections.jsonl", "images.jsonl", "00000.png"}
    for path in ours - {Path("result.json")}:
        assert (alone / path).read_bytes() == (shared / path).read_bytes(), path
    found = read_result(shared)
    assert found.scores == result.scores and found.protocol == result.protocol
    assert found.truncated_prompts == {"words": 3, "letters": 0}

    # and the images, as a folder made by anyone
    with contextlib.chdir(tmp_path / "one"):
        scored = score_images(alone, "shapes@1", Path("o"), BenchmarkSettings(**SETTINGS), quiet)
        assert scored is not None
        assert scored[1].scores == result.scores
    together(2, tmp_path / "three", lambda s: score_images(alone, "shapes@1", Path("o"), s, quiet))
    (out,) = (tmp_path / "three" / "o").rglob("result.json")
    assert read_result(out).scores == result.scores


@pytest.mark.fault
def test_a_world_without_a_meeting_place_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node"):
        join_processes()


def test_each_process_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device("auto") == pick_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == pick_device("cuda") == "cuda:3"
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize("command", ["geneval", "measure"])
def test_a_command_opens_suite_and_detector_once(tmp_path, monkeypatch, command):
    """At four numbers of steps."""
    monkeypatch.chdir(tmp_path)
    opened = []

    def counted(kind):
        real = getattr(registry, kind)
        return lambda *names, **options: opened.append((kind, names[0])) or real(*names, **options)

    monkeypatch.setattr(scorer, "open_detector", counted("open_detector"))
    monkeypatch.setattr(scorer, "open_color_classifier", counted("open_color_classifier"))
    monkeypatch.setattr(settings, "open_suite", counted("open_suite"))
    target = targets.Target("painter", tmp_path / "r", "shapes@1", "", Painter)
    monkeypatch.setattr(targets, "find_targets", lambda *names, **options: [target])
    words = ["--steps", "1,2,4,8", "--limit", "1", "--images-per-prompt", "2", "--device", "cpu"]
    code, out, error = selfe_bench(command, "--suite", "shapes@1", *words)
    assert code == 0 and out.count("step") >= 4, error
    assert sorted(opened) == [
        ("open_color_classifier", "shapes"),
        ("open_detector", "shapes"),
        ("open_suite", "shapes@1"),
    ]
