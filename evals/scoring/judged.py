"""Scoring a folder of images by a judge: ask, keep every answer, sum up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evals.base import Interval
from evals.images import FoundImage, ImageFolder
from evals.judges.base import VisualJudge
from evals.scoring.stored_rows import Progress, Row, StoredRows, read_rows
from evals.suites.answers import AnswerRules, answers_of
from evals.suites.base import Suite, records_sha256
from selfe.files import as_json_lines, write_atomically

IMAGES_PER_SAVE = 4
"""Images asked about between two saves; each has half a dozen questions or more."""


@dataclass(frozen=True)
class JudgedFolder:
    """What judging found.

    Attributes:
        rows: stored answers, in the order of the folder.
        values: every score with its interval.
        notes: what a reader of the scores must know.
        asked: images whose questions were answered now (not those found done).
    """

    rows: list[Row]
    values: dict[str, Interval]
    notes: list[str]
    asked: int


def answers_identity(suite: Suite, judge: VisualJudge) -> dict[str, object]:
    """Everything that decides an answer but the image."""
    assert suite.answers is not None
    questions = [
        [[q.text, q.instruction, list(q.accepted)] for q in suite.answers.questions(record)]
        for record in suite.records
    ]
    return {
        "judge": judge.identity,
        "judge_settings": dict(judge.settings),
        "questions": records_sha256([{"questions": asked} for asked in questions]),
    }


def ask_about(
    folder: ImageFolder,
    suite: Suite,
    judge: VisualJudge,
    path: Path,
    *,
    batch_size: int = IMAGES_PER_SAVE,
    rank: int = 0,
    world_size: int = 1,
) -> StoredRows:
    """The stored answers of a folder; `StoredRows.look` with `look_of` fills them."""
    identity = answers_identity(suite, judge)
    return StoredRows(path, identity, folder.images, batch_size, rank, world_size)


def judge_folder(
    folder: ImageFolder,
    suite: Suite,
    judge: VisualJudge,
    path: Path,
    *,
    batch_size: int = IMAGES_PER_SAVE,
    progress: Progress = lambda done, total: None,
) -> JudgedFolder:
    """Ask a judge about every image, keep the answers in `path`, and sum them up.

    Args:
        folder: the images, complete or not (the caller decides).
        suite: with `answers`.
        path: "NAME.jsonl", answers a line per image; what is there is not asked again.
        batch_size: images between two saves.

    Raises:
        ValueError: if the folder holds no image.
    """
    rules = suite.answers
    assert rules is not None
    if not folder.images:
        raise ValueError("no image to judge")
    stored = ask_about(folder, suite, judge, path, batch_size=batch_size)

    def look(
        found: Sequence[FoundImage], pixels: Sequence[np.ndarray]
    ) -> list[Mapping[str, object]]:
        asked = [rules.questions(suite.records[image.prompt_id]) for image in found]
        return [{"answers": answers} for answers in judge.ask(pixels, asked)]

    asked = stored.look(look, progress)
    rows = stored.finish()
    return JudgedFolder(
        rows, rules.scores(suite.records, rows), rules.notes(suite.records, rows), asked
    )


def rescore_answers(suite: Suite, answers: str | Path, out: str | Path) -> dict[str, Interval]:
    """Sum up stored answers again, without a judge; write a line of scores per image.

    Args:
        suite: with `answers`; of the same questions as the stored ones.
        answers: file of stored answers.
        out: file of scores, written atomically.

    Returns:
        Every score with its interval.

    Raises:
        ValueError: if the suite has no questions, the answers are of other prompts or not
            complete, or `out` is the file of answers.
    """
    rules = suite.answers
    if rules is None:
        raise ValueError(f"{suite.name} is scored by a detector: give --detections, not --answers")
    if Path(out).resolve() == Path(answers).resolve():
        raise ValueError(f"--out {out} is the file of answers itself: scores need another one")
    rows = read_rows(answers)
    _check_complete(suite, rules, rows, answers)
    scores = rules.image_scores(suite.records, rows)
    lines = [
        {"prompt_id": row["prompt_id"], "sample_id": row["sample_id"], **score}
        for row, score in zip(rows, scores, strict=True)
    ]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, as_json_lines(lines))
    return rules.scores(suite.records, rows)


def _check_complete(
    suite: Suite, rules: AnswerRules, rows: Sequence[Row], answers: str | Path
) -> None:
    images: dict[int, int] = {}
    for row in rows:
        prompt = row["prompt_id"]
        if prompt >= len(suite.records):
            raise ValueError(
                f"{answers} has prompt {prompt}, but the suite has {len(suite.records)} prompts"
            )
        answers_of(rules, suite.records[prompt], row)
        images[prompt] = images.get(prompt, 0) + 1
    if len(images) != len(suite.records) or len(set(images.values())) != 1:
        raise ValueError(
            f"{answers} is not complete: it has images of {len(images)} of {len(suite.records)} "
            "prompts, or not equally many of each; give the prompts and --limit it was made with"
        )
