"""Scoring a folder of images: detect, judge, and sum up. Survives a kill at any instant.

Detection runs in batches whose composition depends on the folder alone. Each finished batch is
appended to a working file and synced; a batch that is not there in full is done again as a whole.
The final detections.jsonl is therefore the same after any number of kills.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.base import (
    ColorClassifier,
    Detector,
    ImageVerdict,
    Interval,
    Scores,
)
from evals.images import scan_folder
from evals.results import VERDICTS
from evals.scoring.detect import STORED_SCORE, DetectionParts, Progress, _DetectionRun
from evals.scoring.detections import (
    FAILED_REASON,
    judge_rows,
    write_verdicts,
)
from evals.stats import overall_interval, task_interval
from evals.suites.rules import DEFAULT_RULES, RuleSettings, check_record
from evals.verdicts import counts_by_task, prompt_counts, verdict_frame
from selfe.files import (
    folder_lock,
)


@dataclass(frozen=True)
class ScoredFolder:
    """What scoring found.

    Attributes:
        scores: with `overall` None where the set is a part and partial scores were not allowed.
        verdicts: by prompt and sample.
        problems: what is amiss with the set, one sentence each.
        detected: images on which the detector ran now (not those found done).
    """

    scores: Scores
    verdicts: list[ImageVerdict]
    problems: list[str]
    detected: int


def score_folder(
    images_dir: str | Path,
    records: Sequence[Mapping[str, Any]],
    detector: Detector,
    color_classifier: ColorClassifier,
    out_dir: str | Path,
    *,
    settings: RuleSettings = DEFAULT_RULES,
    images_per_prompt: int = 4,
    groups: Mapping[str, Sequence[int]] | None = None,
    allow_partial: bool = False,
    limit: int | None = None,
    color_every_class: bool = False,
    batch_size: int = 16,
    progress: Progress = lambda done, total: None,
    lock: bool = True,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], None] = lambda: None,
    numbers: Sequence[int] | None = None,
    image_set: str | None = None,
) -> ScoredFolder | None:
    """Score images in GenEval's layout; write detections.jsonl and images.jsonl to `out_dir`.

    Args:
        images_dir: may be `out_dir` itself.
        records: the suite's; a prompt's folder number is its place, or stands in `numbers`.
        groups: further cuts, name -> prompt_ids.
        allow_partial: score an incomplete or over-complete set, marked as partial.
        limit: only the first so many prompts; such a set is partial, without an overall score
            unless `allow_partial`.
        color_every_class: classify colours of every class a record names, not only where a clause
            asks for one; the diversity statistic needs it.
        lock: hold the lock on `out_dir`; False where the caller holds it.
        rank, world_size: batch k is detected by process k mod world_size.
        barrier: returns once every process has called it.
        numbers, image_set: see `scan_folder`.

    Returns:
        The scores on rank 0, None on the others.

    Raises:
        ValueError: if the set is not complete (see `allow_partial`), metadata does not fit the
            suite, an image is corrupt, or another process works on `out_dir`.
    """
    if min(settings.threshold, settings.counting_threshold) < STORED_SCORE:
        raise ValueError(f"score thresholds start at {STORED_SCORE}, where detections are stored")
    for number, record in enumerate(records):
        try:
            check_record(record)
        except ValueError as error:
            raise ValueError(f"record {number}: {error}") from None
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    folder = scan_folder(images_dir, records, images_per_prompt, limit, numbers, image_set)
    if folder.problems and not allow_partial:
        raise ValueError(_incomplete(images_dir, folder.problems))
    judge = DetectionParts(detector, color_classifier, settings.max_objects, color_every_class)

    def run() -> ScoredFolder | None:
        work = _DetectionRun(out_dir, folder, records, judge, batch_size, rank, world_size)
        detected = work.detect(progress)
        barrier()
        if rank != 0:
            return None
        verdicts = judge_rows(records, work.finish(), settings)
        write_verdicts(out_dir / VERDICTS, verdicts)
        partial = bool(folder.problems) or (limit is not None and limit < len(records))
        scores = summarize(verdicts, groups, partial=partial, allow_partial=allow_partial)
        return ScoredFolder(scores, verdicts, folder.problems, detected)

    if not lock:
        return run()
    with folder_lock(out_dir, ".lock" if rank == 0 else f".lock-{rank}"):
        return run()


def _incomplete(images_dir: str | Path, problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if problems[5:] else "")
    return (
        f"{images_dir} is not the complete set, so it has no overall score ({shown}): complete it, "
        "or pass --allow-partial to score it marked as partial"
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
    frame = verdict_frame(verdicts)
    tasks = counts_by_task(frame)
    cuts: dict[str, Interval] = {}
    for name, prompt_ids in (groups or {}).items():
        members = set(prompt_ids)
        chosen = frame[frame["prompt_id"].isin(members)]
        if len(chosen):
            cuts[name] = task_interval(prompt_counts(chosen))
    return Scores(
        overall=overall_interval(tasks) if allow_partial or not partial else None,
        tasks={tag: task_interval(counts) for tag, counts in tasks.items()},
        groups=cuts,
        num_images=len(verdicts),
        num_failed=sum(v.reason == FAILED_REASON for v in verdicts),
        partial=partial,
    )
