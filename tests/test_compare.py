"""Comparing two result folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.base import ImageVerdict, ModelFacts, ProtocolFacts, Result, SamplingFacts
from evals.report.compare import as_markdown, compare, compare_verdicts
from evals.report.compare_runs import ComparedRow, compare_runs
from evals.report.result_folders import collect
from evals.results import read_result, write_result
from evals.scoring.detections import write_verdicts
from evals.scoring.score import summarize
from evals.verdicts import read_verdicts

PROTOCOL = ProtocolFacts(
    suite="shapes@1",
    split="heldout",
    prompts_sha256="ab",
    num_prompts=6,
    images_per_prompt=2,
    detector="d",
    color_classifier="c",
    rules={"threshold": 0.3},
)


def _verdicts(hits: list[int], tag: str = "colors", first: int = 0) -> list[ImageVerdict]:
    return [
        ImageVerdict(
            prompt_id=first + i, sample_id=k, tag=tag, correct=k < n, reason="" if k < n else "no"
        )
        for i, n in enumerate(hits)
        for k in range(2)
    ]


def _result(folder: Path, verdicts: list[ImageVerdict], label: str, **protocol: object) -> Path:
    facts = PROTOCOL.model_copy(update=protocol)
    result = Result(
        protocol=facts,
        model=ModelFacts(name=label, label=label, method=label, digest="0", resolution=(32, 32)),
        sampling=SamplingFacts(steps=2, nfe=4, seed=0),
        scores=summarize(verdicts),
    )
    write_result(folder, result)
    write_verdicts(folder / "images.jsonl", verdicts)
    assert read_result(folder) == result and read_verdicts(folder) == verdicts
    return folder


A = _verdicts([2, 2, 0, 1]) + _verdicts([2, 2], "counting", 4)
B = _verdicts([2, 0, 1, 1]) + _verdicts([2, 2], "counting", 4)


def test_differences_flips_and_text(tmp_path: Path) -> None:
    c = compare(_result(tmp_path / "a", A, "Self-E"), _result(tmp_path / "b", B, "FM"))
    assert c.tasks["colors"].difference.mean == pytest.approx(5 / 8 - 4 / 8)
    assert c.overall.difference.mean == pytest.approx(1 / 16)
    assert c.overall.a == pytest.approx((5 / 8 + 1) / 2)
    assert not c.overall.resolved
    assert [(f.prompt_id, f.a_correct, f.b_correct) for f in c.flipped] == [(1, 2, 0), (2, 0, 1)]
    text = as_markdown(c)
    assert "A = Self-E, 2 steps; B = FM, 2 steps (shapes@1)" in text
    assert "| overall | 0.812 | 0.750 | +0.062 |" in text and "not resolved" in text
    assert "2 prompts flipped: 1 better under A, 1 better under B." in text
    assert "- 00001 colors: 2/2 against 0/2\n" in text
    assert f"resolves overall differences above {c.overall.detectable:.3f}" in text


def test_what_images_were_sampled_with_is_named(tmp_path: Path) -> None:
    settings = [
        {"guidance": "linear", "guidance_scale": 2.0, "eta": 1.0, "s_fraction": 0.0},
        {"guidance": "none", "guidance_scale": 1.0, "eta": 0.0, "s_fraction": 1.0},
    ]
    folders = []
    for i, chosen in enumerate(settings):
        folder = _result(tmp_path / str(i), A, "Self-E")
        result = read_result(folder)
        sampling = result.sampling.model_copy(update={"settings": chosen})
        write_result(folder, result.model_copy(update={"sampling": sampling}))
        folders.append(folder)
    c = compare(*folders)
    assert c.a == "Self-E, 2 steps, guidance linear 2, eta 1"
    assert c.b == "Self-E, 2 steps, guidance none, eta 0, s at 1"


def test_flips_show_their_captions_where_the_images_lie(tmp_path: Path) -> None:
    a, b = _result(tmp_path / "a", A, "A"), _result(tmp_path / "b", B, "B")
    (b / "00002").mkdir()
    (b / "00002" / "metadata.jsonl").write_text('{"tag": "colors", "prompt": "a red star"}\n')
    c = compare(a, b)
    assert [f.prompt for f in c.flipped] == ["", "a red star"]
    assert "- 00002 colors: 0/2 against 1/2 a red star" in as_markdown(c)
    assert "and 1 more; --json lists all" in as_markdown(c, most=1)


def test_other_protocols_are_refused_and_named(tmp_path: Path) -> None:
    a = _result(tmp_path / "a", A, "A")
    b = _result(tmp_path / "b", B, "B", detector="other", rules={"threshold": 0.5})
    with pytest.raises(ValueError, match=r"differ in detector: 'd' and 'other'; rules: .*0.5"):
        compare(a, b)


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same images \(12 and 11\)"):
        compare_verdicts(A, B[:-1])


def test_order_of_lines_does_not_matter() -> None:
    assert compare_verdicts(A, B[::-1]) == compare_verdicts(A, B)


@pytest.mark.fault(21)
def test_results_of_another_schema_or_torn_are_refused(tmp_path: Path) -> None:
    folder = _result(tmp_path / "a", A, "A")
    path = folder / "result.json"
    text = path.read_text()
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ValueError, match="schema version 2, this version reads 1"):
        read_result(folder)
    path.write_text(text[:100])
    with pytest.raises(ValueError, match="is not a result"):
        read_result(folder)
    with pytest.raises(ValueError, match="does not exist"):
        read_result(tmp_path / "none")
    verdicts = folder / "images.jsonl"
    lines = verdicts.read_text().splitlines()
    verdicts.write_text("\n".join([*lines, lines[0]]) + "\n")
    with pytest.raises(ValueError, match=r"images.jsonl, line 13: image \(0, 0\) occurs twice"):
        read_verdicts(folder)
    verdicts.write_text("\n".join([lines[0], '{"prompt_id": 1}', *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"images.jsonl, line 2"):
        read_verdicts(folder)


def _overall_row(tmp_path: Path, other_tasks: int) -> ComparedRow:
    """Of 30 prompts A has 12 more images right; A and B have all of the other tasks' right."""
    perfect = [
        v
        for task in range(other_tasks)
        for v in _verdicts([2, 2], f"perfect {task}", 100 + 2 * task)
    ]
    sides = []
    for name, colors in (("a", [2] * 12 + [1] * 18), ("b", [1] * 30)):
        images = _verdicts(colors) + perfect
        _result(tmp_path / name, images, name, num_prompts=30 + 2 * other_tasks)
        sides.append((name, collect([tmp_path / name]), []))
    row = compare_runs(*sides).rows[0]
    assert row.task == "overall" and row.p_adjusted < 0.01
    return row


def test_who_is_ahead_is_ahead_by_interval_and_p(tmp_path: Path) -> None:
    """Prompts that all images have right say little of other prompts: the interval knows it, a
    sign-flip test does not."""
    row = _overall_row(tmp_path, other_tasks=0)
    assert row.difference.low > 0 and row.verdict == "A"
    row = _overall_row(tmp_path / "perfect tasks too", other_tasks=3)
    assert row.difference.low < 0 < row.difference.mean and row.verdict == "not resolved"
