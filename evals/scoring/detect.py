"""Detects and judges a folder of images; stores every answer, so that a killed run continues."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from evals.base import ColorClassifier, Detection, Detector
from evals.images import FoundImage, ImageFolder, read_image
from evals.results import DETECTIONS
from evals.scoring.detections import (
    FAILED_SIZE,
    PROVENANCE,
    Row,
    read_detections,
    records_digest,
)
from evals.scoring.processes import Processes
from evals.scoring.work_file import WorkFile, sound_rows
from evals.suites.rules import DEFAULT_RULES
from selfe.files import as_json_lines, file_sha256, write_atomically
from selfe.sealed_files import read_sealed, seal

STORED_SCORE = 0.05
"""Detections above this score are stored, so that lower thresholds can be tried later."""
STORED_PER_IMAGE = 100
_WORK = ".detections-{}.work.jsonl"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DetectionParts:
    """The parts that look at pixels.

    Attributes:
        color_every_class: classify colours of every class a record names, not only where a clause
            asks for one; the diversity statistic needs it.
        max_objects: of one class in one image whose colours are classified.
    """

    detector: Detector
    color_classifier: ColorClassifier
    color_every_class: bool = False
    max_objects: int = DEFAULT_RULES.max_objects


class DetectionRun:
    """One process's share of detecting a folder, resumable batch by batch."""

    def __init__(
        self,
        out_dir: Path,
        folder: ImageFolder,
        records: Sequence[Mapping[str, Any]],
        parts: DetectionParts,
        batch_size: int,
        processes: Processes,
    ) -> None:
        self.out_dir, self.folder, self.records, self.parts = out_dir, folder, records, parts
        self.batches = plan_batches(folder.images, batch_size)
        self.processes = processes
        self.work = out_dir / _WORK.format(processes.rank)
        identity = {
            "detector": parts.detector.identity,
            "color_classifier": parts.color_classifier.identity,
            "records": records_digest(records),
            "batch_size": batch_size,
            "max_objects": parts.max_objects,
            "color_every_class": parts.color_every_class,
        }
        self.identity = identity
        images = [[i.prompt_id, i.sample_id, i.digest] for i in folder.images]
        digest = hashlib.sha256(as_json_lines(images).encode()).hexdigest()
        self.provenance = {**identity, "images": digest}

    def detect(self, progress: Progress) -> int:
        """Detect this process's share of what is not done yet; returns the number of images."""
        total = len(self.folder.images)
        if self._already_final():
            progress(total, total)
            return 0
        known = self._known_rows()
        work = WorkFile(self.work, self.identity)
        detected = done = 0
        for number, batch in enumerate(self.batches):
            mine = number % self.processes.world_size == self.processes.rank
            if mine and not all(_key(i) in known for i in batch):
                work.append(self._rows(batch))
                detected += len(batch)
            done += len(batch)
            progress(done, total)
        return detected

    def _rows(self, batch: Sequence[FoundImage]) -> list[Row]:
        images = [read_image(i.path) for i in batch if i.path is not None]
        records = [self.records[image.prompt_id] for image in batch]
        try:
            found, colors = find_and_color(images, records, self.parts)
        except ValueError as error:  # all are of one size
            raise ValueError(f"{batch[0].path}: {error}") from None
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
            write_atomically(self.out_dir / PROVENANCE, seal("detections", vouched, indent=None))
        for work in self.out_dir.glob(_WORK.format("*")):
            work.unlink()
        return read_detections(path, len(self.records))

    def _already_final(self) -> bool:
        """True if detections.jsonl is what these very parts made from these very images."""
        try:
            vouched = read_sealed(self.out_dir / PROVENANCE, dict[str, Any], "detections")
            found = file_sha256(self.out_dir / DETECTIONS)
        except (OSError, ValueError):
            return False
        return vouched == {**self.provenance, "detections": found}

    def _known_rows(self) -> dict[tuple[int, int, str], Row]:
        """Rows of all working files that these parts wrote. A later row of an image wins."""
        known = {}
        for work in sorted(self.out_dir.glob(_WORK.format("*"))):
            for row in sound_rows(work, self.identity):
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


def find_and_color(
    images: Sequence[np.ndarray], records: Sequence[Mapping[str, Any]], parts: DetectionParts
) -> tuple[list[list[Detection]], list[dict[int, str]]]:
    """Objects of a batch of images, and the colours of those that a clause may ask for.

    Args:
        images: uint8 (H, W, 3), of one size.
        records: of each image.

    Returns:
        Detections above `STORED_SCORE` per image, and per image the colour by place among them.
    """
    found = [_stored(d) for d in parts.detector.detect(images)]
    asked = [_needing_color(d, record, parts) for d, record in zip(found, records, strict=True)]
    colors: list[dict[int, str]] = [{} for _ in images]
    if any(asked):
        chosen = [[d[i] for i in places] for d, places in zip(found, asked, strict=True)]
        named = parts.color_classifier.classify(images, chosen)
        colors = [dict(zip(p, n, strict=True)) for p, n in zip(asked, named, strict=True)]
    return found, colors


def _needing_color(
    detections: Sequence[Detection], record: Mapping[str, Any], parts: DetectionParts
) -> list[int]:
    """Places of the detections whose colour a clause may ask for under some thresholds."""
    places = []
    clauses = [c for c in record["include"] if parts.color_every_class or "color" in c]
    for label in sorted({c["class"] for c in clauses}):
        mine = [i for i, d in enumerate(detections) if d.label == label]
        mine.sort(key=lambda i: (detections[i].score, i), reverse=True)
        places += mine[: parts.max_objects]
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
