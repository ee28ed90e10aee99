"""A suite: the records of a benchmark, and what scores them unless the user says otherwise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.suites.answers import AnswerRules


@dataclass(frozen=True)
class Suite:
    """One benchmark, one split.

    Attributes:
        name: with its version, "geneval@1".
        records: GenEval records; their place is their prompt_id.
        detector, color_classifier: names in `evals.registry`.
        detector_options: what the detector's factory needs besides the device.
        split: "" for the whole suite, else "validation" or "heldout".
        images_per_prompt: the number the protocol asks for.
        groups: further cuts, name -> prompt_ids.
        world_preset: preset of the shapes world, "" elsewhere. Where there is one, its nuisance
            factors are known and diversity is measured.
        judge: name in `evals.registry` of the judge that answers questions, "" where a detector
            scores; then `answers` has the questions and what their answers add up to.
        drawn_as: name of the suite whose images these are, where two suites ask for the same.
    """

    name: str
    records: Sequence[dict[str, Any]]
    detector: str
    color_classifier: str
    detector_options: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    images_per_prompt: int = 4
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    world_preset: str = ""
    judge: str = ""
    judge_options: Mapping[str, Any] = field(default_factory=dict)
    answers: AnswerRules | None = None
    drawn_as: str = ""

    @property
    def prompts_sha256(self) -> str:
        return records_sha256(self.records)


def records_as_jsonl(records: Sequence[Mapping[str, Any]]) -> str:
    """One record a line, each line ended: the form in which record lists are hashed and printed."""
    return "".join(json.dumps(record) + "\n" for record in records)


def records_sha256(records: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(records_as_jsonl(records).encode()).hexdigest()
