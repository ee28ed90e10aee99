"""Verdicts of images: reading them, counting them by task, pairing them over prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from evals.base import TASKS, ImageVerdict
from evals.results import VERDICTS
from evals.stats import (
    Difference,
    PairedCounts,
    PromptCounts,
    count_by_prompt,
    paired_difference,
)
from selfe.json_files import read_json_lines

if TYPE_CHECKING:
    import pandas as pd

Counts = Mapping[str, PromptCounts]
"""Of one result, by task."""


def difference_of_counts(a: Counts, b: Counts, test: bool = True) -> Difference:
    """`a` minus `b`, over the same prompts; `test` is of `evals.stats.paired_difference`.

    Raises:
        ValueError: if they are not of the same tasks, or of prompts with as many images.
    """
    if a.keys() != b.keys():
        only = ", ".join(sorted(a.keys() ^ b.keys()))
        raise ValueError(f"results of different tasks have no difference: only one has {only}")
    return paired_difference({task: PairedCounts(a[task], b[task]) for task in a}, test=test)


def together(trainings: Sequence[Counts]) -> Counts:
    """Several trainings as one model that drew each prompt more often."""
    return {
        task: PromptCounts(
            np.sum([counts[task].correct for counts in trainings], axis=0),
            np.sum([counts[task].images for counts in trainings], axis=0),
        )
        for task in trainings[0]
    }


def read_verdicts(path: str | Path) -> list[ImageVerdict]:
    """images.jsonl of a result folder, or the file itself; a torn last line is dropped.

    Raises:
        ValueError: if it is missing, a line is no verdict, or an image occurs twice; names the
            line.
    """
    path = Path(path)
    if path.is_dir():
        path = path / VERDICTS
    verdicts: list[ImageVerdict] = []
    seen: set[tuple[int, int]] = set()
    for number, row in read_json_lines(path):
        try:
            verdict = ImageVerdict.model_validate(row)
        except ValidationError as error:
            raise ValueError(f"{path}, line {number}: {error.errors()[0]['msg']}") from None
        key = (verdict.prompt_id, verdict.sample_id)
        if key in seen:
            raise ValueError(f"{path}, line {number}: image {key} occurs twice")
        seen.add(key)
        verdicts.append(verdict)
    return verdicts


def differing_verdicts(folder: Path, own: Path) -> str:
    """How many verdicts differ between a result and that of the suite's own detector and colours,
    in words; "" where the latter has not been made."""
    if not (own / VERDICTS).is_file():
        return ""
    theirs = {(v.prompt_id, v.sample_id): v.correct for v in read_verdicts(own)}
    found = [v for v in read_verdicts(folder) if (v.prompt_id, v.sample_id) in theirs]
    changed = sum(v.correct != theirs[v.prompt_id, v.sample_id] for v in found)
    return f"{changed} of {len(found)} verdicts differ from those of the suite's own ({own})"


def verdict_frame(verdicts: Sequence[ImageVerdict]) -> pd.DataFrame:
    """Verdicts sorted by image; columns prompt_id, sample_id, tag, correct, reason."""
    import pandas as pd  # commands that only read verdicts start without it

    ordered = sorted(verdicts, key=lambda v: (v.prompt_id, v.sample_id))
    return pd.DataFrame({
        "prompt_id": np.array([v.prompt_id for v in ordered], dtype=np.int64),
        "sample_id": np.array([v.sample_id for v in ordered], dtype=np.int64),
        "tag": [v.tag for v in ordered],
        "correct": np.array([v.correct for v in ordered], dtype=bool),
        "reason": [v.reason for v in ordered],
    })  # fmt: skip


def counts_by_task(verdicts: Iterable[ImageVerdict]) -> dict[str, PromptCounts]:
    """Correct images by prompt of every task present: GenEval's six in its order, then others."""
    by_task: dict[str, list[ImageVerdict]] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict.tag, []).append(verdict)
    ordered = [t for t in TASKS if t in by_task] + sorted(set(by_task) - set(TASKS))
    return {tag: prompt_counts(by_task[tag]) for tag in ordered}


def prompt_counts(verdicts: Sequence[ImageVerdict]) -> PromptCounts:
    """Correct images by prompt, whatever the task; prompts in rising order."""
    return count_by_prompt([v.prompt_id for v in verdicts], [v.correct for v in verdicts])
