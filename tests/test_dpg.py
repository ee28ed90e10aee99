"""DPG-Bench: both countings against a second implementation; every fault by itself."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.registry import open_suite
from evals.suites import dpg
from evals.suites.dpg import DpgRules, cut_grid, official_share, read_records, with_parents

HEADER = (
    *("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad"),
    *("category_detailed", "tuple", "question_natural_language"),
)
ROWS = [
    ("cow", 1, "0", "entity - whole (cow)", "Is there a cow?"),
    ("cow", 2, "1", "attribute - color (cow, red)", "Is the cow red?"),
    ("toy", 1, "0", "entity - whole (toy)", "Is there a toy?"),
    ("toy", 2, "1", "attribute - texture (toy, metal)", "Is the toy metal?"),
    ("toy", 3, "1, 2", "relation - spatial (toy)", "Is the toy on the floor?"),
    ("sky", 1, "0", "global - style (sky)", "Is it a painting?"),
    ("sky", 2, "0", "entity - whole (sky)", "Is there a sky?"),
]


def write_csv(folder: Path, rows: list[tuple[Any, ...]] = ROWS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dpg_bench.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for item, number, parents, category, question in rows:
            text = f"a long text about {item}"
            writer.writerow([item, text, "", number, parents, "", "", category, question])
    return path


def rows_of(said: dict[tuple[int, int], list[int] | None]) -> list[dict]:
    return [
        {"prompt_id": p, "sample_id": s, **({"failed": True} if a is None else {"answers": a})}
        for (p, s), a in said.items()
    ]


def second_official(
    records: list[dict], said: dict[tuple[int, int], list[int]]
) -> dict[str, float]:
    """The published script's arithmetic, written anew with its dictionaries."""
    prompts, categories = [], {}
    for p, record in enumerate(records):
        try:
            shares = []
            for s in range(4):
                pairs = zip(record["questions"], said[p, s], strict=True)
                kept = {q["id"]: (q, float(a)) for q, a in pairs if q["row"] > 0}
                scores = {i: a for i, (_, a) in kept.items()}
                raw = dict(scores)
                for i, (q, _) in kept.items():
                    if any(scores[parent] == 0 for parent in q["parents"] if parent):
                        scores[i] = 0
                shares.append(sum(scores.values()) / len(scores))
        except KeyError:
            continue
        prompts.append(np.mean(shares))
        for i, (q, _) in kept.items():
            name = q["tuple"].split("(")[0].strip().split("-")[0].strip()
            categories.setdefault(name, []).append(raw[i])
    found = {f"category/{name}": 100 * np.mean(values) for name, values in categories.items()}
    return {"score": 100 * np.mean(prompts), **found}


def second_ours(records: list[dict], said: dict[tuple[int, int], list[int]]) -> float:
    def counts(questions: dict[int, dict], answers: dict[int, int], i: int) -> bool:
        parents = [p for p in questions[i]["parents"] if p]
        return bool(answers[i]) and all(counts(questions, answers, p) for p in parents)

    images = []
    for (p, _), answers in said.items():
        questions = {q["id"]: q for q in records[p]["questions"]}
        by_id = dict(zip(questions, answers, strict=True))
        images.append(np.mean([counts(questions, by_id, i) for i in questions]))
    return 100 * float(np.mean(images))


@pytest.mark.parametrize("seed", range(20))
def test_both_countings_equal_a_second_implementation(tmp_path: Path, seed: int) -> None:
    records = read_records(write_csv(tmp_path))
    rng = np.random.default_rng(seed)
    said = {
        (p, s): rng.integers(0, 2, len(records[p]["questions"])).tolist()
        for p in range(3)
        for s in range(4)
    }
    rows = rows_of(said)
    official = DpgRules(True).scores(records, rows)
    expected = second_official(records, said)
    for name, value in expected.items():
        assert official[name].mean == pytest.approx(value), name
    ours = DpgRules(False).scores(records, rows)
    assert ours["score"].mean == pytest.approx(second_ours(records, said))
    # each reports the other beside itself
    assert ours["dpg-official"].mean == official["score"].mean
    assert official["dpg@1"].mean == ours["score"].mean
    assert "official - dpg@1, same images" in ours


def test_the_first_row_is_skipped_and_its_prompt_left_out(tmp_path: Path) -> None:
    records = read_records(write_csv(tmp_path))
    all_yes = {(p, s): [1] * len(records[p]["questions"]) for p in range(3) for s in range(4)}
    rules = DpgRules(True)
    scores = rules.image_scores(records, rows_of(all_yes))
    assert scores[:4] == [{}] * 4 and all(s == {"score": 100} for s in scores[4:])
    assert "leaves out 1" in rules.notes(records, rows_of(all_yes))[0]
    # without a child the first row's prompt is scored on what is left
    free = [*ROWS[:1], ("cow", 2, "0", "attribute - color (cow)", "Is it red?"), *ROWS[2:]]
    records = read_records(write_csv(tmp_path / "free", free))
    assert rules.image_scores(records, rows_of(all_yes))[0] == {"score": 100}


def test_a_failed_image_counts_zero_or_leaves_its_prompt_out(tmp_path: Path) -> None:
    records = read_records(write_csv(tmp_path))
    said: dict[tuple[int, int], list[int] | None] = {
        (p, s): [1] * len(records[p]["questions"]) for p in range(3) for s in range(4)
    }
    said[2, 1] = None
    ours = DpgRules(False).scores(records, rows_of(said))["score"].mean
    official = DpgRules(True).scores(records, rows_of(said))["score"].mean
    assert ours == pytest.approx(100 * 11 / 12) and official == 100


def test_grandchildren_listed_before_their_parents() -> None:
    asked = [
        {"id": 3, "parents": [2], "row": 5},
        {"id": 2, "parents": [1], "row": 6},
        {"id": 1, "parents": [0], "row": 7},
    ]
    said = [True, True, False]
    assert with_parents(asked, said) == [False, False, False]
    assert official_share(asked, said) == pytest.approx(1 / 3)


def test_a_question_is_yes_above_one_half(tmp_path: Path) -> None:
    records = read_records(write_csv(tmp_path))
    rows = [
        {"prompt_id": p, "sample_id": 0, "answers": [0.5] * len(r["questions"])}
        for p, r in enumerate(records)
    ]
    assert DpgRules(False).scores(records, rows)["score"].mean == 0


def test_prompts_come_from_files_or_from_the_table(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "dpg_bench")
    assert read_records(table)[1]["prompt"] == "a long text about toy"
    (tmp_path / "dpg_bench" / "prompts").mkdir()
    for item in ("cow", "toy", "sky"):
        (tmp_path / "dpg_bench" / "prompts" / f"{item}.txt").write_text(f"{item}!\n")
    assert [r["prompt"] for r in read_records(tmp_path / "dpg_bench")] == ["cow!", "toy!", "sky!"]
    (tmp_path / "dpg_bench" / "prompts" / "toy.txt").unlink()
    with pytest.raises(ValueError, match="toy.txt does not exist"):
        read_records(tmp_path / "dpg_bench")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("toy", "x", "0", "a", "Q?"), "row 3 after the header"),
        (("toy", 1, "one", "a", "Q?"), "numbers with commas"),
        (("toy", 1, "7", "a", "Q?"), "depends on one not asked"),
        (("toy", 1, "0", "a", " "), "must not be empty"),
        (("cow", 1, "0", "a", "Q?"), "a second question 1 of cow"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, row: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_records(write_csv(tmp_path, [*ROWS[:2], row]))


def test_the_suites_want_the_whole_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_csv(tmp_path)
    with pytest.raises(ValueError, match="3 prompts and DPG-Bench has 1065"):
        open_suite("dpg@1", prompts=table)
    with pytest.raises(ValueError, match="--prompts FOLDER"):
        open_suite("dpg@1")
    monkeypatch.setattr(dpg, "PROMPTS", 3)
    ours, official = open_suite("dpg@1", prompts=table), open_suite("dpg-official", prompts=table)
    assert ours.prompts_sha256 == official.prompts_sha256 and official.drawn_as == "dpg@1"


def test_a_grid_is_cut_in_the_published_order() -> None:
    grid = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    a, b, c, d = cut_grid(grid)
    assert np.array_equal(np.block([[[a], [b]], [[c], [d]]]).shape, grid.shape)
    assert np.array_equal(a, grid[:2, :3]) and np.array_equal(b, grid[:2, 3:])
    assert np.array_equal(c, grid[2:, :3]) and np.array_equal(d, grid[2:, 3:])
    with pytest.raises(ValueError, match="even sides"):
        cut_grid(grid[:3])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"caf\xe9\n" + content,
        lambda content: content + b'"open',
        lambda content: content.replace(b"\r\n", b",more\r\n").replace(b",more", b"", 1),
        lambda content: content + b",,,,,,,,,,,,\r\n",
    ],
    ids=["empty", "Latin-1", "open quote", "a cell too many everywhere", "a cell too many"],
)
def test_a_damaged_table_is_named(spoil: Any, tmp_path: Path) -> None:
    table = write_csv(tmp_path)
    table.write_bytes(spoil(table.read_bytes()))
    with pytest.raises(ValueError, match=r"dpg_bench\.csv (cannot be read|has )"):
        read_records(table)
