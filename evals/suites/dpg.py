"""DPG-Bench: 1,065 dense prompts, questions that depend on each other (ELLA, arXiv 2403.05135).

A question whose parent was answered no counts 0. The score of an image is the share of its
questions answered yes; that of a prompt is the mean over its four images. The published script
departs from this in ways that change figures, so there are two suites over the same answers:

`dpg@1` asks and counts everything. `dpg-official` counts as the script does:

* the first row of the questions is skipped; a prompt whose other questions depend on the skipped
  one cannot be scored and is left out (ELLA issue 61);
* categories are counted on the last of the four images only (issue 60), in both suites before the
  rule of parents;
* prompts with a failed image are left out instead of counting 0 (issue 56);
* the rule of parents is applied in the order of the rows, so a grandchild listed before its parent
  is not reached.

Both report the other's score and the difference. The script is dpg_bench/compute_dpg_bench.py of
TencentQQGYLab/ELLA (read at commit 025f650). Run by several processes, it also mixes categories up:
every process gathers them in the order of its own set. That fault is not repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.base import Interval
from evals.clustered import clustered_difference, clustered_mean
from evals.judges.base import Question
from evals.suites.answers import AnswerRow, Record, answers_of
from evals.suites.base import Suite
from selfe.text import first_line

NAME, OFFICIAL = "dpg@1", "dpg-official"
HOME = "github.com/TencentQQGYLab/ELLA, folder dpg_bench (Apache-2.0)"
PROMPTS = 1065
INSTRUCTION = "Answer yes or no."
YES = ("yes", "Yes", " yes", " Yes")
PERCENT = (0.0, 100.0)
CSV = "dpg_bench.csv"
_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")


class DpgRules:
    """`AnswerRules` of DPG-Bench.

    Args:
        official: count as the published script does.
    """

    headline = "score"

    def __init__(self, official: bool) -> None:
        self.official = official
        self.settings: Mapping[str, Any] = {
            "score": "mean over images of the share of questions answered yes, a question whose "
            "parent was answered no counting 0, x 100",
            "yes": "probability above 0.5",
            "instruction": INSTRUCTION,
            "faults of the published script": official,
        }

    def questions(self, record: Record) -> list[Question]:
        # the judge answers in lower case; a chat model may spell it otherwise
        return [Question(q["question"], YES, INSTRUCTION) for q in record["questions"]]

    def image_scores(
        self, records: Sequence[Record], rows: Sequence[AnswerRow]
    ) -> list[dict[str, float]]:
        """{} for an image that does not count."""
        out = _left_out(records, rows) if self.official else set()
        found = []
        for row in rows:
            record = records[row["prompt_id"]]
            share = None if row["prompt_id"] in out else self._share(record, row)
            found.append({} if share is None else {"score": 100 * share})
        return found

    def _share(self, record: Record, row: AnswerRow) -> float | None:
        asked, said = record["questions"], _said(self, record, row)
        if not self.official:
            return float(np.mean(with_parents(asked, said)))
        return official_share(asked, said)

    def scores(self, records: Sequence[Record], rows: Sequence[AnswerRow]) -> dict[str, Interval]:
        """ "score", "category/NAME", the other suite's score, and "official - dpg@1"."""
        ours, official = DpgRules(False), DpgRules(True)
        found = {"score": _mean(self.image_scores(records, rows), rows)}
        found |= self._categories(records, rows)
        other = ours if self.official else official
        name = NAME if self.official else OFFICIAL
        found[name] = _mean(other.image_scores(records, rows), rows)
        a, b = official.image_scores(records, rows), ours.image_scores(records, rows)
        both = [k for k, image in enumerate(a) if image]
        if len({rows[k]["prompt_id"] for k in both}) > 1:
            found["official - dpg@1, same images"] = clustered_difference(
                [a[k]["score"] for k in both],
                [b[k]["score"] for k in both],
                [rows[k]["prompt_id"] for k in both],
            ).interval
        return found

    def _categories(
        self, records: Sequence[Record], rows: Sequence[AnswerRow]
    ) -> dict[str, Interval]:
        """Share of yes by category and by its first part, before the rule of parents."""
        out = _left_out(records, rows) if self.official else set()
        last = {row["prompt_id"]: row["sample_id"] for row in _in_order(rows)}
        values: dict[str, tuple[list[float], list[int]]] = {}
        for row in rows:
            prompt = row["prompt_id"]
            if prompt in out or (self.official and last[prompt] != row["sample_id"]):
                continue
            record = records[prompt]
            said = _said(self, record, row)
            for question, yes in zip(record["questions"], said, strict=True):
                if self.official and question["row"] == 0:
                    continue
                detailed = str(question["tuple"]).split("(")[0].strip()
                for name in dict.fromkeys((detailed.split("-")[0].strip(), detailed)):
                    found, ids = values.setdefault(name, ([], []))
                    found.append(100.0 * yes)
                    ids.append(prompt)
        return {
            f"category/{name}": clustered_mean(found, ids, PERCENT)
            for name, (found, ids) in sorted(values.items())
        }

    def notes(self, records: Sequence[Record], rows: Sequence[AnswerRow]) -> list[str]:
        out = _left_out(records, rows)
        verb = "leaves" if self.official else "would leave"
        return [f"the published script {verb} out {len(out)} of the prompts"] * bool(out)


def _said(rules: DpgRules, record: Record, row: AnswerRow) -> list[bool]:
    return [answer > 0.5 for answer in answers_of(rules, record, row)]


def _mean(images: Sequence[Mapping[str, float]], rows: Sequence[AnswerRow]) -> Interval:
    kept = [k for k, image in enumerate(images) if image]
    if not kept:
        raise ValueError("the published script can score none of these prompts; use dpg@1")
    prompts = [rows[k]["prompt_id"] for k in kept]
    return clustered_mean([images[k]["score"] for k in kept], prompts, PERCENT)


def _in_order(rows: Sequence[AnswerRow]) -> list[AnswerRow]:
    return sorted(rows, key=lambda row: (row["prompt_id"], row["sample_id"]))


def with_parents(asked: Sequence[Mapping[str, Any]], said: Sequence[bool]) -> list[bool]:
    """Answers with every descendant of a no counted as no, whatever the order of the questions."""
    answers = {q["id"]: yes for q, yes in zip(asked, said, strict=True)}
    parents = {q["id"]: [p for p in q["parents"] if p] for q in asked}
    for _ in asked:  # a chain is no longer than there are questions
        answers = {i: yes and all(answers[p] for p in parents[i]) for i, yes in answers.items()}
    return [answers[q["id"]] for q in asked]


def official_share(asked: Sequence[Mapping[str, Any]], said: Sequence[bool]) -> float | None:
    """Share of yes as the published script counts it; None where it cannot.

    One pass in the order of the rows, the first row of the whole file missing; a later block of the
    same prompt replaces the earlier one.
    """
    rows = [q["row"] for q in asked]
    start = max((k for k in range(1, len(rows)) if rows[k] != rows[k - 1] + 1), default=0)
    kept = [(q, yes) for q, yes in zip(asked[start:], said[start:], strict=True) if q["row"] != 0]
    answers = {q["id"]: yes for q, yes in kept}
    if not answers:
        return None
    for question, _ in kept:
        for parent in question["parents"]:
            if parent and parent not in answers:
                return None
            if parent and not answers[parent]:
                answers[question["id"]] = False
                break
    return sum(answers.values()) / len(answers)


def _left_out(records: Sequence[Record], rows: Sequence[AnswerRow]) -> set[int]:
    """Prompts that the published script does not score."""
    rules, out = DpgRules(True), set()
    for row in rows:
        record = records[row["prompt_id"]]
        if (
            row.get("failed")
            or official_share(record["questions"], _said(rules, record, row)) is None
        ):
            out.add(row["prompt_id"])
    return out


def dpg_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`dpg@1`: everything asked and counted.

    Raises:
        ValueError: if a split is asked for, or the data are missing or not whole.
    """
    return _suite(NAME, split, prompts, DpgRules(False))


def dpg_official_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`dpg-official`: the same images and answers, counted as the published script does."""
    return _suite(OFFICIAL, split, prompts, DpgRules(True))


def _suite(name: str, split: str, prompts: str | Path | None, rules: DpgRules) -> Suite:
    if split:
        raise ValueError(f"{name} has no splits; leave out --split")
    if prompts is None:
        raise ValueError(
            f"{name} reads prompts and questions from your copy: give --prompts FOLDER (with "
            f"{CSV} and prompts/) or --prompts {CSV}; they are published at {HOME}"
        )
    records = read_records(prompts)
    if len(records) != PROMPTS:
        raise ValueError(
            f"{prompts} has {len(records)} prompts and DPG-Bench has {PROMPTS}: get the whole "
            f"folder from {HOME}; --limit scores a part"
        )
    return Suite(
        name,
        records,
        detector="",
        color_classifier="",
        judge="mplug",
        answers=rules,
        drawn_as=NAME,
    )


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records in the order of the questions file.

    Args:
        path: the folder `dpg_bench` (prompts/ITEM.txt beside the questions), or the questions file
            alone, whose column `text` then has the prompts.

    Raises:
        ValueError: if files or columns are missing, a row is malformed, or a question depends on
            one that is not asked; names the row.
    """
    path = Path(path)
    table = path / CSV if path.is_dir() else path
    if not table.is_file():
        raise ValueError(f"{table} does not exist; the questions are published at {HOME}")
    import pandas as pd  # lists of suites start without it

    try:
        frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # also of pandas's own kinds
        raise ValueError(
            f"{table} cannot be read ({first_line(error)}); get it from {HOME}"
        ) from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas shifts rows with a cell too many
        raise ValueError(f"{table} has rows of more cells than its header; get it from {HOME}")
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"{table} has no column {', '.join(missing)}; get it from {HOME}")
    items: dict[str, list[dict[str, Any]]] = {}
    texts: dict[str, str] = {}
    for number, row in enumerate(frame.to_dict("records")):
        place = f"{table}, row {number + 1} after the header"
        question = _question(row, number, place)
        if any(q["id"] == question["id"] for q in items.get(row["item_id"], ())):
            raise ValueError(f"{place}: a second question {question['id']} of {row['item_id']}")
        items.setdefault(row["item_id"], []).append(question)
        texts.setdefault(row["item_id"], row["text"].strip())
    records = []
    for item, asked in items.items():
        known = {q["id"] for q in asked}
        for question in asked:
            if not set(question["parents"]) <= known | {0}:
                raise ValueError(
                    f"{table}: question {question['id']} of {item} depends on one not asked"
                )
        prompt = _prompt(path, item) if path.is_dir() else texts[item]
        if not prompt:
            raise ValueError(f"{table}: item {item} has no prompt")
        records.append({"tag": "dpg", "item": item, "questions": asked, "prompt": prompt})
    if not records:
        raise ValueError(f"{table} holds no question")
    return records


def _question(row: Mapping[Any, str], number: int, place: str) -> dict[str, Any]:
    try:
        identity = int(row["proposition_id"])
        parents = [int(part) for part in row["dependency"].split(",")]
    except ValueError:
        raise ValueError(
            f"{place}: proposition_id must be a number and dependency numbers with commas"
        ) from None
    text = row["question_natural_language"].strip()
    if not row["item_id"] or not text:
        raise ValueError(f"{place}: item_id and question must not be empty")
    return {
        "id": identity,
        "parents": parents,
        "tuple": row["tuple"],
        "question": text,
        "row": number,
    }


def _prompt(folder: Path, item: str) -> str:
    path = folder / "prompts" / f"{item}.txt"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; get the whole folder from {HOME}")
    return path.read_text(encoding="utf-8").strip()


def cut_grid(grid: np.ndarray) -> list[np.ndarray]:
    """The four images of a 2 x 2 grid in the published order: rows first.

    Args:
        grid: (2 H, 2 W, 3) uint8.

    Raises:
        ValueError: if a side is odd.
    """
    height, width = grid.shape[0] // 2, grid.shape[1] // 2
    if grid.shape[0] % 2 or grid.shape[1] % 2:
        raise ValueError(f"a grid of four images has even sides, got {grid.shape[:2]}")
    return [grid[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
