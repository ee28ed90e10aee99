"""GenEval's prompts: drawn by us, equal to the published list."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from evals.detectors import weights
from evals.registry import SUITES, open_suite
from evals.suites.base import records_as_jsonl, records_sha256
from evals.suites.geneval import (
    COCO_CLASSES,
    GENEVAL_SHA256,
    LONG_PROMPTS_NAME,
    count_beyond_clip,
    geneval_records,
    read_long_records,
)
from evals.suites.rules import check_record
from selfe.files import file_sha256

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "geneval"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="reference data is not at hand")


def test_records_have_the_digest_of_the_published_list() -> None:
    assert records_sha256(geneval_records()) == GENEVAL_SHA256


@needs_shared
def test_records_equal_the_published_list_byte_for_byte() -> None:
    published = (SHARED / "evaluation_metadata.jsonl").read_text()
    assert records_as_jsonl(geneval_records()).splitlines() == published.splitlines()


@needs_shared
def test_class_names_equal_the_published_ones() -> None:
    assert list(COCO_CLASSES) == (SHARED / "object_names.txt").read_text().split("\n")[:80]


def test_task_sizes_and_key_order() -> None:
    records = geneval_records()
    sizes = Counter(r["tag"] for r in records)
    assert list(sizes.items()) == [
        ("single_object", 80),
        ("two_object", 99),
        ("counting", 80),
        ("colors", 94),
        ("position", 100),
        ("color_attr", 100),
    ]
    for record in records:
        middle = ["include", "exclude"] if record["tag"] == "counting" else ["include"]
        assert list(record) == ["tag", *middle, "prompt"]
        check_record(record)


def test_every_suite_without_a_file_opens_with_valid_records() -> None:
    for name in ("shapes@1", "shapes-free@1", "geneval@1", "geneval-hf@1"):
        assert name in SUITES
        suite = open_suite(name)
        assert suite.name == name
        for record in suite.records:
            check_record(record)


def test_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'geneval@1'.*known: shapes@1"):
        open_suite("geneval1")


def _long_file(path: Path, change: dict[int, str] | None = None, count: int | None = None) -> Path:
    rows = [{**r, "prompt": f"A realistic {r['prompt'][11:]}."} for r in geneval_records()]
    lines = [json.dumps(r) for r in rows][:count]
    for number, text in (change or {}).items():
        lines[number - 1 : number] = [text]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_long_prompts_keep_our_clauses_and_their_words(tmp_path: Path) -> None:
    records = read_long_records(_long_file(tmp_path / "long.jsonl"))
    ours = geneval_records()
    assert [{**r, "prompt": ""} for r in records] == [{**r, "prompt": ""} for r in ours]
    assert records[1]["prompt"] == "A realistic a cow."


def test_long_prompts_with_other_clauses_are_refused_by_line(tmp_path: Path) -> None:
    wrong = json.dumps({**geneval_records()[6], "include": [{"class": "cow", "count": 1}]})
    with pytest.raises(ValueError, match=r"long.jsonl, line 7: include is .*cow.*fork"):
        read_long_records(_long_file(tmp_path / "long.jsonl", {7: wrong}))
    swapped = json.dumps({**geneval_records()[0], "tag": "colors"})
    with pytest.raises(ValueError, match=r"line 1: tag"):
        read_long_records(_long_file(tmp_path / "long.jsonl", {1: swapped}))


@pytest.mark.fault(21)
def test_malformed_long_prompts_are_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 12: not JSON"):
        read_long_records(_long_file(tmp_path / "long.jsonl", {12: "{broken"}))
    with pytest.raises(ValueError, match=r"line 3: no prompt"):
        text = json.dumps({**geneval_records()[2], "prompt": " "})
        read_long_records(_long_file(tmp_path / "long.jsonl", {3: text}))


def test_too_few_or_too_many_long_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="552 records, GenEval has 553"):
        read_long_records(_long_file(tmp_path / "a.jsonl", count=552))
    extra = json.dumps(geneval_records()[552])
    with pytest.raises(ValueError, match=r"line 554: more than the 553"):
        read_long_records(_long_file(tmp_path / "b.jsonl", {553: f"{extra}\n{extra}"}))


def test_missing_long_file_says_where_it_is_published(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="published at"):
        read_long_records(tmp_path / "none.jsonl")


def test_long_prompts_come_from_the_file_or_from_what_fetch_brought(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("SELFE_BENCH_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="fetch geneval-long.*--prompts FILE.*--suite geneval@1"):
        open_suite("geneval-long@1")
    _long_file(tmp_path / LONG_PROMPTS_NAME)
    assert open_suite("geneval-long@1").records[1]["prompt"] == "A realistic a cow."


@needs_shared
def test_fetch_knows_the_published_long_prompts() -> None:
    (published,) = weights.FILES["geneval-long"]
    assert published.name == LONG_PROMPTS_NAME
    assert published.sha256 == file_sha256(SHARED / "evaluation_metadata_long.jsonl")


@needs_shared
def test_published_long_prompts_are_accepted() -> None:
    records = read_long_records(SHARED / "evaluation_metadata_long.jsonl")
    assert len(records) == 553 and all(len(r["prompt"]) > 100 for r in records)
    assert count_beyond_clip(records) == 553


def test_prompts_beyond_clips_limit_are_counted_with_its_two_marks() -> None:
    records = [{"prompt": "cat " * words} for words in (1, 75, 76, 300)]
    assert count_beyond_clip(records) == 2
    assert count_beyond_clip(geneval_records()) == 0
