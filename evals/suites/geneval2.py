"""GenEval 2: 800 prompts of 3 to 10 atoms, 6,012 questions, Soft-TIFA (arXiv 2512.16853).

The data are licensed CC BY-NC 4.0 and read from the user's copy. A question is answered by the
probability of its answer; the scores of a prompt are the arithmetic mean over its questions (AM,
for atoms) and the geometric mean (GM, for prompts), which is 0 where one answer is. One image a
prompt is official; with more, every image is scored by itself and intervals cluster by prompt.

Where the facts come from: the file, the two means and the judge's transformers 4.57 are in
README.md of facebookresearch/GenEval2 (commit c088ab7). Its evaluation.py was not at hand from that
repository itself. A copy that bears Meta's header was read in a public index, which does not name
its repository, and a changed one in Yiran-SUSTech/GenEval2-Yiran (539b1c5). Programs of others that
say they follow it ask the same questions and accept the same spellings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.base import Interval
from evals.clustered import clustered_mean
from evals.judges.base import Question
from evals.suites.answers import AnswerRow, Record, answers_of
from evals.suites.base import Suite
from selfe.files import file_sha256
from selfe.json_files import read_json_lines

NAME = "geneval2@1"
HOME = "github.com/facebookresearch/GenEval2, geneval2_data.jsonl (CC BY-NC 4.0)"
SHA256 = ("09233adb", "8a928e43")
"""First and last characters of the published file's sha256."""
INSTRUCTION = "Answer in one word."
PERCENT = (0.0, 100.0)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def accepted_spellings(answer: str) -> tuple[str, ...]:
    """Spellings whose first tokens count for an answer: lower case and capitalised, each with and
    without a space before; for a number also its digits.

    These are the lists of evaluation.py (see above), which takes the number's for a question that
    begins "How many" and that of "Yes" for all others; in the published file that is the same. It
    adds up the first token of every spelling; of " 4" that is a space by itself, with Qwen's words.
    """
    word = answer.strip().lower()
    forms = [word, word.capitalize()]
    if word in _NUMBERS:
        forms.append(str(_NUMBERS.index(word)))
    elif word.isdigit() and int(word) < len(_NUMBERS):
        named = _NUMBERS[int(word)]
        forms += [named, named.capitalize()]
    return tuple(dict.fromkeys([*forms, *[f" {form}" for form in forms]]))


def geometric_mean(values: Sequence[float]) -> float:
    """0 where any value is 0."""
    if min(values) <= 0:
        return 0.0
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


class SoftTifa:
    """`AnswerRules` of GenEval 2."""

    headline = "gm"
    settings: Mapping[str, Any] = {
        "score": "Soft-TIFA: mean over images of the geometric (gm) and arithmetic (am) mean of "
        "the answers' probabilities, x 100",
        "instruction": INSTRUCTION,
    }

    def questions(self, record: Record) -> list[Question]:
        return [
            Question(text, accepted_spellings(answer), INSTRUCTION)
            for text, answer in record["vqa_list"]
        ]

    def image_scores(
        self, records: Sequence[Record], rows: Sequence[AnswerRow]
    ) -> list[dict[str, float]]:
        found = []
        for row in rows:
            answers = answers_of(self, records[row["prompt_id"]], row)
            arithmetic = math.fsum(answers) / len(answers)
            found.append({"am": 100 * arithmetic, "gm": 100 * geometric_mean(answers)})
        return found

    def scores(self, records: Sequence[Record], rows: Sequence[AnswerRow]) -> dict[str, Interval]:
        """ "gm" and "am" of all images, "gm/atoms N" by atomicity, "am/SKILL" over questions."""
        images = self.image_scores(records, rows)
        prompts = [row["prompt_id"] for row in rows]
        found = {
            kind: clustered_mean([image[kind] for image in images], prompts, PERCENT)
            for kind in ("gm", "am")
        }
        for atoms in sorted({records[p]["atom_count"] for p in prompts}):
            mine = [k for k, p in enumerate(prompts) if records[p]["atom_count"] == atoms]
            found[f"gm/atoms {atoms}"] = clustered_mean(
                [images[k]["gm"] for k in mine], [prompts[k] for k in mine], PERCENT
            )
        by_skill: dict[str, tuple[list[float], list[int]]] = {}
        for row in rows:
            record = records[row["prompt_id"]]
            for skill, answer in zip(record["skills"], answers_of(self, record, row), strict=True):
                values, ids = by_skill.setdefault(skill, ([], []))
                values.append(100 * answer)
                ids.append(row["prompt_id"])
        for skill, (values, ids) in sorted(by_skill.items()):
            found[f"am/{skill}"] = clustered_mean(values, ids, PERCENT)
        return found

    def notes(self, records: Sequence[Record], rows: Sequence[AnswerRow]) -> list[str]:
        zeros = sum(
            min(answers_of(self, records[row["prompt_id"]], row)) <= 0
            for row in rows
            if not row.get("failed")
        )
        return [
            f"{zeros} of {len(rows)} images have an answer of probability 0, hence GM 0"
        ] * bool(zeros)


def geneval2_suite(split: str = "", prompts: str | Path | None = None) -> Suite:
    """`geneval2@1`: the user's copy of the published prompts and questions.

    Raises:
        ValueError: if a split is asked for, or the file is missing or is not the published one.
    """
    if split:
        raise ValueError(f"{NAME} has no splits; leave out --split")
    if prompts is None:
        raise ValueError(
            f"{NAME} reads its prompts from your copy, because their licence forbids "
            "commercial use: "
            f"give it with --prompts FILE; it is published at {HOME}"
        )
    path = Path(prompts)
    if not path.is_file():
        raise ValueError(f"{path} is no file; the prompts of {NAME} are published at {HOME}")
    found = file_sha256(path)
    if not (found.startswith(SHA256[0]) and found.endswith(SHA256[1])):
        raise ValueError(
            f"{path} is not the published file of {NAME}: its sha256 is {found[:8]}...{found[-8:]} "
            f"and should be {SHA256[0]}...{SHA256[1]}; get it again from {HOME}"
        )
    return Suite(
        NAME,
        read_records(path),
        detector="",
        color_classifier="",
        judge="qwen3-vl-8b",
        answers=SoftTifa(),
    )


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records in the order of the file; "tag" is their atomicity.

    Raises:
        ValueError: if a line is no record of GenEval 2, or the file is empty; names the line.
    """
    records = []
    for number, row in read_json_lines(path):
        fault = _fault(row)
        if fault:
            raise ValueError(f"{path}, line {number}: {fault}")
        kept = {key: row[key] for key in ("atom_count", "vqa_list", "skills", "prompt")}
        records.append({"tag": f"atoms {row['atom_count']}", **kept})
    if not records:
        raise ValueError(f"{path} holds no prompt")
    return records


def _fault(row: Any) -> str:
    if not isinstance(row, dict):
        return "not a JSON object"
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        return "prompt must be text"
    if type(row.get("atom_count")) is not int:
        return "atom_count must be a whole number"
    pairs, skills = row.get("vqa_list"), row.get("skills")
    texts = isinstance(pairs, list) and all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) and t.strip() for t in p)
        for p in pairs
    )
    if not texts or not pairs:
        return "vqa_list must hold pairs of question and answer"
    if not isinstance(skills, list) or len(skills) != len(pairs):
        return f"skills must name one skill for each of the {len(pairs)} questions"
    return ""
