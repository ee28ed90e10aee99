"""Verdicts of images: reading them, counting them by task, pairing them over prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_IMAGE = ["prompt_id", "sample_id", "tag"]

Counts = Mapping[str, PromptCounts]
"""Of one result, by task."""


def overall_difference(a: pd.DataFrame, b: pd.DataFrame) -> Difference:
    """Overall score of `a` minus that of `b`.

    Args:
        a, b: frames of `verdict_frame`, over the same images.

    Raises:
        ValueError: if the two do not hold the same prompts and samples.
    """
    if not a[_IMAGE].equals(b[_IMAGE]):
        raise ValueError("differences are paired over prompts: both results need the same images")
    return difference_of_counts(counts_by_task(a), counts_by_task(b))


def difference_of_counts(a: Counts, b: Counts, test: bool = True) -> Difference:
    """`a` minus `b`, over the same prompts; `test` is of `evals.stats.paired_difference`."""
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
    """Verdicts sorted by image; columns prompt_id, sample_id, tag, correct."""
    import pandas as pd  # commands that only read verdicts start without it

    rows = [(v.prompt_id, v.sample_id, v.tag, v.correct) for v in verdicts]
    frame = pd.DataFrame(rows, columns=[*_IMAGE, "correct"])
    return frame.sort_values(["prompt_id", "sample_id"], ignore_index=True)


def counts_by_task(verdicts: pd.DataFrame) -> dict[str, PromptCounts]:
    """Correct images by prompt of every task present: GenEval's six in its order, then others.

    Args:
        verdicts: a frame of `verdict_frame`.
    """
    prompts, correct = (verdicts[name].to_numpy() for name in ("prompt_id", "correct"))
    import pandas as pd

    codes, tags = pd.factorize(verdicts["tag"])
    present = [str(tag) for tag in tags]
    ordered = [t for t in TASKS if t in present] + sorted(set(present) - set(TASKS))
    parts = {tag: codes == present.index(tag) for tag in ordered}
    return {tag: count_by_prompt(prompts[here], correct[here]) for tag, here in parts.items()}


def prompt_counts(verdicts: pd.DataFrame) -> PromptCounts:
    """Correct images by prompt, whatever the task."""
    return count_by_prompt(verdicts["prompt_id"], verdicts["correct"])
