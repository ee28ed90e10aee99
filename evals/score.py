"""Scoring a folder of images: detect, judge, and sum up. Survives a kill at any instant.

Detection runs in batches whose composition depends on the folder alone. Each finished batch is
appended to a working file and synced; a batch that is not there in full is done again as a whole.
The final detections.jsonl is therefore the same after any number of kills.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from evals.base import (
    ColorClassifier,
    Detection,
    Detector,
    ImageVerdict,
    Interval,
    Scores,
)
from evals.detections import (
    FAILED_REASON,
    FAILED_SIZE,
    PROVENANCE,
    Row,
    judge_rows,
    read_detections,
    records_digest,
    write_verdicts,
)
from evals.images import FoundImage, ImageFolder, read_image, scan_folder
from evals.results import DETECTIONS, VERDICTS
from evals.rules import DEFAULT_RULES, RuleSettings, check_record
from evals.stats import overall_interval, task_interval
from evals.verdicts import counts_by_task, prompt_counts, verdict_frame
from selfe.files import (
    append_lines,
    as_json_lines,
    drop_torn_tail,
    folder_lock,
    read_json_lines,
    write_atomically,
)

STORED_SCORE = 0.05
"""Detections above this score are stored, so that lower thresholds can be tried later."""
STORED_PER_IMAGE = 100


_WORK = ".detections-{}.work.jsonl"

Progress = Callable[[int, int], None]


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


@dataclass(frozen=True)
class _Judge:
    """The parts that look at pixels."""

    detector: Detector
    color_classifier: ColorClassifier
    max_objects: int
    color_every_class: bool


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
    folder = scan_folder(images_dir, records, images_per_prompt, limit, numbers)
    if folder.problems and not allow_partial:
        raise ValueError(_incomplete(images_dir, folder.problems))
    judge = _Judge(detector, color_classifier, settings.max_objects, color_every_class)

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
        f"{images_dir} is not the complete set, so it has no overall score ({shown}); mend it, or "
        "pass --allow-partial to score it marked as partial"
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


class _DetectionRun:
    """One process's share of detecting a folder, resumable batch by batch."""

    def __init__(
        self,
        out_dir: Path,
        folder: ImageFolder,
        records: Sequence[Mapping[str, Any]],
        judge: _Judge,
        batch_size: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.out_dir, self.folder, self.records, self.judge = out_dir, folder, records, judge
        self.batches = plan_batches(folder.images, batch_size)
        self.rank, self.world_size = rank, world_size
        self.work = out_dir / _WORK.format(rank)
        identity = {
            "detector": judge.detector.identity,
            "color_classifier": judge.color_classifier.identity,
            "records": records_digest(records),
            "batch_size": batch_size,
            "max_objects": judge.max_objects,
            "color_every_class": judge.color_every_class,
        }
        self.header = {"header": identity}
        images = [[i.prompt_id, i.sample_id, i.digest] for i in folder.images]
        digest = hashlib.sha256(as_json_lines(images).encode()).hexdigest()
        self.provenance = {**identity, "images": digest}

    def detect(self, progress: Progress) -> int:
        """Detect what this process must and nobody has; returns the number of images."""
        total = len(self.folder.images)
        if self._already_final():
            progress(total, total)
            return 0
        known = self._known_rows()
        drop_torn_tail(self.work)
        if not self._has_header(self.work):
            write_atomically(self.work, as_json_lines([self.header]))
        detected = done = 0
        for number, batch in enumerate(self.batches):
            if number % self.world_size == self.rank and not all(_key(i) in known for i in batch):
                append_lines(self.work, self._rows(batch))
                detected += len(batch)
            done += len(batch)
            progress(done, total)
        return detected

    def _rows(self, batch: Sequence[FoundImage]) -> list[Row]:
        images = [read_image(i.path) for i in batch if i.path is not None]
        found = [_stored(d) for d in self.judge.detector.detect(images)]
        asked = [
            _needing_color(detections, self.records[image.prompt_id], self.judge)
            for image, detections in zip(batch, found, strict=True)
        ]
        colors: list[dict[int, str]] = [{} for _ in batch]
        if any(asked):
            chosen = [[d[i] for i in places] for d, places in zip(found, asked, strict=True)]
            named = self.judge.color_classifier.classify(images, chosen)
            colors = [dict(zip(p, n, strict=True)) for p, n in zip(asked, named, strict=True)]
        return [
            {"digest": i.digest, **_as_row(i, [image.shape[1], image.shape[0]], detections, names)}
            for i, image, detections, names in zip(batch, images, found, colors, strict=True)
        ]

    def finish(self) -> list[Row]:
        """Write detections.jsonl from what all processes found, sorted; drop the working files."""
        path = self.out_dir / DETECTIONS
        if not self._already_final():
            known = self._known_rows()
            rows = []
            for image in self.folder.images:
                if image.path is None:
                    rows.append(_as_row(image, FAILED_SIZE, [], {}))
                else:
                    rows.append(known[_key(image)])
            # Without its provenance, the old one would vouch for the new file.
            (self.out_dir / PROVENANCE).unlink(missing_ok=True)
            content = as_json_lines(rows)
            write_atomically(path, content)
            vouched = {**self.provenance, "detections": _sha256(content.encode())}
            write_atomically(self.out_dir / PROVENANCE, json.dumps(vouched) + "\n")
        for work in self.out_dir.glob(_WORK.format("*")):
            work.unlink()
        return read_detections(path, len(self.records))

    def _already_final(self) -> bool:
        """True if detections.jsonl is what these very parts made from these very images."""
        try:
            vouched = json.loads((self.out_dir / PROVENANCE).read_text())
            found = _sha256((self.out_dir / DETECTIONS).read_bytes())
        except (OSError, ValueError):
            return False
        return vouched == {**self.provenance, "detections": found}

    def _has_header(self, work: Path) -> bool:
        if not work.is_file():
            return False
        first = next(read_json_lines(work), None)
        return first is not None and first[1] == self.header

    def _known_rows(self) -> dict[tuple[int, int, str], Row]:
        """Rows of all working files that these parts wrote. A later row of an image wins."""
        known = {}
        for work in sorted(self.out_dir.glob(_WORK.format("*"))):
            if self._has_header(work):
                for _, row in list(read_json_lines(work))[1:]:
                    digest = row.pop("digest")
                    known[(row["prompt_id"], row["sample_id"], digest)] = row
        return known


def plan_batches(images: Iterable[FoundImage], batch_size: int) -> list[list[FoundImage]]:
    """Images of one size together, in order, so many at a time; failed ones are left out."""
    drawn = sorted(
        (i for i in images if i.path is not None),
        key=lambda i: (i.size, i.prompt_id, i.sample_id),
    )
    batches = []
    for _, group in groupby(drawn, key=lambda i: i.size):
        same = list(group)
        batches += [same[k : k + batch_size] for k in range(0, len(same), batch_size)]
    return batches


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _key(image: FoundImage) -> tuple[int, int, str]:
    return (image.prompt_id, image.sample_id, image.digest)


def _stored(detections: Sequence[Detection]) -> list[Detection]:
    return [d for d in detections if d.score > STORED_SCORE][:STORED_PER_IMAGE]


def _needing_color(
    detections: Sequence[Detection], record: Mapping[str, Any], judge: _Judge
) -> list[int]:
    """Places of the detections whose colour a clause may ask for under some thresholds."""
    places = []
    clauses = [c for c in record["include"] if judge.color_every_class or "color" in c]
    for label in sorted({c["class"] for c in clauses}):
        mine = [i for i, d in enumerate(detections) if d.label == label]
        mine.sort(key=lambda i: (detections[i].score, i), reverse=True)
        places += mine[: judge.max_objects]
    return sorted(places)


def _as_row(
    image: FoundImage, size: list[int], detections: Sequence[Detection], colors: Mapping[int, str]
) -> Row:
    return {
        "prompt_id": image.prompt_id,
        "sample_id": image.sample_id,
        "size": list(size),
        "detections": [
            {
                "label": d.label,
                "box": [float(v) for v in d.box],
                "score": float(d.score),
                "color": colors.get(place),
            }
            for place, d in enumerate(detections)
        ],
    }
