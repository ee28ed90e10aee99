"""One model on several suites and measures: drawn once, resumed after a kill, read back."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evals.base import Interval
from evals.images import sample_path, scan_folder, write_failed_marker, write_metadata, write_png
from evals.judges.base import Question
from evals.measure import MeasureOptions
from evals.measurements import find_measurements, images_path, read_images, read_measurement
from evals.registry import JUDGES, open_suite
from evals.scoring.across import Chosen, Instruments, measure_images, measure_model
from evals.scoring.benchmark import score_model
from evals.scoring.judged import judge_folder, rescore_answers
from evals.scoring.settings import BenchmarkSettings
from evals.suites import dpg, geneval2
from selfe.generator import GeneratedImage, GeneratorFacts
from selfe.sealed_files import seal
from tests.helpers.command_line import selfe_bench
from tests.helpers.mutations import mutations
from tests.test_dpg import write_csv
from tests.test_geneval2 import LINES

QUIET = lambda name, done, total: None  # noqa: E731


class FirstPixel:
    """`VisualJudge`: an answer's probability is the brightness of the image's first pixel."""

    identity = "first pixel@1"
    settings: Mapping[str, Any] = {"probability": "brightness"}
    notes = ("nobody named a version of it",)

    def __init__(self, die_at: int | None = None, device: str = "cpu", **options: Any) -> None:
        self.asked, self.die_at, self.options = 0, die_at, options

    def ask(
        self, images: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]
    ) -> list[list[float]]:
        found = []
        for image, asked in zip(images, questions, strict=True):
            if self.asked == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.asked += 1
            level = float(image[0, 0, 0]) / 255
            found.append([level ** (k + 1) for k in range(len(asked))])
        return found


class Noise:
    """A model that draws noise; counts what it draws."""

    chunk_size = 4
    facts = GeneratorFacts("noise", "Noise", "noise", "sha", (8, 8), sampling={"guidance": "none"})
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.drawn = 0

    def nfe(self, num_steps: int) -> int:
        return 2 * num_steps

    def sampling_at(self, num_steps: int) -> Mapping[str, Any]:
        return self.facts.sampling

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        return {}

    def generate(
        self, prompts: Sequence[str], num_steps: int, seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        self.drawn += len(prompts)
        rngs = [np.random.default_rng(seed % 2**32 + num_steps) for seed in seeds]
        return [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for rng in rngs]


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "geneval2_data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(geneval2, "SHA256", (found[:8], found[-8:]))
    monkeypatch.setitem(JUDGES.table, "first-pixel", "tests.test_measure:FirstPixel")
    return path


def instruments(*measures: str, **options: Any) -> Instruments:
    return Instruments(measures, MeasureOptions(resamples=20), "first-pixel", options)


def drawn_folder(folder: Path, prompts: Path, failed: bool = False) -> Path:
    suite = open_suite("geneval2@1", prompts=prompts)
    rng = np.random.default_rng(0)
    for prompt_id, record in enumerate(suite.records):
        write_metadata(folder, prompt_id, record)
        for sample_id in range(4):
            picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            write_png(sample_path(folder, prompt_id, sample_id), picture)
    if failed:
        write_failed_marker(folder, 1, 2, "latents are not finite")
    return folder


def test_a_suite_with_a_judge_end_to_end(prompts: Path, tmp_path: Path) -> None:
    model, judges = Noise(), instruments()
    args = ([Chosen("geneval2@1", prompts)], tmp_path / "results", BenchmarkSettings(), judges)
    (path,) = measure_model(model, 4, *args, QUIET)
    found = read_measurement(path)
    assert model.drawn == 12 and found.num_images == 12 and found.sampling.nfe == 8
    assert found.instrument.identity == "first pixel@1" and found.aspect == "accuracy"
    assert found.headline == "gm" and found.images.suite == "geneval2@1"
    assert found.instrument.settings["instruction"] == "Answer in one word."
    assert found.notes[-1] == "nobody named a version of it"
    values = read_images(path)
    assert found.shown.mean == pytest.approx(np.mean(list(values.values())))
    # again: nothing is drawn, asked or written
    before = path.stat().st_mtime_ns
    asked = judges.judge_of(open_suite("geneval2@1", prompts=prompts)).asked  # type: ignore[attr-defined]
    assert measure_model(model, 4, *args, QUIET) == [path]
    assert model.drawn == 12 and path.stat().st_mtime_ns == before
    assert judges.judge_of(open_suite("geneval2@1", prompts=prompts)).asked == asked == 12  # type: ignore[attr-defined]
    assert list(find_measurements([tmp_path / "results"])) == [path]


def test_stored_answers_give_the_same_scores_without_a_judge(prompts: Path, tmp_path: Path) -> None:
    folder = drawn_folder(tmp_path / "images", prompts, failed=True)
    (path,) = measure_images(
        folder, [Chosen("geneval2@1", prompts)], tmp_path / "runs", BenchmarkSettings(),
        instruments(), QUIET,
    )  # fmt: skip
    found = read_measurement(path)
    assert found.num_failed == 1 and found.sampling.steps == 0
    (answers,) = path.parent.glob("answers-*.jsonl")
    suite = open_suite("geneval2@1", prompts=prompts)
    again = rescore_answers(suite, answers, tmp_path / "scores.jsonl")
    assert again == found.values
    code, out, err = selfe_bench(
        *("rescore", "--suite", "geneval2@1", "--prompts", str(prompts)),
        *("--answers", str(answers), "--out", str(tmp_path / "again.jsonl")),
    )
    assert code == 0 and f"gm: {found.shown.mean:.4f}" in out, err
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "scores.jsonl").read_text()
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(answers.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="not complete"):
        rescore_answers(suite, cut, tmp_path / "scores.jsonl")
    with pytest.raises(ValueError, match="answers itself"):
        rescore_answers(suite, answers, answers)
    code, _, err = selfe_bench(
        *("rescore", "--suite", "geneval2@1", "--prompts", str(prompts)),
        *("--answers", str(answers), "--out", str(tmp_path / "x"), "--threshold", "0.5"),
    )
    assert code == 2 and "thresholds do not apply" in err


def _judge_and_die(folder: Path, prompts: Path, sha: tuple[str, str], out: Path, at: int) -> None:
    geneval2.SHA256 = sha
    suite = open_suite("geneval2@1", prompts=prompts)
    images = scan_folder(folder, suite.records, 4)
    judge_folder(images, suite, FirstPixel(die_at=at), out, batch_size=2)


@pytest.mark.parametrize("at", [0, 1, 2, 7, 11])
def test_a_killed_judging_continues_to_the_same_bytes(
    prompts: Path, tmp_path: Path, at: int
) -> None:
    folder = drawn_folder(tmp_path / "images", prompts)
    suite = open_suite("geneval2@1", prompts=prompts)
    images = scan_folder(folder, suite.records, 4)
    whole = judge_folder(images, suite, FirstPixel(), tmp_path / "whole.jsonl", batch_size=2)
    out = tmp_path / "measures" / "killed.jsonl"
    context = multiprocessing.get_context("fork")
    arguments = (folder, prompts, geneval2.SHA256, out, at)
    child = context.Process(target=_judge_and_die, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and not out.exists()
    judge = FirstPixel()
    resumed = judge_folder(images, suite, judge, out, batch_size=2)
    assert judge.asked == 12 - at // 2 * 2  # whole batches are kept
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert resumed.values == whole.values
    assert not list(out.parent.glob(".*.work.jsonl"))


def test_other_images_or_another_judge_are_asked_anew(prompts: Path, tmp_path: Path) -> None:
    folder = drawn_folder(tmp_path / "images", prompts)
    suite = open_suite("geneval2@1", prompts=prompts)
    out = tmp_path / "answers.jsonl"

    def asked(judge: FirstPixel) -> int:
        return judge_folder(scan_folder(folder, suite.records, 4), suite, judge, out).asked

    assert asked(FirstPixel()) == 12 and asked(FirstPixel()) == 0
    other = FirstPixel()
    other.identity = "another@1"
    assert asked(other) == 12
    write_png(sample_path(folder, 0, 0), np.zeros((8, 8, 3), np.uint8))
    assert asked(other) == 12
    out.write_text(out.read_text().replace("0.0", "1.0"))  # edited by hand
    assert asked(other) == 12


def test_two_countings_share_images_and_answers(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpg, "PROMPTS", 3)
    table, model, judges = write_csv(tmp_path / "dpg"), Noise(), instruments()
    paths = measure_model(
        model, 2, [Chosen("dpg@1", table), Chosen("dpg-official", table)], tmp_path / "results",
        BenchmarkSettings(), judges, QUIET,
    )  # fmt: skip
    assert model.drawn == 12
    assert judges.judge_of(open_suite("dpg@1", prompts=table)).asked == 12  # type: ignore[attr-defined]
    ours, official = map(read_measurement, paths)
    assert ours.values["dpg-official"] == official.shown
    assert official.values["dpg@1"] == ours.shown


def test_missing_weights_are_told_before_anything_is_drawn(tmp_path: Path, prompts: Path) -> None:
    model, chosen = Noise(), [Chosen("geneval2@1", prompts)]
    for name in ("diversity", "cmmd", "pickscore"):
        with pytest.raises(ValueError, match="hf download"):
            measure_model(model, 2, chosen, tmp_path, BenchmarkSettings(), instruments(name), QUIET)
    assert model.drawn == 0


def test_a_judged_suite_is_refused_by_the_detectors_command(prompts: Path, tmp_path: Path) -> None:
    settings = BenchmarkSettings(prompts=prompts)
    with pytest.raises(ValueError, match="selfe-bench measure --suite geneval2@1"):
        score_model(Noise(), 2, "geneval2@1", tmp_path, settings, QUIET)


def test_incomplete_sets_are_refused_or_marked(prompts: Path, tmp_path: Path) -> None:
    folder = drawn_folder(tmp_path / "images", prompts)
    sample_path(folder, 2, 3).unlink()
    chosen = [Chosen("geneval2@1", prompts)]
    with pytest.raises(ValueError, match="not the complete set.*missing 3"):
        measure_images(folder, chosen, tmp_path, BenchmarkSettings(), instruments(), QUIET)
    settings = BenchmarkSettings(allow_partial=True)
    (path,) = measure_images(folder, chosen, tmp_path, settings, instruments(), QUIET)
    assert read_measurement(path).partial


def test_the_command_measures_a_folder(prompts: Path, tmp_path: Path) -> None:
    folder = drawn_folder(tmp_path / "images", prompts)
    words = (
        *("measure", "--images", str(folder), "--suite", "geneval2@1", "--judge", "first-pixel"),
        *("--prompts", f"geneval2@1={prompts}", "--runs-dir", str(tmp_path / "runs")),
    )
    code, out, err = selfe_bench(*words, "--judge-arg", "colour=red", "--device", "cpu")
    assert code == 0 and "warning" not in err, err
    _, _, err = selfe_bench(*words, "--weights", "pickscor=here", "--device", "cpu")
    assert "no measure here reads the weights 'pickscor' (known: qwen3-vl-8b, " in err
    assert "images, geneval2@1-by-first-pixel-1 gm: " in out
    (path,) = find_measurements([tmp_path / "runs"])
    assert "--judge first-pixel" in read_measurement(path).command


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("--with", "fidd"), "did you mean 'fid'"),
        (("--prompts", "geneval2@1"), "SUITE=FILE"),
        (("--prompts", "dpg@1=x"), "but no --suite does"),
        (("--weights", "a=b", "--weights", "a=c"), "given twice"),
        (("--suite", "geneval2@1"), "--prompts FILE"),
        (("--suite", "geneval@1", "--judge", "vlm"), "--judge-arg change nothing here"),
    ],
)
def test_faults_of_the_command_are_sentences(
    tmp_path: Path, words: tuple[str, ...], answer: str
) -> None:
    code, _, err = selfe_bench("measure", "--images", str(tmp_path), "--device", "cpu", *words)
    assert code == 2 and answer in " ".join(err.split())


def test_a_damaged_measurement_is_named(prompts: Path, tmp_path: Path) -> None:
    folder = drawn_folder(tmp_path / "images", prompts)
    chosen = [Chosen("geneval2@1", prompts)]
    (path,) = measure_images(
        folder, chosen, tmp_path / "runs", BenchmarkSettings(), instruments(), QUIET
    )
    text = path.read_text()
    for wrong in (text[: len(text) // 2], text.replace('"mean"', '"meen"', 1), "[]"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=path.name):
            read_measurement(path)
    found = json.loads(text)
    for what, changed in mutations(found):
        path.write_text(changed)
        with pytest.raises(ValueError, match=path.name):
            read_measurement(path)
            pytest.fail(f"not noticed: {what}")
    path.write_text(seal("measurement", {**found, "headline": "other"}))
    with pytest.raises(ValueError, match="no value 'other'"):
        read_measurement(path)
    path.write_text(text)
    assert isinstance(read_measurement(path).shown, Interval)
    images = images_path(path)
    whole = images.read_text()
    images.write_text(whole.replace("0", "1", 1))
    with pytest.raises(ValueError, match="was changed after"):
        read_images(path)
    images.unlink()
    with pytest.raises(ValueError, match="is missing: measure again"):
        read_images(path)
    again = (folder, chosen, tmp_path / "runs", BenchmarkSettings(), instruments(), QUIET)
    assert measure_images(*again) == [path] and images.read_text() == whole
