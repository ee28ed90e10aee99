"""Stored detections: a line per image, from which any thresholds can be judged again."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import BaseModel, ConfigDict

from evals.base import ImageVerdict
from evals.results import DETECTIONS, RESULT, VERDICTS
from evals.suites.rules import DEFAULT_RULES, Judgement, RuleSettings, judge_columns
from evals.verdicts import read_verdicts
from selfe.files import as_json_lines, file_sha256, replacing, write_atomically
from selfe.json_files import JsonFault, read_json_lines
from selfe.sealed_files import read_sealed

PROVENANCE = ".detections.json"
"""Beside a file of detections that `evals.scoring.score` wrote: what it was made from."""
FAILED_SIZE = [0, 0]
"""The size stored for an image that was not finite; it is wrong under any rules."""
FAILED_REASON = "not finite"

Row = dict[str, Any]
"""A line of detections.jsonl, the input of `selfe-bench rescore`:
{"prompt_id", "sample_id", "size": [w, h], "detections": [{"label", "box", "score", "color"}]}"""


def read_detections(path: str | Path, num_prompts: int | None = None) -> list[Row]:
    """All rows of a detections file: `iterate_detections` as a list."""
    return list(iterate_detections(path, num_prompts))


def iterate_detections(path: str | Path, num_prompts: int | None = None) -> Iterator[Row]:
    """The rows of a detections file, in its order, one at a time; a torn last line is dropped.

    Raises:
        ValueError: if a line is malformed, repeats an image or names a prompt the suite does not
            have; names file and line.
    """
    seen: set[tuple[int, int]] = set()
    for number, row in read_json_lines(path, nonfinite=True):
        fault = row_fault(row)
        if fault is None:
            key = (row["prompt_id"], row["sample_id"])
            if key in seen:
                fault = f"a second line for prompt {key[0]}, sample {key[1]}"
            elif num_prompts is not None and key[0] >= num_prompts:
                fault = f"prompt_id {key[0]}, but the suite has {num_prompts} prompts"
            seen.add(key)
        if fault is not None:
            raise ValueError(f"{path}, line {number}: {fault}")
        yield row


def row_fault(row: Any) -> str | None:
    """What is wrong with a parsed line, or None."""
    if not isinstance(row, dict):
        return "not a JSON object"
    for key in ("prompt_id", "sample_id"):
        if type(row.get(key)) is not int or row[key] < 0:
            return f"{key} must be a whole number, at least 0"
    size = row.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(v) is int for v in size):
        return "size must be [width, height]"
    if not isinstance(row.get("detections"), list):
        return "detections must be a list"
    if not _are_usual(row["detections"]):
        for place, item in enumerate(row["detections"]):
            fault = _detection_fault(item)
            if fault is not None:
                return f"detection {place}: {fault}"
    return None


def _are_usual(items: list[Any]) -> bool:
    """A quick yes for what a detector stores: files have hundreds of thousands of detections.

    A no may be wrong. Types are compared as sets, so that no line of Python runs per number.
    """
    try:
        labels, boxes = [d["label"] for d in items], [d["box"] for d in items]
        numbers = [*chain.from_iterable(boxes), *[d["score"] for d in items]]
        colors = [d.get("color") for d in items]
    except (AttributeError, KeyError, TypeError):
        return False
    return (
        {*map(type, items)} <= {dict}
        and {*map(type, labels)} <= {str}
        and {*map(type, boxes)} <= {list}
        and {*map(len, boxes)} <= {4}
        and {*map(type, numbers)} <= {float}
        and {*map(type, colors)} <= {str, NoneType}
        and math.isfinite(sum(numbers))
    )


def _detection_fault(item: Any) -> str | None:
    if not isinstance(item, dict):
        return "not a JSON object"
    if type(item.get("label")) is not str:
        return "label must be text"
    box = item.get("box")
    if type(box) is not list or len(box) != 4 or not all(_is_finite(v) for v in box):
        return "box must be four finite numbers"
    if not _is_finite(item.get("score")):
        return "score must be a finite number"
    color = item.get("color")
    if color is not None and type(color) is not str:
        return "color must be text or null"
    return None


def _is_finite(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or type(value) is int


def judge_row(
    record: Mapping[str, Any], row: Row, settings: RuleSettings = DEFAULT_RULES
) -> Judgement:
    """The verdict on one stored image."""
    if row["size"] == FAILED_SIZE:
        return Judgement(False, FAILED_REASON)
    found = row["detections"]
    return judge_columns(
        record,
        [d["label"] for d in found],
        [d["box"] for d in found],
        [d["score"] for d in found],
        [d.get("color") for d in found],
        settings,
    )


def judge_rows(
    records: Sequence[Mapping[str, Any]],
    rows: Iterable[Row],
    settings: RuleSettings = DEFAULT_RULES,
) -> list[ImageVerdict]:
    """Verdicts in the order of the rows."""
    return list(_judged(records, rows, settings))


def _judged(
    records: Sequence[Mapping[str, Any]], rows: Iterable[Row], settings: RuleSettings
) -> Iterator[ImageVerdict]:
    for row in rows:
        record = records[row["prompt_id"]]
        correct, reason = judge_row(record, row, settings)
        yield ImageVerdict(
            prompt_id=row["prompt_id"],
            sample_id=row["sample_id"],
            tag=record["tag"],
            correct=correct,
            reason=reason,
        )


def write_verdicts(path: str | Path, verdicts: Sequence[ImageVerdict]) -> None:
    write_atomically(path, as_json_lines(v.model_dump() for v in verdicts))


def records_digest(records: Sequence[Mapping[str, Any]]) -> str:
    """sha256 of the records, as scoring writes it beside detections."""
    return hashlib.sha256(as_json_lines(records).encode()).hexdigest()


class _Provenance(BaseModel):
    """What is asked of the file beside detections; it holds more."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    records: str
    detections: str


def _check_records(detections: str | Path, records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a file beside the detections says that they are of these records.

    Raises:
        ValueError: if it says that they are of others, or were others.
    """
    if not Path(detections).with_name(PROVENANCE).exists():
        return False  # moved, or not written by us
    recorded = check_provenance(detections)
    if recorded != records_digest(records):
        raise ValueError(
            f"{detections} was made for other prompts: give the suite, --split and --limit that it "
            "was made with"
        )
    return True


def check_provenance(detections: str | Path) -> str:
    """Compare detections with the file beside them that says what they are.

    Returns:
        `records_digest` of the prompts they were made for.

    Raises:
        ValueError: if that file is damaged, or the detections are not what it says.
    """
    beside = Path(detections).with_name(PROVENANCE)
    try:
        stated = read_sealed(beside, _Provenance, "detections")
    except JsonFault as fault:
        raise ValueError(
            f"{beside} is damaged ({fault.detail}): run the `geneval` command of {detections} "
            "again, or rescore a copy in another folder"
        ) from None
    if file_sha256(detections) != stated.detections:
        raise ValueError(
            f"{detections} is not what was scored any more (cut short, or edited): run its "
            "`geneval` command again, or rescore a copy in another folder"
        )
    return stated.records


def _check_out(out: Path) -> None:
    """Raise ValueError where verdicts would overwrite something else."""
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name a file for the verdicts")
    if (out.parent / RESULT).exists() and out.name in (RESULT, VERDICTS, DETECTIONS, PROVENANCE):
        raise ValueError(
            f"--out {out} is a file of the result in {out.parent}: name another one for the "
            "verdicts under other thresholds"
        )
    if out.exists():
        try:
            read_verdicts(out)
        except (ValueError, OSError):
            raise ValueError(
                f"--out {out} exists and holds no verdicts: name another file"
            ) from None


def rescore(
    records: Sequence[Mapping[str, Any]],
    detections: str | Path,
    out: str | Path,
    settings: RuleSettings = DEFAULT_RULES,
) -> list[ImageVerdict]:
    """As `rescore_file`; returns the verdicts, in the order of the input."""
    verdicts: list[ImageVerdict] = []
    rescore_file(records, detections, out, settings, verdicts.append)
    return verdicts


def rescore_file(
    records: Sequence[Mapping[str, Any]],
    detections: str | Path,
    out: str | Path,
    settings: RuleSettings = DEFAULT_RULES,
    look: Callable[[ImageVerdict], object] = lambda verdict: None,
) -> tuple[int, int]:
    """Apply thresholds and rules to stored detections; a verdict a line, in the order of the input.

    No verdict is held in memory, only the places of the images that were seen.

    Args:
        records: of the suite; a row's prompt_id is a place in this list.
        detections: file of rows.
        out: file of verdicts, written atomically.
        look: called with every verdict.

    Returns:
        How many images are correct, and how many there are.

    Raises:
        ValueError: see `iterate_detections`; if the detections are of other prompts than `records`,
            or not all that were scored, or `out` is the file of detections.
    """
    if Path(out).resolve() == Path(detections).resolve():
        raise ValueError(f"--out {out} is the file of detections itself: verdicts need another one")
    _check_out(Path(out))
    vouched = _check_records(detections, records)
    images: Counter[int] = Counter()
    right = 0
    made = [folder for folder in Path(out).parents if not folder.exists()]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(out) as file:
            rows = iterate_detections(detections, len(records))
            for verdict in _judged(records, rows, settings):
                images[verdict.prompt_id] += 1
                right += verdict.correct
                look(verdict)
                file.write(as_json_lines([verdict.model_dump()]).encode())
            if not vouched:
                _check_complete(detections, images, len(records))
    except ValueError:
        for folder in made:  # what is refused leaves nothing behind
            folder.rmdir()
        raise
    return right, images.total()


def _check_complete(detections: str | Path, images: Counter[int], prompts: int) -> None:
    """Raise ValueError unless every prompt of the suite has as many images as the others."""
    if len(images) != prompts:
        raise ValueError(
            f"{detections} holds images of {len(images)} prompts and the suite has {prompts}: "
            "give the suite, --split and --limit that it was made with"
        )
    fewest, most = min(images.values(), default=0), max(images.values(), default=0)
    if fewest != most:
        prompt = next(p for p, count in images.items() if count == fewest)
        raise ValueError(
            f"{detections} is not complete: prompt {prompt} has {fewest} images, others {most}"
        )
