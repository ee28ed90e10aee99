"""Scoring a folder of images: detect, judge, and sum up. Survives a kill at any instant.

Detection runs in batches whose composition depends on the folder alone. Each finished batch is
appended to a working file and synced; a batch that is not there in full is done again as a whole.
The final detections.jsonl is therefore the same after any number of kills.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.base import ImageVerdict, Interval, Scores
from evals.images import ImageFolder
from evals.results import VERDICTS
from evals.scoring.detect import DetectionParts, DetectionRun, Progress
from evals.scoring.detections import FAILED_REASON, judge_rows, write_verdicts
from evals.scoring.processes import ALONE, Processes
from evals.stats import overall_interval, task_interval
from evals.suites.rules import DEFAULT_RULES, check_record
from evals.verdicts import counts_by_task, prompt_counts
from selfe.files import folder_lock


@dataclass(frozen=True)
class ScoredFolder:
    """What scoring found.

    Attributes:
        scores: of tasks, groups and overall.
        verdicts: by prompt and sample.
        problems: what is wrong with the set, one sentence each.
        detected: images on which the detector ran now (not those found done).
    """

    scores: Scores
    verdicts: list[ImageVerdict]
    problems: list[str]
    detected: int


def score_folder(
    folder: ImageFolder,
    records: Sequence[Mapping[str, Any]],
    parts: DetectionParts,
    out_dir: str | Path,
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    allow_partial: bool = False,
    batch_size: int = 16,
    progress: Progress = lambda done, total: None,
    lock: bool = True,
    processes: Processes = ALONE,
) -> ScoredFolder | None:
    """Score images in GenEval's layout; write detections.jsonl and images.jsonl to `out_dir`.

    Args:
        folder: of `scan_folder`; `out_dir` may be the same folder.
        records: the suite's, with which the folder was scanned.
        groups: further subsets with a score each, name -> prompt_ids.
        allow_partial: score an incomplete or over-complete set, marked as partial.
        batch_size: images that are detected between two saves.
        lock: hold the lock on `out_dir`; False where the caller holds it.
        processes: batch k is detected by process k mod world_size; process 0 judges.

    Returns:
        The scores on process 0, None on the others.

    Raises:
        ValueError: if a record is malformed, the set is not complete (see `allow_partial`), an
            image is corrupt, or another process works on `out_dir`.
    """
    for number, record in enumerate(records):
        try:
            check_record(record)
        except ValueError as error:
            raise ValueError(f"record {number}: {error}") from None
    if folder.problems and not allow_partial:
        raise ValueError(_incomplete(folder))
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with folder_lock(out_dir, processes.lock_name) if lock else contextlib.nullcontext():
        run = DetectionRun(out_dir, folder, records, parts, batch_size, processes)
        detected = run.detect(progress)
        processes.wait()
        if processes.rank != 0:
            return None
        verdicts = judge_rows(records, run.finish(), DEFAULT_RULES)
        write_verdicts(out_dir / VERDICTS, verdicts)
    partial = bool(folder.problems)
    scores = summarize(verdicts, groups, partial=partial, allow_partial=allow_partial)
    return ScoredFolder(scores, verdicts, folder.problems, detected)


def _incomplete(folder: ImageFolder) -> str:
    problems = folder.problems
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if problems[5:] else "")
    return (
        f"{folder.path} is not the complete set, so it has no overall score ({shown}): complete "
        "it, or pass --allow-partial to score it marked as partial"
    )


def summarize(
    verdicts: Sequence[ImageVerdict],
    groups: Mapping[str, Sequence[int]] | None = None,
    *,
    partial: bool = False,
    allow_partial: bool = False,
) -> Scores:
    """Intervals of every task, every group and the overall score from verdicts.

    Raises:
        ValueError: if there are no verdicts at all.
    """
    if not verdicts:
        raise ValueError("no image to score")
    tasks = counts_by_task(verdicts)
    cuts: dict[str, Interval] = {}
    for name, prompt_ids in (groups or {}).items():
        members = set(prompt_ids)
        chosen = [v for v in verdicts if v.prompt_id in members]
        if chosen:
            cuts[name] = task_interval(prompt_counts(chosen))
    return Scores(
        overall=overall_interval(tasks) if allow_partial or not partial else None,
        tasks={tag: task_interval(counts) for tag, counts in tasks.items()},
        groups=cuts,
        num_images=len(verdicts),
        num_failed=sum(v.reason == FAILED_REASON for v in verdicts),
        partial=partial,
    )
