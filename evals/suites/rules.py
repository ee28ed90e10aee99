"""GenEval's rules: which detections make an image correct for its record. Pure Python.

What follows the published evaluation to the letter, because verdicts hang on it:

* thresholds are strict, and a score equal to the threshold rounded to float32 does not pass
  (detectors give float32 scores, and there the comparison is made in float32);
* of equal scores the later detection comes first (a reversed stable sort);
* only the `count` most confident objects of a class are looked at for colour and position.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from evals.base import Detection, Frozen

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")

Record = Mapping[str, Any]
Box = Sequence[float]


class RuleSettings(Frozen):
    """Thresholds of the rules; the defaults are GenEval's.

    Attributes:
        threshold: an object counts if its score is strictly greater.
        counting_threshold: the same for records of the task "counting".
        max_objects: at most so many objects per class, by score.
        max_overlap: drop objects whose box IoU with a better one of their class reaches this;
            1.0 switches the step off.
        position_threshold: share of the summed sizes by which the offset of centres is reduced.
    """

    threshold: float = Field(default=0.3, ge=0, le=1)
    counting_threshold: float = Field(default=0.9, ge=0, le=1)
    max_objects: int = Field(default=16, ge=1)
    max_overlap: float = Field(default=1.0, ge=0, le=1)
    position_threshold: float = Field(default=0.1, ge=0)

    def score_threshold(self, tag: str) -> float:
        return self.counting_threshold if tag == "counting" else self.threshold


class Judgement(NamedTuple):
    correct: bool
    reason: str
    """Empty for a correct image, else one line per broken clause."""


class FoundObject(NamedTuple):
    """What the rules look at: box (x1, y1, x2, y2) in pixels, and the colour or None."""

    box: Box
    color: str | None


DEFAULT_RULES = RuleSettings()


def judge(
    record: Record, detections: Sequence[Detection], settings: RuleSettings = DEFAULT_RULES
) -> Judgement:
    """Is an image with these detections correct for `record`?

    Args:
        record: tag, include clauses, and exclude clauses if any, as in GenEval's metadata.
        detections: in any order; colours are needed on the classes that a clause gives a colour.
    """
    return judge_columns(
        record,
        [d.label for d in detections],
        [d.box for d in detections],
        [d.score for d in detections],
        [d.color for d in detections],
        settings,
    )


def judge_columns(
    record: Record,
    labels: Sequence[str],
    boxes: Sequence[Box],
    scores: Sequence[float],
    colors: Sequence[str | None],
    settings: RuleSettings = DEFAULT_RULES,
) -> Judgement:
    """`judge` for detections given as columns of equal length: nothing is built per object."""
    include = record["include"]
    exclude = record.get("exclude", ())
    threshold = settings.score_threshold(record["tag"])
    rounded = _as_float32(threshold)
    # Only classes that a clause names can decide anything.
    candidates: dict[str, list[int]] = {clause["class"]: [] for clause in include}
    for clause in exclude:
        candidates.setdefault(clause["class"], [])
    for index, label in enumerate(labels):
        if label in candidates:
            score = scores[index]
            if score > threshold and score != rounded:
                candidates[label].append(index)
    objects: dict[str, list[FoundObject]] = {}
    for label, indices in candidates.items():
        if len(indices) > 1:
            indices = _best_first(indices, scores)[: settings.max_objects]
            if settings.max_overlap < 1.0:
                indices = _without_overlaps(indices, boxes, settings.max_overlap)
        objects[label] = [FoundObject(boxes[i], colors[i]) for i in indices]
    return judge_objects(include, exclude, objects, settings.position_threshold)


def judge_objects(
    include: Sequence[Record],
    exclude: Sequence[Record],
    objects: Mapping[str, Sequence[FoundObject]],
    position_threshold: float,
) -> Judgement:
    """The clauses themselves, on objects that passed the thresholds, most confident first."""
    reasons: list[str] = []
    groups: list[Sequence[FoundObject] | None] = []
    for clause in include:
        found = objects.get(clause["class"], ())[: clause["count"]]
        failure = _include_failure(clause, found, groups, position_threshold)
        if failure is not None:
            reasons.append(failure)
        # A group whose clause failed is no target for later clauses.
        groups.append(found if failure is None else None)
    for clause in exclude:
        number = len(objects.get(clause["class"], ()))
        if number >= clause["count"]:
            reasons.append(f"wanted fewer than {clause['count']} {clause['class']}, found {number}")
    return Judgement(not reasons, "\n".join(reasons))


def _include_failure(
    clause: Record,
    found: Sequence[FoundObject],
    groups: Sequence[Sequence[FoundObject] | None],
    position_threshold: float,
) -> str | None:
    name, count = clause["class"], clause["count"]
    if len(found) < count:
        return f"wanted {count} {name}, found {len(found)}"
    if "color" in clause:
        wanted = clause["color"]
        number = sum(o.color == wanted for o in found)
        if number < count:
            seen = ", ".join(o.color or "not classified" for o in found)
            return f"wanted {count} {wanted} {name}, found {number} (colours: {seen})"
    if "position" in clause:
        wanted, target_group = clause["position"]
        targets = groups[target_group]
        if targets is None:
            return f"no target for {name} to be {wanted}"
        for candidate in found:
            for target in targets:
                relations = relative_position(candidate.box, target.box, position_threshold)
                if wanted not in relations:
                    seen = " and ".join(r for r in RELATIONS if r in relations) or "no relation"
                    return f"wanted {name} {wanted} target, found {seen}"
    return None


def relative_position(box: Box, target: Box, position_threshold: float = 0.1) -> set[str]:
    """Relations in which `box` stands to `target`; boxes are (x1, y1, x2, y2), y pointing down.

    Per axis the offset of centres is reduced towards 0 by `position_threshold` times the sum of the
    two sizes; a component beyond half of the Euclidean norm of the *unreduced* offset names a
    relation. None if both reduced components are below 1e-3 pixels.
    """
    off_x = (box[0] + box[2]) / 2 - (target[0] + target[2]) / 2
    off_y = (box[1] + box[3]) / 2 - (target[1] + target[3]) / 2
    width = abs(box[2] - box[0]) + abs(target[2] - target[0])
    height = abs(box[3] - box[1]) + abs(target[3] - target[1])
    reduced_x = max(abs(off_x) - position_threshold * width, 0.0)
    reduced_y = max(abs(off_y) - position_threshold * height, 0.0)
    if reduced_x < 1e-3 and reduced_y < 1e-3:
        return set()
    norm = math.sqrt(off_x * off_x + off_y * off_y)
    relations = set()
    if reduced_x / norm > 0.5:
        relations.add("left of" if off_x < 0 else "right of")
    if reduced_y / norm > 0.5:
        relations.add("above" if off_y < 0 else "below")
    return relations


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two pixel boxes whose last row and column belong to them (+1)."""
    area_a = _area(a[0], a[1], a[2], a[3])
    area_b = _area(b[0], b[1], b[2], b[3])
    shared = _area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area_a + area_b - shared
    return shared / union if union else 0.0


def _area(x1: float, y1: float, x2: float, y2: float) -> float:
    return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)


def _best_first(indices: Sequence[int], scores: Sequence[float]) -> list[int]:
    """By falling score; of equal scores the later one first."""
    return sorted(indices, key=lambda i: (scores[i], i), reverse=True)


def _without_overlaps(indices: list[int], boxes: Sequence[Box], max_overlap: float) -> list[int]:
    """Greedy suppression: the best stays, and what overlaps it by `max_overlap` or more goes."""
    kept = []
    while indices:
        best, *rest = indices
        kept.append(best)
        indices = [i for i in rest if box_iou(boxes[best], boxes[i]) < max_overlap]
    return kept


def _as_float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def check_record(record: Record) -> None:
    """Refuse a record the rules cannot judge.

    Raises:
        ValueError: says what is wrong with it.
    """
    for key in ("tag", "prompt"):
        if not isinstance(record.get(key), str):
            raise ValueError(f"the record needs {key!r} as text")
    if not isinstance(record.get("include"), list) or not record["include"]:
        raise ValueError("the record needs 'include' as a non-empty list of clauses")
    exclude = record.get("exclude", [])
    if not isinstance(exclude, list):
        raise ValueError("'exclude' must be a list of clauses")
    for clause in [*record["include"], *exclude]:
        if not isinstance(clause, dict) or not isinstance(clause.get("class"), str):
            raise ValueError("every clause needs a 'class'")
        count = clause.get("count")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"the clause of {clause['class']!r} needs a 'count' of at least 1")
    for place, clause in enumerate(record["include"]):
        if "position" in clause:
            _check_position(clause["position"], place)


def _check_position(position: Any, place: int) -> None:
    if not isinstance(position, (list, tuple)) or len(position) != 2:
        raise ValueError("'position' must be [relation, number of an earlier clause]")
    relation, target = position
    if relation not in RELATIONS:
        raise ValueError(f"unknown relation {relation!r} (known: {', '.join(RELATIONS)})")
    if not isinstance(target, int) or not 0 <= target < place:
        raise ValueError(f"'position' of clause {place} must point to an earlier clause")
