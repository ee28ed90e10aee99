"""Scoring folders: completeness, kills, locks, stored detections.

Longer than other files: all of it is one folder of images and what may happen to it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evals.base import Detection
from evals.images import (
    image_is_intact,
    read_image,
    sample_path,
    scan_folder,
    write_failed_marker,
    write_metadata,
    write_png,
)
from evals.scoring.detect import DetectionParts
from evals.scoring.detections import read_detections, rescore, rescore_file
from evals.scoring.processes import Processes
from evals.scoring.score import score_folder
from evals.suites.rules import RuleSettings
from evals.verdicts import read_verdicts
from selfe.files import as_json_lines, folder_lock, write_atomically
from selfe.images import png_fault
from selfe.json_files import read_json_lines

RECORDS = [
    {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a cow"},
    {
        "tag": "colors",
        "include": [{"class": "cow", "count": 1, "color": "red"}],
        "prompt": "a red cow",
    },
    {
        "tag": "counting",
        "include": [{"class": "cow", "count": 2}],
        "exclude": [{"class": "cow", "count": 3}],
        "prompt": "two cows",
    },
]
PER_PROMPT = 3


class PixelDetector:
    """Reads its detections from the first pixel: so many cows, and the score of the first."""

    identity = "pixels@1"
    classes = ("cow",)

    def __init__(self, die_at: int | None = None) -> None:
        self.seen = 0
        self.batches: list[int] = []
        self.die_at = die_at

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        self.batches.append(len(images))
        found = []
        for image in images:
            if self.seen == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen += 1
            count, score = int(image[0, 0, 0]), int(image[0, 0, 1]) / 200
            found.append(
                [
                    Detection(label="cow", box=(k, 0, k + 2.5, 2), score=score - k * 0.01)
                    for k in range(count)
                ]
            )
        return found


class PixelColors:
    identity = "pixel colours@1"

    def classify(
        self, images: Sequence[np.ndarray], detections: Sequence[Sequence[Detection]]
    ) -> list[list[str]]:
        return [
            ["red" if image[0, 0, 2] > 100 else "blue" for _ in found]
            for image, found in zip(images, detections, strict=True)
        ]


def _picture(count: int, score: int, blue: int, size: int = 8) -> np.ndarray:
    image = np.zeros((size, size, 3), np.uint8)
    image[0, 0] = (count, score, blue)
    return image


def _draw(folder: Path) -> Path:
    for prompt_id, record in enumerate(RECORDS):
        write_metadata(folder, prompt_id, record)
        for sample_id in range(PER_PROMPT):
            size = 8 if sample_id < 2 else 6
            image = _picture(1 + sample_id, 190, 200 * (sample_id % 2), size)
            write_png(sample_path(folder, prompt_id, sample_id), image)
    return folder


def _score(images: Path, out: Path, detector: PixelDetector | None = None, **options):
    parts = DetectionParts(detector or PixelDetector(), PixelColors())
    found = scan_folder(images, RECORDS, PER_PROMPT)
    return score_folder(found, RECORDS, parts, out, **{"batch_size": 2, **options})


def test_scores_verdicts_and_stored_detections(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    scored = _score(images, tmp_path / "out", groups={"first": [0]})
    correct = {(v.prompt_id, v.sample_id): v.correct for v in scored.verdicts}
    assert correct == {
        (0, 0): True,
        (0, 1): True,
        (0, 2): True,
        (1, 0): False,
        (1, 1): True,
        (1, 2): False,
        (2, 0): False,
        (2, 1): True,
        (2, 2): False,
    }
    assert scored.scores.overall is not None
    assert scored.scores.overall.mean == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert list(scored.scores.tasks) == ["single_object", "counting", "colors"]
    assert scored.scores.groups["first"].mean == 1.0
    rows = [row for _, row in read_json_lines(tmp_path / "out" / "detections.jsonl")]
    assert [(r["prompt_id"], r["sample_id"]) for r in rows] == sorted(correct)
    assert rows[2]["size"] == [6, 6]
    assert rows[4]["detections"][0] == {
        "label": "cow",
        "box": [0.0, 0.0, 2.5, 2.0],
        "score": 0.95,
        "color": "red",
    }
    # Colours are asked for where a clause names one, and nowhere else.
    assert all(d["color"] is None for r in rows if r["prompt_id"] != 1 for d in r["detections"])
    verdicts = [row for _, row in read_json_lines(tmp_path / "out" / "images.jsonl")]
    assert list(verdicts[0]) == ["prompt_id", "sample_id", "tag", "correct", "reason"]
    assert not list((tmp_path / "out").glob(".*work*"))


def test_batches_hold_images_of_one_size(tmp_path: Path) -> None:
    detector = PixelDetector()
    _score(_draw(tmp_path / "images"), tmp_path / "out", detector, batch_size=4)
    assert sorted(detector.batches) == [2, 3, 4]


def test_scoring_again_detects_nothing_unless_an_image_changed(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    assert _score(images, tmp_path / "out").detected == 9
    before = (tmp_path / "out" / "detections.jsonl").read_bytes()
    assert _score(images, tmp_path / "out").detected == 0
    assert (tmp_path / "out" / "detections.jsonl").read_bytes() == before
    write_png(sample_path(images, 0, 0), _picture(0, 190, 0))
    again = _score(images, tmp_path / "out")
    assert again.detected == 9 and not again.verdicts[0].correct


def test_rescoring_stored_detections_gives_the_same_verdicts(tmp_path: Path) -> None:
    scored = _score(_draw(tmp_path / "images"), tmp_path / "out")
    detections, out = tmp_path / "out" / "detections.jsonl", tmp_path / "again.jsonl"
    assert rescore(RECORDS, detections, out) == scored.verdicts
    assert out.read_bytes() == (tmp_path / "out" / "images.jsonl").read_bytes()
    strict = rescore(RECORDS, detections, out, RuleSettings(threshold=0.96))
    assert sum(v.correct for v in strict) == 1  # counting keeps its own threshold


@pytest.mark.parametrize("damage", ["other scores", "verdicts", "torn"])
def test_detections_that_were_changed_are_made_again(tmp_path: Path, damage: str) -> None:
    images = _draw(tmp_path / "images")
    scored = _score(images, tmp_path / "out")
    path = tmp_path / "out" / "detections.jsonl"
    before = path.read_text()
    changed = {
        "other scores": before.replace("0.95", "0.15"),
        "verdicts": (tmp_path / "out" / "images.jsonl").read_text(),
        "torn": before[:-40],
    }
    assert changed[damage] != before
    path.write_text(changed[damage])
    again = _score(images, tmp_path / "out")
    assert again.detected == 9 and again.verdicts == scored.verdicts
    assert path.read_text() == before


def test_rescoring_refuses_its_own_input_and_other_prompts(tmp_path: Path) -> None:
    _score(_draw(tmp_path / "images"), tmp_path / "out")
    path, out = tmp_path / "out" / "detections.jsonl", tmp_path / "v.jsonl"
    before = path.read_bytes()
    with pytest.raises(ValueError, match="the file of detections itself"):
        rescore(RECORDS, path, tmp_path / "out" / ".." / "out" / "detections.jsonl")
    others = [*RECORDS[1:], RECORDS[0]]
    for records in (others, [*RECORDS, RECORDS[0]]):
        with pytest.raises(ValueError, match="made for other prompts: give the suite"):
            rescore(records, path, out)
    # elsewhere nothing vouches for the prompts, but their number
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes(before)
    with pytest.raises(ValueError, match="images of 3 prompts and the suite has 4"):
        rescore([*RECORDS, RECORDS[0]], alone, out)
    assert len(rescore(RECORDS, alone, out)) == 9
    assert path.read_bytes() == before


def test_rescoring_refuses_detections_cut_short(tmp_path: Path) -> None:
    _score(_draw(tmp_path / "images"), tmp_path / "out")
    path, out = tmp_path / "out" / "detections.jsonl", tmp_path / "v.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    alone = tmp_path / "alone.jsonl"
    for content in (b"".join(lines[:-1]), path.read_bytes()[:-9], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not what was scored any more"):
            rescore(RECORDS, path, out)
        alone.write_bytes(content)
        with pytest.raises(ValueError, match="has 2 images, others 3|images of 0 prompts"):
            rescore(RECORDS, alone, out)
    assert not out.exists()


class OneAfterTheOther(Processes):
    """Processes of a test that run one after the other, so that none has to wait."""

    def wait(self) -> None:
        pass


def test_two_processes_share_the_batches_and_agree(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    _score(images, tmp_path / "one")
    detectors = [PixelDetector(), PixelDetector()]
    assert _score(images, tmp_path / "two", detectors[1], processes=OneAfterTheOther(1, 2)) is None
    scored = _score(images, tmp_path / "two", detectors[0], processes=OneAfterTheOther(0, 2))
    assert scored is not None
    assert detectors[0].seen + detectors[1].seen == 9 and min(d.seen for d in detectors) > 0
    for name in ("detections.jsonl", "images.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.fault(20, full=8)
def test_kill_in_scoring_loses_at_most_one_batch(tmp_path: Path, trial: int) -> None:
    die_at = (1, 4, 8, 2, 3, 5, 6, 7)[trial]
    images = _draw(tmp_path / "images")
    _score(images, tmp_path / "whole")
    context = multiprocessing.get_context("fork")
    child = context.Process(
        target=_score, args=(images, tmp_path / "killed", PixelDetector(die_at))
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "detections.jsonl").exists()
    work = tmp_path / "killed" / ".detections-0.work.jsonl"
    with open(work, "ab") as file:
        file.write(b'{"digest": "torn')
    scored = _score(images, tmp_path / "killed")
    assert scored.detected <= 9 - die_at + 2
    for name in ("detections.jsonl", "images.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


@pytest.mark.fault(18)
def test_truncated_and_flipped_pngs_are_detected(tmp_path: Path) -> None:
    path = sample_path(tmp_path, 0, 0)
    rng = np.random.default_rng(0)
    write_png(path, rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    data = path.read_bytes()
    assert image_is_intact(tmp_path, 0, 0) and png_fault(data) is None
    for length in range(0, len(data)):
        assert png_fault(data[:length]) is not None
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        assert png_fault(bytes(flipped)) is not None
    path.write_bytes(data[:-30])
    assert not image_is_intact(tmp_path, 0, 0)
    with pytest.raises(ValueError, match=r"00000.png: .*truncated PNG"):
        read_image(path)


@pytest.mark.fault(22)
def test_incomplete_and_over_complete_sets_have_no_score(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    broken = sample_path(images, 0, 1)
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"00001.png: truncated PNG.*--allow-partial"):
        _score(images, tmp_path / "out")
    broken.unlink()
    with pytest.raises(ValueError, match=r"2 of 3 images, missing 1"):
        _score(images, tmp_path / "out")
    broken.with_suffix(".jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"missing 1 \(00001.jpg and the like are not read"):
        _score(images, tmp_path / "out")
    partial = _score(images, tmp_path / "out", allow_partial=True)
    assert partial.scores.partial and partial.scores.overall is not None
    assert partial.scores.num_images == 8 and len(partial.problems) == 1
    _draw(images)
    write_png(images / "00000" / "samples" / "2.png", _picture(1, 190, 0))
    with pytest.raises(ValueError, match=r"2.png: duplicate of image 2"):
        _score(images, tmp_path / "out")
    (images / "00000" / "samples" / "2.png").rename(images / "00000" / "samples" / "7.png")
    with pytest.raises(ValueError, match="1 extra"):
        _score(images, tmp_path / "out")
    (images / "00000" / "samples" / "7.png").unlink()
    write_png(sample_path(images, 3, 0), _picture(1, 190, 0))
    with pytest.raises(ValueError, match="extra prompt, the suite has 3"):
        _score(images, tmp_path / "out")


def test_a_limit_finds_its_prompts_in_the_whole_set(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    kept = [RECORDS[1], RECORDS[2]]

    def scored(folder: Path, out: str, **options):
        parts = DetectionParts(PixelDetector(), PixelColors())
        found = scan_folder(folder, kept, PER_PROMPT, **options)
        return score_folder(found, kept, parts, tmp_path / out)

    with pytest.raises(ValueError, match="the suite has"):
        scored(images, "a")
    found = scored(images, "b", numbers=[1, 2])
    assert not found.problems and found.scores.num_images == 6
    assert [(v.prompt_id, v.tag) for v in found.verdicts[::3]] == [(0, "colors"), (1, "counting")]
    sample_path(images, 2, 0).unlink()
    with pytest.raises(ValueError, match=r"00002.samples: 2 of 3 images, missing 0"):
        scored(images, "b", numbers=[1, 2])


@pytest.mark.fault(21)
def test_wrong_or_malformed_metadata_is_refused(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    path = images / "00001" / "metadata.jsonl"
    path.write_text(json.dumps({**RECORDS[1], "prompt": "a blue cow"}))
    for allow in (False, True):
        with pytest.raises(ValueError, match=r"00001.metadata.jsonl, line 1: prompt.*a red cow"):
            _score(images, tmp_path / "out", allow_partial=allow)
    path.write_text("{nonsense}\n")
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 1: not JSON"):
        _score(images, tmp_path / "out")
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        _score(images, tmp_path / "out")


@pytest.mark.fault(21)
def test_torn_tail_is_dropped_and_malformed_lines_are_named(tmp_path: Path) -> None:
    scored = _score(_draw(tmp_path / "images"), tmp_path / "out")
    whole = (tmp_path / "out" / "detections.jsonl").read_text()
    path = tmp_path / "detections.jsonl"
    path.write_text(whole + '{"prompt_id": 2, "sam')
    assert rescore(RECORDS, path, tmp_path / "v.jsonl") == scored.verdicts
    lines = whole.splitlines()
    for bad, message in [
        ('{"prompt_id": 1}', "sample_id must be"),
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        (lines[0], "second line for prompt 0, sample 0"),
        (lines[3].replace('"prompt_id": 1', '"prompt_id": 9'), "the suite has 3 prompts"),
        (lines[3].replace("0.95", "NaN"), "score must be a finite number"),
        (lines[3].replace("2.5", '"2.5"'), "box must be four finite numbers"),
    ]:
        path.write_text("\n".join([*lines[:3], bad, *lines[4:]]) + "\n")
        with pytest.raises(ValueError, match=f"line 4: .*{message}"):
            read_detections(path, len(RECORDS))


@pytest.mark.fault(19)
def test_images_that_were_not_finite_count_as_wrong(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    write_failed_marker(images, 0, 1, "latents are not finite")
    assert image_is_intact(images, 0, 1) and not sample_path(images, 0, 1).exists()
    scored = _score(images, tmp_path / "out")
    assert scored.scores.num_failed == 1 and scored.scores.num_images == 9
    verdict = scored.verdicts[1]
    assert (verdict.correct, verdict.reason) == (False, "not finite")
    again = rescore(RECORDS, tmp_path / "out" / "detections.jsonl", tmp_path / "v.jsonl")
    assert again == scored.verdicts
    write_png(sample_path(images, 0, 1), _picture(1, 190, 0))
    assert _score(images, tmp_path / "out").scores.num_failed == 0


def _hold(folder: Path, ready, done) -> None:
    with folder_lock(folder):
        ready.set()
        done.wait(60)


@pytest.mark.fault(23)
def test_second_process_on_a_results_folder_is_refused(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    child = context.Process(target=_hold, args=(tmp_path / "out", ready, done))
    child.start()
    assert ready.wait(60)
    with pytest.raises(ValueError, match=r"another process is working on .*out"):
        _score(images, tmp_path / "out")
    done.set()
    child.join(60)
    assert _score(images, tmp_path / "out").detected == 9


def test_scanning_ignores_temporary_files_and_foreign_folders(tmp_path: Path) -> None:
    images = _draw(tmp_path / "images")
    (images / "00000" / "samples" / ".00003.png.12.tmp").write_bytes(b"half")
    (images / "grid").mkdir()
    (images / "notes.txt").write_text("hello")
    assert scan_folder(images, RECORDS, PER_PROMPT).complete
    (images / "00000" / "samples" / "00003.png.bak").write_bytes(b"")
    assert "looks like an image" in scan_folder(images, RECORDS, PER_PROMPT).problems[0]


def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", "new")
    assert path.read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == [
        "a.json",
        "folder",
    ]


def test_rescoring_holds_no_verdict_and_leaves_nothing_where_it_refuses(tmp_path):
    """A million images would be 1.6 GB of verdicts."""
    path = tmp_path / "detections.jsonl"
    line = {"size": [32, 32], "detections": []}
    rows = [{"prompt_id": n % 3, "sample_id": n // 3, **line} for n in range(30_000)]
    path.write_text(as_json_lines(rows))
    records = [{"tag": "single_object", "include": [{"class": "star", "count": 1}]}] * 3
    out = tmp_path / "deep" / "er" / "verdicts.jsonl"
    tracemalloc.start()
    assert rescore_file(records, path, out) == (0, 30_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most / 30_000 < 400, "bytes an image"
    assert len(read_verdicts(out)) == 30_000
    path.write_text(as_json_lines(rows[:-1]))
    other = tmp_path / "another" / "folder" / "verdicts.jsonl"
    with pytest.raises(ValueError, match="is not complete"):
        rescore_file(records, path, other)
    assert not (tmp_path / "another").exists()
