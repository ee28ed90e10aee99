"""GenEval 2: its file, its questions, Soft-TIFA against a second implementation."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import gmean

from evals.registry import open_suite
from evals.suites import geneval2
from evals.suites.answers import answers_of
from evals.suites.geneval2 import SoftTifa, accepted_spellings, geometric_mean, read_records

LINES = [
    {
        "prompt": "four white bicycles",
        "atom_count": 3,
        "vqa_list": [
            ["How many bicycles are in the image?", "four"],
            ["Are the bicycles white?", "Yes"],
            ["Are there any bicycles in the image?", "Yes"],
        ],
        "skills": ["count", "attribute", "object"],
    },
    {
        "prompt": "a cow behind a toy",
        "atom_count": 4,
        "vqa_list": [["Is the cow behind the toy?", "Yes"], ["How many cows are there?", "one"]],
        "skills": ["position", "count"],
    },
    {
        "prompt": "two metal toys",
        "atom_count": 3,
        "vqa_list": [["How many toys are there?", "two"]],
        "skills": ["count"],
    },
]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose hash is taken for the published one."""
    path = tmp_path / "geneval2_data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(geneval2, "SHA256", (found[:8], found[-8:]))
    return path


def test_the_suite_reads_the_published_file_only(published: Path, tmp_path: Path) -> None:
    suite = open_suite("geneval2@1", prompts=published)
    assert suite.judge == "qwen3-vl-8b" and suite.images_per_prompt == 4
    assert [r["tag"] for r in suite.records] == ["atoms 3", "atoms 4", "atoms 3"]
    other = tmp_path / "other.jsonl"
    other.write_text(published.read_text() + "\n")
    with pytest.raises(ValueError, match="not the published file"):
        open_suite("geneval2@1", prompts=other)
    with pytest.raises(ValueError, match="--prompts FILE"):
        open_suite("geneval2@1")
    with pytest.raises(ValueError, match="no splits"):
        open_suite("geneval2@1", "heldout", published)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": " "}, "prompt must be text"),
        ({"atom_count": 3.0}, "atom_count"),
        ({"vqa_list": []}, "pairs"),
        ({"vqa_list": [["only a question"]]}, "pairs"),
        ({"skills": ["count"]}, "one skill for each of the 3"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, change: dict, words: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(LINES[1]) + "\n" + json.dumps({**LINES[0], **change}) + "\n")
    with pytest.raises(ValueError, match=f"line 2.*{words}"):
        read_records(path)


def test_spellings() -> None:
    assert set(accepted_spellings("Yes")) == {"yes", "Yes", " yes", " Yes"}
    assert set(accepted_spellings("four")) == {"four", "Four", "4", " four", " Four", " 4"}
    assert set(accepted_spellings("7")) == {"7", "seven", "Seven", " 7", " seven", " Seven"}


def test_spellings_are_those_of_the_published_script() -> None:
    """Its list of an answer to "How many"; every other answer is "Yes"."""
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    for number, word in enumerate(numbers, start=1):
        plain = {word, word.capitalize(), str(number)}
        assert set(accepted_spellings(word)) == plain | {f" {each}" for each in plain}


def test_questions_are_asked_as_published(published: Path) -> None:
    rules = SoftTifa()
    (first, *_) = rules.questions(read_records(published)[0])
    assert first.message == "How many bicycles are in the image? Answer in one word."


def rows_of(answers: dict[tuple[int, int], list[float] | None]) -> list[dict]:
    return [
        {"prompt_id": p, "sample_id": s, **({"failed": True} if a is None else {"answers": a})}
        for (p, s), a in answers.items()
    ]


def test_scores_equal_a_second_implementation(published: Path) -> None:
    """The arithmetic of the published script: scipy's geometric mean, means over prompts."""
    records = read_records(published)
    rng = np.random.default_rng(0)
    answers = {
        (p, s): rng.uniform(0.01, 1, len(records[p]["vqa_list"])).tolist()
        for p in range(3)
        for s in range(2)
    }
    found = SoftTifa().scores(records, rows_of(answers))
    images = list(answers.items())
    am = np.mean([np.mean(a) for _, a in images]) * 100
    gm = np.mean([gmean(a) for _, a in images]) * 100
    assert found["am"].mean == pytest.approx(am) and found["gm"].mean == pytest.approx(gm)
    three = np.mean([gmean(a) for (p, _), a in images if p != 1]) * 100
    assert found["gm/atoms 3"].mean == pytest.approx(three)
    counts = [a[records[p]["skills"].index("count")] for (p, _), a in images]
    assert found["am/count"].mean == pytest.approx(100 * np.mean(counts))
    for interval in found.values():
        assert 0 <= interval.low <= interval.mean <= interval.high <= 100
        assert interval.low < interval.high


def test_one_answer_of_probability_zero_makes_the_geometric_mean_zero(published: Path) -> None:
    records, rules = read_records(published), SoftTifa()
    rows = rows_of({(0, 0): [1.0, 0.0, 1.0], (1, 0): [0.5, 0.5], (2, 0): None})
    first, second, failed = rules.image_scores(records, rows)
    assert first == {"am": pytest.approx(200 / 3), "gm": 0.0}
    assert second == {"am": 50, "gm": pytest.approx(50)} and failed == {"am": 0, "gm": 0}
    assert "1 of 3 images" in rules.notes(records, rows)[0]
    assert geometric_mean([1e-200, 1e-200]) == pytest.approx(1e-200)
    assert math.isclose(geometric_mean([0.25, 1.0]), 0.5)


def test_answers_that_do_not_fit_are_refused(published: Path) -> None:
    records, rules = read_records(published), SoftTifa()
    for wrong in ([0.5], [0.5, 0.5, 1.5], [0.5, 0.5, True], [0.5, 0.5, math.nan], "yes"):
        row = {"prompt_id": 0, "sample_id": 3, "answers": wrong}
        with pytest.raises(ValueError, match="prompt 0, sample 3"):
            answers_of(rules, records[0], row)
