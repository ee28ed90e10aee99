"""The contract of a suite that a judge scores: its questions, and its scores from their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from evals.base import Interval
from evals.judges.base import Question

Record = Mapping[str, Any]
AnswerRow = Mapping[str, Any]
"""A stored image: {"prompt_id", "sample_id", "answers": [probability, ...]}, or "failed"."""
FAILED = "failed"


class AnswerRules(Protocol):
    """The questions of a suite and its scores, in per cent.

    Attributes:
        headline: name of the score that tables show.
        settings: everything that decides the scores but the judge; recorded.
    """

    headline: str
    settings: Mapping[str, Any]

    def questions(self, record: Record) -> list[Question]:
        """What the judge is asked about each image of a prompt; never empty."""
        ...

    def scores(self, records: Sequence[Record], rows: Sequence[AnswerRow]) -> dict[str, Interval]:
        """Every score with its 95% interval, from the stored answers of all images."""
        ...

    def image_scores(
        self, records: Sequence[Record], rows: Sequence[AnswerRow]
    ) -> list[dict[str, float]]:
        """The scores of each image by itself, in the order of the rows."""
        ...

    def notes(self, records: Sequence[Record], rows: Sequence[AnswerRow]) -> list[str]:
        """What a reader of the scores must know, a sentence each."""
        ...


def answers_of(rules: AnswerRules, record: Record, row: AnswerRow) -> list[float]:
    """The probabilities of one image; zeros for an image that was not finite.

    Raises:
        ValueError: if the row has not as many probabilities as the record has questions.
    """
    expected = len(rules.questions(record))
    if row.get(FAILED):
        return [0.0] * expected
    found = row.get("answers")
    place = f"the answers of prompt {row['prompt_id']}, sample {row['sample_id']}"
    if not isinstance(found, list) or len(found) != expected:
        raise ValueError(f"{place} are not those of its {expected} questions")
    for value in found:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{place} must be probabilities from 0 to 1, got {value!r}")
    return [float(value) for value in found]
