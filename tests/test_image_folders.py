"""`geneval --images`: folders in GenEval's layout, made by anyone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.images import failed_marker_path, sample_path
from evals.registry import open_suite
from evals.results import read_result
from evals.scoring import scorer
from evals.scoring.benchmark import score_images, score_model
from evals.scoring.draw import draw_images
from evals.scoring.settings import BenchmarkSettings
from tests.test_processes import Painter, quiet

SUITE = "shapes@1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The whole suite, one image a prompt."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        records = open_suite(SUITE).records
        draw_images(
            Painter(), records, num_steps=1, images_per_prompt=1, seed=0, folder=folder / "images"
        )
    return folder / "images"


@pytest.fixture
def score(monkeypatch, tmp_path):
    monkeypatch.setattr(scorer.Scorer, "diversity", lambda *_: {})

    def call(images: Path, **options):
        settings = BenchmarkSettings(images_per_prompt=1, **options)
        scored = score_images(images, SUITE, tmp_path, settings, quiet)
        assert scored is not None
        return scored[1]

    return call


def test_a_limit_takes_its_prompts_from_the_whole_set(whole, score, tmp_path):
    everything = score(whole)
    assert everything.scores.num_images == len(open_suite(SUITE).records)
    few = score(whole, limit=2)
    assert few.scores.num_images == 12 and few.scores.overall is not None
    assert few.protocol.num_prompts == 12 and not few.scores.partial
    assert few.protocol.prompts_sha256 != everything.protocol.prompts_sha256
    # another protocol, another folder: nothing was written over
    stored = [read_result(path) for path in tmp_path.rglob("result.json")]
    assert len(stored) == 2 and everything in stored and few in stored


def test_a_folder_drawn_with_the_limit_is_numbered_by_it(score, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = BenchmarkSettings(limit=2).open_suite(SUITE).records
    images = tmp_path / "few"
    draw_images(Painter(), records, num_steps=1, images_per_prompt=1, seed=0, folder=images)
    assert score(images, limit=2).scores.num_images == 12
    with pytest.raises(ValueError, match="metadata.jsonl, line 1"):
        score(images)


@pytest.mark.fault(22)
def test_what_is_amiss_is_named_and_has_no_score(whole, score, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for source in whole.iterdir():
        (folder / source.name).symlink_to(source)
    with pytest.raises(ValueError, match="no folder of images"):
        score(tmp_path / "nowhere")

    def own(number: int) -> Path:
        """A copy of a prompt's folder that may be damaged."""
        name = f"{number:05d}"
        (folder / name).unlink()
        (folder / name / "samples").mkdir(parents=True)
        for path in ("metadata.jsonl", "samples/00000.png"):
            (folder / name / path).write_bytes((whole / name / path).read_bytes())
        return folder / name

    png = own(3) / "samples" / "00000.png"
    png.write_bytes(png.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"00003.samples.00000\.png: truncated.*--allow-partial"):
        score(folder)
    partial = score(folder, allow_partial=True)
    assert partial.scores.partial and partial.scores.overall is not None
    metadata = own(4) / "metadata.jsonl"
    record = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**record, "tag": "colors"}) + "\n")
    with pytest.raises(ValueError, match=r"00004.metadata\.jsonl, line 1: tag is"):
        score(folder, allow_partial=True)


def test_a_complete_result_is_not_replaced_by_a_partial_one(score, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = BenchmarkSettings(limit=1).open_suite(SUITE).records
    images = tmp_path / "images"
    draw_images(Painter(), records, num_steps=1, images_per_prompt=1, seed=0, folder=images)
    score(images, limit=1)
    (result,) = (tmp_path / "images").rglob("result.json")
    before = result.read_bytes()
    sample_path(images, 2, 0).unlink()
    with pytest.raises(ValueError, match="no longer is .*correct it, or score what is left"):
        score(images, limit=1, allow_partial=True)
    assert result.read_bytes() == before


@pytest.mark.fault(19)
def test_an_image_that_was_not_finite_counts_as_wrong(score, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = BenchmarkSettings(limit=1).open_suite(SUITE).records
    images = tmp_path / "images"
    draw_images(Painter(), records, num_steps=1, images_per_prompt=1, seed=0, folder=images)
    sample_path(images, 0, 0).unlink()
    failed_marker_path(images, 0, 0).write_text('{"reason": "latents are not finite"}\n')
    result = score(images, limit=1)
    assert (result.scores.num_failed, result.scores.num_images) == (1, 6)
    (stored,) = tmp_path.rglob("result.json")
    assert read_result(stored) == result


@pytest.mark.fault(25)
def test_missing_weights_are_told_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFE_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="selfe-bench fetch geneval"):
        score_model(Painter(), 2, "geneval@1", tmp_path / "r", BenchmarkSettings(), quiet)
    assert not list(tmp_path.rglob("*.png"))
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="selfe-bench fetch geneval"):
        score_images(tmp_path / "images", "geneval@1", tmp_path, BenchmarkSettings(), quiet)
